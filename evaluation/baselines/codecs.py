"""Run other codecs' programs on a clip, so that `codec eval` can set them beside ours.

Each peer is a small class: the programs it needs, the rates it offers, the two commands, and a
parser of the encoder's file. The parser counts the bytes of the codec proper, never those of the
container, so that no peer is charged for Ogg pages or file headers. Settings are the same for all:
mono speech at 16 kHz, constant bitrate, best effort, no discontinuous transmission.

A new peer takes about ten lines::

    class Codec2(Peer):
        name = "codec2"
        coded_name = "coded.c2"
        alternatives = (Programs(("c2enc", "c2dec"), "codec2"),)

        def nearest_rate(self, kbps: float) -> float:
            return nearest(kbps, (1.2, 2.4, 3.2))

        def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
            ...

        def payload(self, data: bytes, kbps: float) -> Payload:
            ...

and its place in `PEERS`. Delay and fixed filtering of the decoded wave are left as they are:
`metrics.align` and `metrics.fir_map` deal with them.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec.audio import AudioError, write_wav

SAMPLE_RATE = 16000
TIMEOUT_S = 60.0  # for one run of one program

SOURCE, DECODED = "source.wav", "decoded.wav"  # names in the peer's temporary directory
_LOG = "stderr.txt"
# Silence after the clip: what a codec's delay holds back at the end still comes out of it.
_TAIL_SAMPLES = 640
_MAX_DELAY_SAMPLES = 4000  # as far as metrics.align searches

Command = list[str]


class PeerError(RuntimeError):
    """A peer's program is missing or failed; the message is one line for the user."""


@dataclass(frozen=True)
class Coded:
    """What a peer made of one clip.

    wave : float32 array, shape [any], 16 kHz, full scale ±1, 16 bits; delayed, perhaps longer
    payload_bytes : int, packets of the codec proper, without the container
    num_frames : int, frames that those bytes code
    frame_s : float, seconds of audio in a frame
    encode_s, decode_s : float, CPU seconds of the two programs, their start and their reading
        and writing of files included
    """

    wave: NDArray[np.float32]
    payload_bytes: int
    num_frames: int
    frame_s: float
    encode_s: float
    decode_s: float

    @property
    def duration_s(self) -> float:
        """Seconds of audio that the payload stands for, a little more than the clip has."""
        return self.num_frames * self.frame_s

    @property
    def measured_kbps(self) -> float:
        """Payload bits per second of the frames that they code, in kbit/s.

        Not per second of the clip: the last frame is filled up, and frames are added for the
        codec's delay, which would charge short clips with more than the codec takes on the wire.
        """
        return 8e-3 * self.payload_bytes / self.duration_s


class Payload(NamedTuple):
    """What a coded file holds beside its container: bytes, frames, seconds per frame."""

    num_bytes: int
    num_frames: int
    frame_s: float


class Programs(NamedTuple):
    """Programs that together run a peer, and the Debian package that brings them."""

    names: tuple[str, ...]
    package: str
    encoder: str = ""  # ffmpeg only: the encoder that must be built in

    def describe(self) -> str:
        """Return for example "opusenc and opusdec (package opus-tools)"."""
        built_in = f" with {self.encoder}" if self.encoder else ""
        return f"{' and '.join(self.names)}{built_in} (package {self.package})"

    def complete(self) -> bool:
        """Return whether all of them are found in PATH, with what they must have built in."""
        paths = [shutil.which(name) for name in self.names]
        if any(path is None for path in paths):
            return False
        return not self.encoder or _has_encoder(str(paths[0]), self.encoder)


def nearest(kbps: float, offered: Sequence[float]) -> float:
    """Return the offered rate closest to `kbps`, the lower one of two as close."""
    return min(sorted(offered), key=lambda rate: round(abs(rate - _valid_rate(kbps)), 9))


def whole_bytes(kbps: float, frame_ms: int, min_bytes: int, max_bytes: int) -> float:
    """Return the rate closest to `kbps` whose frames are whole bytes, within the two limits.

    Of two as close it is the lower: LC3 has 20 or 21 bytes for 16.4 kbit/s, and `elc3` takes 20.
    """
    exact = _valid_rate(kbps) * frame_ms / 8
    num_bytes = min(max(math.ceil(exact - 0.5 - 1e-9), min_bytes), max_bytes)
    return 8 * num_bytes / frame_ms


def _valid_rate(kbps: float) -> float:
    if not (math.isfinite(kbps) and kbps > 0):
        raise ValueError(f"a rate must be a positive number of kbit/s, got {kbps}")
    return float(kbps)


