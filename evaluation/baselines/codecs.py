"""The codecs of others that can be run beside ours.

A new one takes about ten lines::

    class Codec2(Baseline):
        name = "codec2"
        coded_name = "coded.c2"
        alternatives = (Programs(("c2enc", "c2dec"), "codec2"),)

        def nearest_rate(self, kbps: float) -> float:
            return nearest(kbps, (1.2, 2.4, 3.2))

        def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
            ...

        def payload(self, data: bytes, kbps: float) -> Payload:
            ...

and its place in `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.config import SAMPLE_RATE
from codec.io.wav import to_int16
from evaluation.baselines.base import (
    DECODED,
    SOURCE,
    Baseline,
    nearest,
    whole_bytes,
)
from evaluation.baselines.containers import (
    Payload,
    lc3_payload,
    opus_demo_payload,
    opus_payload,
    speex_payload,
)
from evaluation.baselines.programs import BaselineError, Command, Programs

_FFMPEG = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]


class Opus(Baseline):
    """Opus (RFC 6716): voip, 20 ms, complexity 10, hard constant bitrate, wideband at most.

    Packets are whole bytes, so that rates are multiples of 0.4 kbit/s. `opusenc` tunes for
    general audio even with ``--speech``: the control request 4000 sets the application to voip
    and 4004 the highest bandwidth to wideband (1103), as for an encoder fed with 16 kHz;
    `opusenc` resamples to 48 kHz first. `opusdec` honours the pre-skip and resamples back.

    In voip mode the encoder starts with a high-pass filter at 60 Hz or more, which the FIR mapping
    of 513 taps is too short to undo. Such a filter alone, without any coding, leaves a pSNR of
    20 dB on average, 6 dB for a clip with hum; as "audio", Opus has 1 to 5 dB more.
    """

    name = "opus"
    application = ("voip", 2048)  # as ffmpeg and as libopus call it; the other is "audio", 2049
    coded_name = "coded.opus"
    alternatives = (
        Programs(("opusenc", "opusdec"), "opus-tools"),
        Programs(("ffmpeg",), "ffmpeg", "libopus"),
    )

    def nearest_rate(self, kbps: float) -> float:
        """Return a multiple of 0.4 kbit/s from 6 to 256."""
        return whole_bytes(kbps, frame_ms=20, min_bytes=15, max_bytes=640)  # 6 to 256 kbit/s

    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        """Return those of opusenc and opusdec, or of ffmpeg both ways."""
        if programs.package == "ffmpeg":
            encode = [*_FFMPEG, "-i", SOURCE, "-c:a", "libopus", "-b:a", f"{1000 * kbps:.0f}"]
            encode += ["-vbr", "off", "-application", self.application[0]]
            encode += ["-frame_duration", "20", "-compression_level", "10", self.coded_name]
            decode = [*_FFMPEG, "-c:a", "libopus", "-i", self.coded_name]
            return encode, [*decode, "-ar", str(SAMPLE_RATE), "-c:a", "pcm_s16le", DECODED]
        encode = ["opusenc", "--quiet", "--hard-cbr", "--bitrate", f"{kbps:g}", "--comp", "10"]
        encode += ["--framesize", "20", "--speech"]
        encode += ["--set-ctl-int", f"4000={self.application[1]}", "--set-ctl-int", "4004=1103"]
        encode += [SOURCE, self.coded_name]
        decode = ["opusdec", "--quiet", "--no-dither", "--rate", str(SAMPLE_RATE)]
        return encode, [*decode, self.coded_name, DECODED]

    def payload(self, data: bytes, kbps: float) -> Payload:
        """Count the packets after the two header packets."""
        return opus_payload(data)


class OpusAudio(Opus):
    """The same with libopus's application "audio": no high-pass filter, no tuning for speech."""

    name = "opus-audio"
    application = ("audio", 2049)


class OpusLace(Baseline):
    """Opus from version 1.5 on with LACE, a network in the decoder that enhances speech.

    `opus_demo` of libopus, built with ``--enable-osce``: voip, 20 ms, complexity 10, hard constant
    bitrate. Bandwidth is held at wideband, where the enhancer runs: left alone, the encoder picks
    narrowband at 8 and 9.6 kbit/s, and the decoder is the plain one. Decoder complexity 6 is LACE,
    7 NoLACE. A decoder that was built without them takes no notice of it.
    """

    name = "opus-lace"
    decoder_complexity = 6
    coded_name = "coded.bit"
    alternatives = (Programs(("opus_demo",), "none; libopus 1.5 or later, --enable-osce"),)

    def nearest_rate(self, kbps: float) -> float:
        """Return a multiple of 0.4 kbit/s from 6 to 256."""
        return whole_bytes(kbps, frame_ms=20, min_bytes=15, max_bytes=640)

    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        """Return those of opus_demo both ways."""
        encode = ["opus_demo", "-e", "voip", str(SAMPLE_RATE), "1", f"{1000 * kbps:.0f}", "-cbr"]
        encode += ["-framesize", "20", "-complexity", "10", "-bandwidth", "WB"]
        decode = ["opus_demo", "-d", str(SAMPLE_RATE), "1"]
        decode += ["-dec_complexity", str(self.decoder_complexity)]
        return [*encode, SOURCE, self.coded_name], [*decode, self.coded_name, DECODED]

    def payload(self, data: bytes, kbps: float) -> Payload:
        """Count the packets without their lengths."""
        return opus_demo_payload(data)

    def write_source(self, path: Path, wave: NDArray[np.float32]) -> None:
        """Write samples of 16 bits without a header."""
        path.write_bytes(to_int16(wave).tobytes())

    def read_decoded(self, path: Path, program: str) -> NDArray[np.float32]:
        """Read samples of 16 bits without a header."""
        data = path.read_bytes() if path.is_file() else b""
        if not data or len(data) % 2:
            raise BaselineError(f"{self.name}: {program} wrote no samples of 16 bits")
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


