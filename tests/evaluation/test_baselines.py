"""Baselines: real programs where installed, rates, containers, and how programs can fail."""

from __future__ import annotations

import os
import pickle
import re
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from codec.io.audio import read_audio
from evaluation import metrics
from evaluation.alignment import align, fir_map
from evaluation.baselines import codecs, programs
from evaluation.baselines.base import Baseline, Coded, nearest
from evaluation.baselines.codecs import BASELINES, find_installed, make_baseline
from evaluation.baselines.containers import (
    Payload,
    lc3_payload,
    ogg_packets,
    opus_payload,
    speex_payload,
)
from evaluation.baselines.programs import BaselineError, Command, Programs

DEMO_SPEECH = Path(__file__).resolve().parents[2] / "demo" / "speech"
ASKED = [8, 9.6, 13.2, 16.4, 24.4, 32]


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path, monkeypatch):
    """Give the programs a temporary directory of their own, and find it empty after each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(DEMO_SPEECH / "rms.flac")[0]


def installed(name: str) -> Baseline:
    """Return the baseline, or skip the test and say what is missing."""
    baseline = make_baseline(name)
    try:
        baseline.check()
    except BaselineError as exc:
        pytest.skip(str(exc))
    return baseline


class OpusByFfmpeg(codecs.Opus):
    """Opus where opus-tools are not installed."""

    alternatives = codecs.Opus.alternatives[1:]


# ---------------------------------------------------------------------------- real programs


@pytest.mark.parametrize(
    ("name", "kbps"),
    [
        ("opus", 8.0), ("opus", 24.4), ("opus", 32.0), ("opus-lace", 13.2), ("opus-nolace", 13.2),
        ("lc3", 16.0), ("lc3", 32.0),
        ("speex", 8.0), ("speex", 24.0), ("speex", 42.4),
        ("g722", 48.0), ("g722", 64.0),
    ],
)  # fmt: skip
def test_real_programs_meet_their_rate_and_give_speech(name: str, kbps: float, speech) -> None:
    coded = installed(name).code(speech, kbps)
    check_speech(coded, kbps, speech)


def check_speech(coded: Coded, kbps: float, speech: np.ndarray) -> None:
    assert coded.measured_kbps == pytest.approx(kbps, rel=1e-3)
    assert coded.num_frames * coded.frame_s == pytest.approx(coded.duration_s)
    assert speech.size / 16000 <= coded.duration_s < speech.size / 16000 + 0.1
    assert coded.encode_s > 0 and coded.decode_s > 0
    assert coded.wave.dtype == np.float32 and coded.wave.ndim == 1
    steps = coded.wave.astype(np.float64) * 32768
    assert np.array_equal(steps, np.rint(steps))  # 16 bits
    aligned, delay = align(speech, coded.wave)
    assert abs(delay) < 400
    assert np.abs(aligned[-800:]).max() > 0  # the codec's delay has not eaten the end
    assert metrics.estoi(speech, aligned) > (0.85 if kbps >= 24 else 0.7)
    # Without alignment it would be 0 dB. Speex keeps little of the wave form at 8 kbit/s.
    assert metrics.psnr(speech, fir_map(speech, aligned)) > (5 if kbps > 12 else 1)


def test_opus_is_run_as_voip() -> None:
    """Opus for general audio has no high-pass filter: other scores, by several dB of pSNR."""
    for kind in codecs.Opus.alternatives:
        encode, _ = make_baseline("opus").commands(kind, 16.4)
        voip = ["-application", "voip"] if kind.package == "ffmpeg" else ["4000=2048"]
        assert set(voip) <= set(encode)
        encode, _ = make_baseline("opus-audio").commands(kind, 16.4)
        audio = ["-application", "audio"] if kind.package == "ffmpeg" else ["4000=2049"]
        assert set(audio) <= set(encode) and not set(voip) <= set(encode)


def test_opus_audio_keeps_the_lowest_frequencies(speech) -> None:
    """A hum of 40 Hz is filtered away by voip, and comes through in audio."""
    time = np.arange(speech.size) / 16000
    hum = (speech + 0.1 * np.sin(2 * np.pi * 40 * time)).astype(np.float32)
    levels = {}
    for name in ("opus", "opus-audio"):
        wave = align(hum, installed(name).code(hum, 32.0).wave)[0]
        levels[name] = 2 * abs(np.mean(wave * np.exp(-2j * np.pi * 40 * time)))
    assert levels["opus-audio"] == pytest.approx(0.1, rel=0.15)
    assert levels["opus"] < 0.06


def test_opus_by_ffmpeg_does_as_opusenc(speech) -> None:
    installed("opus")
    by_ffmpeg = OpusByFfmpeg()
    try:
        by_ffmpeg.check()
    except BaselineError as exc:
        pytest.skip(str(exc))
    coded = by_ffmpeg.code(speech, 24.4)
    check_speech(coded, 24.4, speech)
    other = make_baseline("opus").code(speech, 24.4)
    assert other.payload_bytes == pytest.approx(coded.payload_bytes, rel=0.02)
    aligned = [align(speech, c.wave)[0] for c in (coded, other)]
    scores = [metrics.pesq_wb(speech, wave) for wave in aligned]
    assert scores[0] == pytest.approx(scores[1], abs=0.15)


def test_more_rate_more_quality(speech) -> None:
    baseline = installed("lc3")
    scores = [
        metrics.estoi(speech, align(speech, baseline.code(speech, kbps).wave)[0])
        for kbps in baseline.rates([16, 24, 48])
    ]
    assert scores == sorted(scores) and scores[-1] > scores[0] + 0.02


@pytest.mark.parametrize("name", BASELINES)
def test_short_silent_and_loud_clips(name: str, speech) -> None:
    baseline = installed(name)
    square = np.where(np.arange(4000) // 40 % 2, 1.0, -1.0).astype(np.float32)
    clips = {
        "one sample": speech[8000:8001],
        "10 ms": speech[8000:8160],
        "silence": np.zeros(3200, np.float32),
        "full scale": square,
        "beyond full scale": 3 * square,
        "edge": np.full(1000, -1, np.float32),
    }
    for what, clip in clips.items():
        coded = baseline.code(clip, 24.4)
        assert coded.wave.size >= clip.size, what
        assert np.abs(coded.wave).max() <= 1, what
        nominal = baseline.nearest_rate(24.4)
        assert coded.measured_kbps == pytest.approx(nominal, rel=2e-3), what
        if what == "silence":
            assert np.abs(coded.wave).max() < 0.01
        if what == "full scale":
            assert np.abs(coded.wave).max() > 0.9


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.zeros(0), "shape"),
        (np.zeros((2, 100)), "shape"),
        (np.full(100, np.nan), "NaN or infinite"),
        (np.full(100, np.inf), "NaN or infinite"),
    ],
)
def test_clips_that_cannot_be_coded(clip: np.ndarray, reason: str) -> None:
    with pytest.raises(BaselineError, match=f"^fake: .*{reason}") as caught:
        Fake().code(clip, 8)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- names and rates


def test_registry() -> None:
    assert list(BASELINES) == [
        "opus", "opus-audio", "opus-lace", "opus-nolace", "lc3", "speex", "g722",
    ]  # fmt: skip
    for name, kind in BASELINES.items():
        baseline = make_baseline(name)
        assert type(baseline) is kind and baseline.name == name
        assert type(pickle.loads(pickle.dumps(baseline))) is kind
    with pytest.raises(ValueError, match="'mp3'.*opus-audio, opus-lace, opus-nolace, lc3"):
        make_baseline("mp3")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("opus", {8: 8, 9.6: 9.6, 13.2: 13.2, 16.4: 16.4, 24.4: 24.4, 9.5: 9.6, 1: 6, 900: 256}),
        ("lc3", {8: 16, 16.4: 16, 16.5: 16.8, 24.4: 24, 32: 32, 1000: 320}),
        ("speex", {1: 4, 8: 8, 9.6: 10, 13.2: 12.8, 16.4: 16.8, 24.4: 24, 32: 34.4, 99: 42.4}),
        ("g722", {8: 48, 32: 48, 52: 48, 52.1: 56, 64: 64, 128: 64}),
    ],
)
def test_nearest_rate(name: str, expected: dict[float, float]) -> None:
    baseline = make_baseline(name)
    for asked, nominal in expected.items():
        assert baseline.nearest_rate(asked) == nominal
        assert baseline.nearest_rate(nominal) == nominal
    assert baseline.rates([]) == []
    for bad in (0, -8, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive number"):
            baseline.nearest_rate(bad)


def test_rates_are_sorted_and_each_once() -> None:
    assert make_baseline("opus").rates(ASKED[::-1]) == ASKED
    assert make_baseline("lc3").rates(ASKED) == [16, 24, 32]
    assert make_baseline("speex").rates(ASKED) == [8, 10, 12.8, 16.8, 24, 34.4]
    assert make_baseline("g722").rates(ASKED) == [48]


# ---------------------------------------------------------------------------- containers


def ogg_page(lacing: list[int], body: bytes, flags: int = 0, serial: int = 7) -> bytes:
    """Return one page; the checksum is left zero."""
    header = struct.pack("<4sBBqIII", b"OggS", 0, flags, 0, serial, 0, 0)
    return header + bytes([len(lacing), *lacing]) + body


HEADERS = ogg_page([8], b"OpusHead", flags=2) + ogg_page([8], b"OpusTags")
CELT_20 = bytes([31 << 3])  # one frame of 20 ms


def test_ogg_packets_run_over_segments_and_pages() -> None:
    packet_a, packet_b, packet_c = b"a" * 300, b"b" * 255, b"c" * 520
    data = ogg_page([255, 45, 255, 0, 255], packet_a + packet_b + packet_c[:255])
    data += ogg_page([255, 10, 0, 1], packet_c[255:] + b"d", flags=1)
    assert list(ogg_packets(data)) == [packet_a, packet_b, packet_c, b"", b"d"]
    assert list(ogg_packets(b"")) == []


def test_opus_payload_counts_packets_not_pages() -> None:
    two_frames = bytes([31 << 3 | 1]) + bytes(99)
    three_frames = bytes([31 << 3 | 3, 3]) + bytes(58)
    audio = ogg_page([41, 100, 60], CELT_20 + bytes(40) + two_frames + three_frames)
    assert opus_payload(HEADERS + audio) == (41 + 100 + 60, 1 + 2 + 3, 0.02)


def test_opus_frame_durations() -> None:
    durations = {0: 0.01, 9: 0.02, 11: 0.06, 12: 0.01, 15: 0.02, 16: 0.0025, 18: 0.01}
    for mode, seconds in durations.items():
        packet = bytes([mode << 3]) + bytes(9)
        assert opus_payload(HEADERS + ogg_page([10], packet)) == (10, 1, seconds)


def test_speex_payload_leaves_out_all_headers() -> None:
    header = bytearray(80)
    header[:8] = b"Speex   "
    struct.pack_into("<I", header, 36, 16000)
    struct.pack_into("<4I", header, 56, 320, 0, 2, 1)  # 2 frames a packet, 1 more header packet
    data = ogg_page([80], bytes(header), flags=2) + ogg_page([5, 6], bytes(11))
    data += ogg_page([42, 42, 42], bytes(126))
    assert speex_payload(data) == (126, 6, 0.02)


def lc3_file(*frames: bytes) -> bytes:
    header = struct.pack("<9H", 0xCC1C, 18, 160, 160, 1, 1000, 0, 480, 0)
    return header + b"".join(struct.pack("<H", len(frame)) + frame for frame in frames)


def test_lc3_payload_leaves_out_header_and_lengths() -> None:
    assert lc3_payload(lc3_file(bytes(20), bytes(20), bytes(21))) == (61, 3, pytest.approx(0.01))


def test_g722_counts_the_bits_that_are_sent() -> None:
    baseline = make_baseline("g722")
    codewords = bytes([0xFF, 0x12, 0x03, 0x80] * 4)
    assert baseline.payload(codewords, 64) == (16, 16, 0.000125)
    assert baseline.payload(codewords, 48) == (12, 16, 0.000125)
    assert baseline.payload(codewords[:3], 56) == (3, 3, 0.000125)  # 21 bits
    assert baseline.sent(codewords, 64) == codewords
    assert baseline.sent(codewords, 48) == bytes([0xFC, 0x10, 0x00, 0x80] * 4)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (opus_payload, b""),
        (opus_payload, b"RIFF" + bytes(40)),
        (opus_payload, HEADERS),
        (opus_payload, HEADERS + b"OggS"),
        (opus_payload, HEADERS + ogg_page([41], bytes(40))),
        (opus_payload, HEADERS + ogg_page([255], bytes(255))),
        (opus_payload, HEADERS + ogg_page([20, 20], bytes(40))[:28]),
        (opus_payload, HEADERS + ogg_page([41], bytes(41), flags=1)),
        (opus_payload, HEADERS + ogg_page([41], bytes(41), serial=8)),
        (opus_payload, HEADERS + ogg_page([0], b"")),
        (opus_payload, HEADERS + ogg_page([1], b"\xff")),
        (opus_payload, HEADERS + ogg_page([10, 10], bytes(10) + CELT_20 + bytes(9))),
        (speex_payload, HEADERS + ogg_page([41], bytes(41))),
        (speex_payload, ogg_page([80], b"Speex   " + bytes(72)) + ogg_page([4, 9], bytes(13))),
        (lc3_payload, b""),
        (lc3_payload, bytes(64)),
        (lc3_payload, lc3_file()),
        (lc3_payload, lc3_file(bytes(20))[:-1]),
        (lc3_payload, lc3_file(bytes(20)) + b"\1"),
        (lc3_payload, lc3_file(b"")),
    ],
)
def test_damaged_containers(parse, data: bytes) -> None:
    with pytest.raises(ValueError) as caught:
        parse(data)
    assert str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("parse", [opus_payload, speex_payload, lc3_payload])
def test_random_bytes_in_containers_raise_only_value_errors(parse) -> None:
    rng = np.random.default_rng(0)
    whole = {
        opus_payload: HEADERS + ogg_page([41, 41], (CELT_20 + bytes(40)) * 2),
        speex_payload: ogg_page([80], b"Speex   " + bytes(72)) + ogg_page([4, 9], bytes(13)),
        lc3_payload: lc3_file(bytes(20), bytes(20)),
    }[parse]
    for _ in range(300):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        try:
            assert parse(bytes(data)).num_bytes >= 0
        except ValueError as exc:
            assert "\n" not in str(exc)


# ---------------------------------------------------------------------------- failing programs


class Fake(Baseline):
    """A codec of 8 bits a sample; its two programs are scripts that the tests write."""

    name = "fake"
    coded_name = "coded.fake"
    alternatives = (Programs(("fakeenc", "fakedec"), "fake-tools"),)

    def nearest_rate(self, kbps: float) -> float:
        return nearest(kbps, (128.0,))

    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        encode = ["fakeenc", "source.wav", self.coded_name]
        return encode, ["fakedec", self.coded_name, "decoded.wav"]

    def payload(self, data: bytes, kbps: float) -> Payload:
        if data[:4] != b"FAKE":
            raise ValueError("no FAKE at its start")
        return Payload(len(data) - 4, len(data) - 4, 1 / 16000)


ENCODE = """
import sys
pcm = open(sys.argv[1], "rb").read()[44:]
open(sys.argv[2], "wb").write(b"FAKE" + pcm[1::2])
"""
DECODE = """
import sys, wave
data = open(sys.argv[1], "rb").read()[4:]
with wave.open(sys.argv[2], "wb") as out:
    out.setparams((1, 2, RATE, 0, "NONE", ""))
    out.writeframes(b"".join(bytes([0, byte]) for byte in data))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that writes the fake programs and puts them first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(name: str, text: str, shell: bool = False) -> None:
        first = "#!/bin/sh" if shell else f"#!{sys.executable} -S"
        path = folder / name
        path.write_text(f"{first}\n{text}\n")
        path.chmod(0o755)

    write("fakeenc", ENCODE)
    write("fakedec", DECODE.replace("RATE", "16000"))
    return write