class Peer(ABC):
    """One codec of others, run as a program. Instances hold no state and can be pickled."""

    name: ClassVar[str]
    coded_name: ClassVar[str]  # of the coded file; some programs go by its suffix
    alternatives: ClassVar[tuple[Programs, ...]]  # the first that is installed is used

    @abstractmethod
    def nearest_rate(self, kbps: float) -> float:
        """Return the nominal rate, in kbit/s, that the codec offers nearest to `kbps`.

        Raises
        ------
        ValueError   `kbps` is not a positive number
        """

    @abstractmethod
    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        """Return the commands `SOURCE` → `coded_name` and `coded_name` → `DECODED`."""

    @abstractmethod
    def payload(self, data: bytes, kbps: float) -> Payload:
        """Count the bytes of the codec proper in a coded file.

        Raises
        ------
        ValueError   this is not such a file; the message is a phrase ("no Ogg page at byte 0")
        """

    def sent(self, data: bytes, kbps: float) -> bytes:
        """Return what of the coded file reaches the decoder; for most codecs, all of it."""
        return data

    def rates(self, asked: Sequence[float]) -> list[float]:
        """Return the nearest rates to those asked for, sorted, each once."""
        return sorted({self.nearest_rate(kbps) for kbps in asked})

    def check(self) -> None:
        """Check that the programs are installed.

        Raises
        ------
        PeerError   they are not; one line that names them and the Debian packages
        """
        self._installed()

    def _installed(self) -> Programs:
        for programs in self.alternatives:
            if programs.complete():
                return programs
        wanted = ", or ".join(programs.describe() for programs in self.alternatives)
        raise PeerError(f"{self.name}: needs {wanted}")

    def code(self, wave: ArrayLike, kbps: float) -> Coded:
        """Encode and decode a clip with the codec's own programs, through 16-bit WAV files.

        Parameters
        ----------
        wave : float array, shape [T], mono, 16 kHz, clipped to ±1
        kbps : float, nominal rate; the nearest that the codec offers is used

        Returns
        -------
        Coded

        Raises
        ------
        PeerError    program missing, failed, too slow or without usable output; wave is empty,
                     not one channel or not finite
        ValueError   `kbps` is not a positive number
        """
        samples = np.asarray(wave, dtype=np.float32)
        if samples.ndim != 1 or samples.size == 0:
            raise PeerError(f"{self.name}: a clip must have shape [T], not {samples.shape}")
        if not np.isfinite(samples).all():
            raise PeerError(f"{self.name}: the clip has NaN or infinite samples")
        rate = self.nearest_rate(kbps)
        programs = self._installed()
        encode, decode = self.commands(programs, rate)
        padded = np.concatenate([samples, np.zeros(_TAIL_SAMPLES, np.float32)])
        try:
            with tempfile.TemporaryDirectory(prefix="codec-peer-") as folder:
                write_wav(Path(folder) / SOURCE, padded, SAMPLE_RATE)
                encode_s = self._run(encode, folder)
                coded_path = Path(folder) / self.coded_name
                if not coded_path.is_file():
                    raise PeerError(f"{self.name}: {encode[0]} wrote no output")
                data = coded_path.read_bytes()
                try:
                    payload = self.payload(data, rate)
                except ValueError as exc:
                    raise PeerError(f"{self.name}: {encode[0]} wrote a bad file: {exc}") from exc
                coded_path.write_bytes(self.sent(data, rate))
                decode_s = self._run(decode, folder)
                decoded = self._read_decoded(Path(folder) / DECODED, decode[0])
        except AudioError as exc:
            raise PeerError(f"{self.name}: {exc}") from exc
        except OSError as exc:
            reason = exc.strerror or exc
            raise PeerError(f"{self.name}: temporary files cannot be used ({reason})") from exc
        clip_s = samples.size / SAMPLE_RATE
        self._check_length(encode[0], payload.num_frames * payload.frame_s, clip_s)
        late_s = _MAX_DELAY_SAMPLES / SAMPLE_RATE
        self._check_length(decode[0], decoded.size / SAMPLE_RATE, clip_s - late_s)
        return Coded(decoded, *payload, encode_s, decode_s)

    def _check_length(self, program: str, seconds: float, least: float) -> None:
        """Refuse the output of a program that stopped before the end of the clip."""
        if seconds < least:
            raise PeerError(f"{self.name}: {program} gave only {seconds:.2f} s of the clip")

    def _read_decoded(self, path: Path, program: str) -> NDArray[np.float32]:
        import soundfile

        if not path.is_file():
            raise PeerError(f"{self.name}: {program} wrote no output")
        try:
            samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as exc:
            raise PeerError(f"{self.name}: {program} wrote no readable WAV file") from exc
        if rate != SAMPLE_RATE or samples.shape[1] != 1 or samples.shape[0] == 0:
            raise PeerError(
                f"{self.name}: {program} wrote {samples.shape[0]} samples of "
                f"{samples.shape[1]} channels at {rate} Hz, not one channel at {SAMPLE_RATE} Hz"
            )
        return samples[:, 0].astype(np.float32) / np.float32(32768)

    def _run(self, command: Command, folder: str) -> float:
        """Run one program in `folder` and return its CPU seconds, or raise PeerError."""
        try:
            return _run_program(command, folder)
        except PeerError as exc:
            raise PeerError(f"{self.name}: {exc}") from exc