class OpusNoLace(OpusLace):
    """The same with NoLACE, the larger network."""

    name = "opus-nolace"
    decoder_complexity = 7


class Lc3(Baseline):
    """LC3 (Bluetooth LE Audio) at 16 kHz, frames of 10 ms and 20 to 400 bytes: 16 to 320 kbit/s."""

    name = "lc3"
    coded_name = "coded.lc3"
    alternatives = (Programs(("elc3", "dlc3"), "liblc3-tools"),)

    def nearest_rate(self, kbps: float) -> float:
        """Return a multiple of 0.8 kbit/s from 16 to 320."""
        return whole_bytes(kbps, frame_ms=10, min_bytes=20, max_bytes=400)

    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        """Return those of elc3 and dlc3."""
        encode = ["elc3", "-b", f"{1000 * kbps:.0f}", "-m", "10", SOURCE, self.coded_name]
        return encode, ["dlc3", self.coded_name, DECODED]

    def payload(self, data: bytes, kbps: float) -> Payload:
        """Count the frames without their lengths."""
        return lc3_payload(data)


class Speex(Baseline):
    """Speex wideband, frames of 20 ms, complexity 10, constant bitrate, one of eleven qualities.

    Rates are those of its packets, which are whole bytes: up to 0.25 kbit/s above the bits that
    the Speex manual gives for its modes.
    """

    name = "speex"
    coded_name = "coded.spx"
    alternatives = (Programs(("speexenc", "speexdec"), "speex"),)
    # --quality 0 to 10: packets of 10, 15, 20, 25, 32, 42, 52, 60, 70, 86 and 106 bytes
    quality_kbps = (4.0, 6.0, 8.0, 10.0, 12.8, 16.8, 20.8, 24.0, 28.0, 34.4, 42.4)

    def nearest_rate(self, kbps: float) -> float:
        """Return the rate of one of the eleven qualities."""
        return nearest(kbps, self.quality_kbps)

    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        """Return those of speexenc and speexdec."""
        quality = self.quality_kbps.index(self.nearest_rate(kbps))
        encode = ["speexenc", "--wideband", "--quality", str(quality), "--comp", "10"]
        return [*encode, SOURCE, self.coded_name], ["speexdec", self.coded_name, DECODED]

    def payload(self, data: bytes, kbps: float) -> Payload:
        """Count the packets after the header packets."""
        return speex_payload(data)


class G722(Baseline):
    """ITU-T G.722 by ffmpeg: 64 kbit/s, or 56 and 48 without the last bits of each codeword.

    ffmpeg's encoder only makes 64 kbit/s: a codeword of 8 bits for two samples. The other two
    modes of G.722 give its last one or two bits to other data; the decoder is told so, and here
    those bits are set to zero besides, so that nothing of them can get through.
    """

    name = "g722"
    coded_name = "coded.g722"
    alternatives = (Programs(("ffmpeg",), "ffmpeg", "g722"),)

    def nearest_rate(self, kbps: float) -> float:
        """Return 48, 56 or 64 kbit/s."""
        return nearest(kbps, (48.0, 56.0, 64.0))

    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        """Return those of ffmpeg both ways."""
        encode = [*_FFMPEG, "-i", SOURCE, "-c:a", "g722", "-f", "g722", self.coded_name]
        decode = [*_FFMPEG, "-c:a", "g722", "-bits_per_codeword", str(self._bits(kbps))]
        decode += ["-f", "g722", "-i", self.coded_name, "-ar", str(SAMPLE_RATE)]
        return encode, [*decode, "-c:a", "pcm_s16le", DECODED]

    def payload(self, data: bytes, kbps: float) -> Payload:
        """Count the bits of the codewords that are sent."""
        if not data:
            raise ValueError("it is empty")
        num_bytes = -(-len(data) * self._bits(kbps) // 8)
        return Payload(num_bytes, len(data), 2 / SAMPLE_RATE)

    def sent(self, data: bytes, kbps: float) -> bytes:
        """Return the codewords with the bits that are not sent set to zero."""
        mask = 0xFF << (8 - self._bits(kbps)) & 0xFF
        return data.translate(bytes(byte & mask for byte in range(256)))

    def _bits(self, kbps: float) -> int:
        return round(self.nearest_rate(kbps) / 8)


BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline
    for baseline in (Opus, OpusAudio, OpusLace, OpusNoLace, Lc3, Speex, G722)
}


def make_baseline(name: str) -> Baseline:
    """Return the codec of that name.

    Raises
    ------
    ValueError   there is none; the message names those that there are
    """
    try:
        return BASELINES[name]()
    except KeyError:
        raise ValueError(f"unknown codec {name!r}; choose from {', '.join(BASELINES)}") from None


def find_installed(names: Sequence[str]) -> tuple[list[Baseline], list[str]]:
    """Return the codecs of these names that are installed, and what the others need.

    Raises
    ------
    ValueError      a name is unknown
    BaselineError   codecs were asked for and none is installed
    """
    installed, missing = [], []
    for baseline in [make_baseline(name) for name in names]:  # a wrong name comes first
        try:
            baseline.check()
            installed.append(baseline)
        except BaselineError as exc:
            missing.append(str(exc))
    if missing and not installed:
        raise BaselineError(f"none of these is installed: {'; '.join(missing)}")
    return installed, missing