def ramp() -> np.ndarray:
    return np.linspace(-0.5, 0.5, 8000, dtype=np.float32)


def failure(baseline: Baseline, clip: np.ndarray | None = None) -> str:
    """Return the message of the BaselineError that coding raises; it is one line."""
    with pytest.raises(BaselineError) as caught:
        baseline.code(ramp() if clip is None else clip, 8)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{baseline.name}: ")
    assert str(pickle.loads(pickle.dumps(caught.value))) == message  # travels from workers
    return message


def test_a_new_codec_works(fake) -> None:
    Fake().check()
    coded = Fake().code(ramp(), 8)
    assert coded.measured_kbps == 128 and coded.num_frames == 8000 + 640
    assert np.abs(coded.wave[:8000] - ramp()).max() < 0.01
    assert 0 < coded.encode_s < 5 and 0 < coded.decode_s < 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opus", "opus: needs opusenc and opusdec (package opus-tools), "
                 "or ffmpeg with libopus (package ffmpeg)"),
        ("lc3", "lc3: needs elc3 and dlc3 (package liblc3-tools)"),
        ("speex", "speex: needs speexenc and speexdec (package speex)"),
        ("g722", "g722: needs ffmpeg with g722 (package ffmpeg)"),
    ],
)  # fmt: skip
def test_missing_programs_are_named(name, message, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BaselineError) as caught:
        make_baseline(name).check()
    assert str(caught.value) == message
    assert failure(make_baseline(name)) == message