# ---------------------------------------------------------------------------- running programs


def _run_program(command: Command, folder: str, output: str | None = None) -> float:
    """Run `command` in `folder`, its stdout going to the file `output` there, if named.

    No shell, no input. The program leads its own process group, so that on time-out or Ctrl-C its
    children go with it.

    Returns
    -------
    float, CPU seconds (user and system) of the program and of the children it waited for

    Raises
    ------
    PeerError   not found, exit code other than 0, or still running after `TIMEOUT_S`
    OSError     the log cannot be written
    """
    program, log = command[0], Path(folder) / _LOG
    path = shutil.which(program)
    if path is None:
        raise PeerError(f"{program} is not installed any more")
    with contextlib.ExitStack() as files:
        stderr = files.enter_context(log.open("wb"))
        stdout = files.enter_context((Path(folder) / output).open("wb")) if output else None
        try:
            process = subprocess.Popen(
                [os.path.abspath(path), *command[1:]],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout or subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as exc:
            raise PeerError(f"{program} cannot be started ({exc.strerror or exc})") from exc
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill(process)

    timer = threading.Timer(TIMEOUT_S, expire)
    timer.daemon = True
    try:
        timer.start()
        # Popen.wait would poll, up to 50 ms late, and would not tell this child's CPU time.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        timer.cancel()
        if process.returncode is None:
            _kill(process)
            process.wait()
    if process.returncode != 0:
        if expired.is_set():
            what = f"{program} was stopped after {TIMEOUT_S:g} s"
        elif process.returncode < 0:
            what = f"{program} was killed by signal {-process.returncode}"
        else:
            what = f"{program} failed with exit code {process.returncode}"
        said = _last_line(log)
        raise PeerError(f"{what}: {said}" if said else what)
    return usage.ru_utime + usage.ru_stime


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _last_line(log: Path, max_bytes: int = 4096) -> str:
    """Return the last line of a program's stderr, printable, at most 200 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - max_bytes))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # str.splitlines also cuts at the carriage returns of progress bars.
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()]
    said = [" ".join(line.split()) for line in lines if line.strip()]
    return said[-1][-200:] if said else ""


@lru_cache(maxsize=16)
def _has_encoder(ffmpeg: str, encoder: str) -> bool:
    """Ask an ffmpeg whether it was built with an encoder."""
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-h", f"encoder={encoder}"]
    try:
        with tempfile.TemporaryDirectory(prefix="codec-peer-") as folder:
            _run_program(command, folder, "help.txt")
            text = (Path(folder) / "help.txt").read_bytes()
    except (PeerError, OSError):
        return False
    return text.startswith(f"Encoder {encoder} ".encode())


# ---------------------------------------------------------------------------- containers


def ogg_packets(data: bytes) -> Iterator[bytes]:
    """Yield the packets of an Ogg file of one stream, header packets first (RFC 3533).

    Checksums are left to the codec's own decoder.

    Raises
    ------
    ValueError   not Ogg, cut off, or more than one stream
    """
    position, serial = 0, None
    parts: list[bytes] = []
    while position < len(data):
        if data[position : position + 5] != b"OggS\0":
            raise ValueError(f"no Ogg page at byte {position}")
        header = data[position + 5 : position + 27]
        lacing = data[position + 27 : position + 27 + (header[21] if len(header) == 22 else 0)]
        if len(header) < 22 or len(lacing) < header[21]:
            raise ValueError("cut off within the header of an Ogg page")
        if serial not in (None, header[9:13]):
            raise ValueError("more than one Ogg stream")
        serial = header[9:13]
        if bool(header[0] & 1) != bool(parts):
            raise ValueError("an Ogg page that others continue is missing")
        position += 27 + len(lacing)
        if position + sum(lacing) > len(data):
            raise ValueError("cut off within an Ogg page")
        for length in lacing:
            parts.append(data[position : position + length])
            position += length
            if length < 255:  # 255 means that the packet goes on in the next segment
                yield b"".join(parts)
                parts = []
    if parts:
        raise ValueError("cut off within an Ogg packet")


def opus_payload(data: bytes) -> Payload:
    """Count the packets of an Ogg Opus file after its two header packets (RFC 7845).

    Raises
    ------
    ValueError   not Ogg Opus, no audio packets, or frames of several durations
    """
    packets = list(ogg_packets(data))
    if len(packets) < 3 or packets[0][:8] != b"OpusHead" or packets[1][:8] != b"OpusTags":
        raise ValueError("no Opus packets in it")
    frames = [_opus_frames(packet) for packet in packets[2:]]
    durations = {frame_s for _, frame_s in frames}
    if len(durations) != 1:
        raise ValueError("Opus frames of several durations in it")
    num_frames = sum(count for count, _ in frames)
    return Payload(sum(map(len, packets[2:])), num_frames, durations.pop())


def _opus_frames(packet: bytes) -> tuple[int, float]:
    """Return how many frames a packet has and their seconds, from its first bytes (RFC 6716, 3)."""
    if not packet:
        raise ValueError("an empty Opus packet in it")
    mode, code = packet[0] >> 3, packet[0] & 3
    if mode < 12:
        frame_s = (0.010, 0.020, 0.040, 0.060)[mode % 4]
    elif mode < 16:
        frame_s = (0.010, 0.020)[mode % 2]
    else:
        frame_s = (0.0025, 0.005, 0.010, 0.020)[mode % 4]
    if code < 3:
        return (1, 2, 2)[code], frame_s
    if len(packet) < 2 or not packet[1] & 63:
        raise ValueError("an Opus packet without frames in it")
    return packet[1] & 63, frame_s


def speex_payload(data: bytes) -> Payload:
    """Count the packets of an Ogg Speex file after its header packets.

    Raises
    ------
    ValueError   not Ogg Speex, or no audio packets
    """
    packets = list(ogg_packets(data))
    if not packets or packets[0][:8] != b"Speex   " or len(packets[0]) < 72:
        raise ValueError("no Speex header in it")
    rate = struct.unpack_from("<I", packets[0], 36)[0]
    frame_size, _, frames_per_packet, extra_headers = struct.unpack_from("<4I", packets[0], 56)
    audio = packets[2 + extra_headers :]
    if not (audio and rate and frame_size and frames_per_packet):
        raise ValueError("no Speex packets in it")
    num_bytes = sum(map(len, audio))
    return Payload(num_bytes, len(audio) * frames_per_packet, frame_size / rate)


def lc3_payload(data: bytes) -> Payload:
    """Count the frames of a file of liblc3's tools: a header, then frames of a 16-bit length each.

    The header (16-bit words, little-endian): 0xCC1C, header size in bytes, sample rate / 100 Hz,
    bitrate / 100, channels, frame duration in units of 10 µs, ... (tools/lc3bin.c of liblc3).

    Raises
    ------
    ValueError   not such a file, cut off, or no frames
    """
    if len(data) < 18 or data[:2] != b"\x1c\xcc":
        raise ValueError("no LC3 header in it")
    header_size, _, _, _, frame_10us = struct.unpack_from("<5H", data, 2)
    if header_size < 18 or not frame_10us:
        raise ValueError("a damaged LC3 header")
    position, num_bytes, num_frames = header_size, 0, 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 2], "little")
        position += 2 + size
        num_bytes, num_frames = num_bytes + size, num_frames + 1
    if position != len(data) or not num_bytes:
        raise ValueError("cut off within an LC3 frame" if num_bytes else "no LC3 frames in it")
    return Payload(num_bytes, num_frames, frame_10us * 1e-5)


# ---------------------------------------------------------------------------- the peers

_FFMPEG = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]


class Opus(Peer):
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


class Lc3(Peer):
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


class Speex(Peer):
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


class G722(Peer):
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


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Opus, OpusAudio, Lc3, Speex, G722)}


def make_peer(name: str) -> Peer:
    """Return the peer of that name.

    Raises
    ------
    ValueError   there is none; the message names those that there are
    """
    try:
        return PEERS[name]()
    except KeyError:
        raise ValueError(f"unknown peer {name!r}; choose from {', '.join(PEERS)}") from None