OPUS_DEMO = """
import sys
log = open(LOG, "a"); log.write(" ".join(sys.argv[1:]) + "\\n")
source, target = sys.argv[-2:]
data = open(source, "rb").read()
if sys.argv[1] == "-e":
    size = int(sys.argv[5]) * 20 // 8000
    out = b""
    for start in range(0, len(data), 640):
        block = data[start : start + 640]
        kept = bytes([0x48]) + block[1::10][: size - 1].ljust(size - 1, b"\\0")
        out += len(kept).to_bytes(4, "big") + bytes(4) + kept
    open(target, "wb").write(out)
else:
    out, position = b"", 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        kept = data[position + 9 : position + 8 + size]
        out += b"".join(bytes([0, byte]) * 5 for byte in kept).ljust(640, b"\\0")[:640]
        position += 8 + size
    open(target, "wb").write(out)
"""


@pytest.mark.parametrize(("name", "complexity"), [("opus-lace", "6"), ("opus-nolace", "7")])
def test_opus_demo_is_run_with_its_enhancers(fake, tmp_path, name: str, complexity: str) -> None:
    """A stand-in that takes opus_demo's arguments and writes its format."""
    fake("opus_demo", OPUS_DEMO.replace("LOG", repr(str(tmp_path / "log"))))
    coded = make_baseline(name).code(ramp(), 24.4)
    assert coded.measured_kbps == pytest.approx(24.4)
    assert coded.frame_s == 0.02 and coded.num_frames == 27  # of half a second, and the tail
    encode, decode = ((tmp_path / "log").read_text()).splitlines()
    assert encode.startswith(
        "-e voip 16000 1 24400 -cbr -framesize 20 -complexity 10 -bandwidth WB"
    )
    assert decode.startswith(f"-d 16000 1 -dec_complexity {complexity} ")
    assert abs(float(coded.wave[0]) + 0.5) < 0.02  # no header was taken for samples
    fake("opus_demo", "open(__import__('sys').argv[-1], 'wb').write(b'odd')")
    assert "opus_demo wrote a bad file: cut off" in failure(make_baseline(name))


def test_those_that_are_installed_are_found(fake, monkeypatch) -> None:
    class Gone(Fake):
        name = "gone"
        alternatives = (Programs(("no-such-program",), "no-such-package"),)

    monkeypatch.setattr(codecs, "BASELINES", {"fake": Fake, "gone": Gone})
    needs = "gone: needs no-such-program (package no-such-package)"
    found, missing = find_installed(["gone", "fake"])
    assert [type(baseline) for baseline in found] == [Fake] and missing == [needs]
    assert find_installed([]) == ([], [])
    with pytest.raises(BaselineError, match=re.escape(f"none of these is installed: {needs}")):
        find_installed(["gone"])
    with pytest.raises(ValueError, match="unknown codec 'mp3'"):
        find_installed(["gone", "mp3"])


def test_half_a_pair_is_not_enough(tmp_path, monkeypatch) -> None:
    (tmp_path / "elc3").write_text("#!/bin/sh\n")
    (tmp_path / "elc3").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BaselineError, match="elc3 and dlc3"):
        make_baseline("lc3").check()


def test_an_ffmpeg_without_the_encoder_is_not_enough(fake) -> None:
    fake("ffmpeg", "echo \"Codec 'libopus' is not recognized by FFmpeg.\"", shell=True)
    with pytest.raises(BaselineError, match="ffmpeg with libopus"):
        OpusByFfmpeg().check()


def test_an_ffmpeg_with_the_encoder_is_enough(fake) -> None:
    fake("ffmpeg", "echo 'Encoder libopus [libopus Opus]:'", shell=True)
    OpusByFfmpeg().check()


@pytest.mark.parametrize("program", ["fakeenc", "fakedec"])
def test_exit_code_and_last_words(program: str, fake) -> None:
    said = "first\\n 10 %%\\r 20 %%\\r\\033[1mdisk  broken\\n\\n"
    fake(program, f"printf '{said}' >&2; exit 3", shell=True)
    assert failure(Fake()) == f"fake: {program} failed with exit code 3: [1mdisk broken"
    fake(program, "exit 4", shell=True)
    assert failure(Fake()) == f"fake: {program} failed with exit code 4"
    fake(program, "echo oops >&2; kill -11 $$", shell=True)
    assert failure(Fake()) == f"fake: {program} was killed by signal 11: oops"


@pytest.mark.parametrize("program", ["fakeenc", "fakedec"])
def test_no_output_and_garbage(program: str, fake) -> None:
    fake(program, "exit 0", shell=True)
    assert failure(Fake()) == f"fake: {program} wrote no output"
    fake(program, "echo garbage > $2", shell=True)
    assert failure(Fake()).startswith(f"fake: {program} wrote ")
    fake(program, ": > $2", shell=True)
    assert failure(Fake()).startswith(f"fake: {program} wrote ")


def test_real_parsers_meet_garbage(fake) -> None:
    for name, pair in {"opus": ("opusenc", "opusdec"), "lc3": ("elc3", "dlc3"),
                           "speex": ("speexenc", "speexdec")}.items():  # fmt: skip
        for program in pair:
            fake(program, 'for last; do :; done; echo garbage > "$last"', shell=True)
        assert failure(make_baseline(name)).startswith(f"{name}: {pair[0]} wrote a bad file: ")


def test_output_at_another_rate(fake) -> None:
    fake("fakedec", DECODE.replace("RATE", "8000"))
    assert "at 8000 Hz, not one channel at 16000 Hz" in failure(Fake())


def test_output_that_ends_early(fake) -> None:
    fake("fakedec", DECODE.replace("RATE", "16000").replace("[4:]", "[4:1604]"))
    assert failure(Fake()) == "fake: fakedec gave only 0.10 s of the clip"
    fake("fakeenc", ENCODE.replace("[1::2]", "[1:3200:2]"))
    assert failure(Fake()) == "fake: fakeenc gave only 0.10 s of the clip"


def test_not_a_program(fake) -> None:
    fake("fakeenc", "")
    path = Path(os.environ["PATH"].split(os.pathsep)[0]) / "fakeenc"
    path.write_bytes(b"\x7fELF not really")
    assert failure(Fake()).startswith("fake: fakeenc cannot be started (")


def test_a_program_that_hangs_is_stopped_with_its_children(fake, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(programs, "TIMEOUT_S", 0.3)
    fake("fakeenc", f"echo waiting >&2; (sleep 1; touch {tmp_path}/alive) & sleep 30", shell=True)
    start = time.perf_counter()
    assert failure(Fake()) == "fake: fakeenc was stopped after 0.3 s: waiting"
    assert time.perf_counter() - start < 10
    time.sleep(1.2)
    assert not (tmp_path / "alive").exists()


def test_ctrl_c_stops_the_program_and_cleans_up(fake, monkeypatch, tmp_path) -> None:
    fake("fakeenc", f"sleep 0.5; touch {tmp_path}/alive", shell=True)

    def interrupted(pid: int, options: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "wait4", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Fake().code(ramp(), 8)
    time.sleep(0.7)
    assert not (tmp_path / "alive").exists()


def test_cpu_seconds_are_those_of_the_program(fake) -> None:
    fake("fakeenc", ENCODE + "\nimport time\nend = time.process_time() + 0.2\n"
                             "while time.process_time() < end: pass")  # fmt: skip
    fake("fakedec", DECODE.replace("RATE", "16000") + "\nimport time\ntime.sleep(0.3)")
    coded = Fake().code(ramp(), 8)
    assert coded.encode_s >= 0.2
    assert coded.decode_s < coded.encode_s  # waiting is not computing


def test_names_with_spaces_reach_no_shell(tmp_path, monkeypatch, fake) -> None:
    odd = tmp_path / "a b;$(touch c)"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    assert Fake().code(ramp(), 8).num_frames == 8640
    assert list(odd.iterdir()) == [] and not (tmp_path / "c").exists()


def test_a_disk_that_cannot_be_written(fake, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert failure(Fake()).startswith("fake: temporary files cannot be used (")
