"""Standard input: what is recognised, coded while it comes in, kept when it is stopped."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import BitstreamError, Codec
from codec.bitstream import read_header, read_stream
from codec.errors import AudioError
from codec.io.sniff import is_audio_file
from codec.io.wav import Samples, to_int16, wav_header
from codec.pieces import DecodeOptions, EncodeOptions, Outcome, decode_stream
from codec.pipe import encode_pipe

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, str(ROOT / "cli.py")]


@pytest.fixture(scope="module")
def pcm(speech: np.ndarray) -> np.ndarray:
    """1.5 s of speech, int16; no whole number of packets."""
    return to_int16(speech[: 24000 + 77])


def as_float(pcm: np.ndarray) -> np.ndarray:
    return pcm.astype(np.float32) / np.float32(32768)


def container(pcm: np.ndarray, kind: str, rate: int = 16000) -> bytes:
    buffer = io.BytesIO()
    if kind == "raw":
        return pcm.astype("<i2").tobytes()
    if kind == "endless wav":  # as programs write it that do not know how much will come
        return wav_header(rate) + pcm.astype("<i2").tobytes()
    if kind == "wav of no length":
        return wav_header(rate, 0) + pcm.astype("<i2").tobytes()
    if kind == "stereo wav":
        soundfile.write(buffer, np.stack([pcm, pcm], 1), rate, format="WAV")
    elif kind == "wav of doubles":
        soundfile.write(buffer, as_float(pcm), rate, format="WAV", subtype="DOUBLE")
    elif kind == "rifx":
        soundfile.write(buffer, pcm, rate, format="WAV", endian="BIG")
    else:
        soundfile.write(buffer, pcm, rate, format=kind.upper())
    return buffer.getvalue()


def encode(
    codec: Codec, source: object, options: EncodeOptions | None = None, **more: object
) -> tuple[bytes, Outcome]:
    source = io.BytesIO(source) if isinstance(source, bytes) else source
    pieces: list[bytes] = []
    outcome = encode_pipe(codec, source, pieces.append, options or EncodeOptions(), **more)  # type: ignore[arg-type]
    return b"".join(pieces), outcome


def decode(
    codec: Codec, data: object, options: DecodeOptions | None = None
) -> tuple[bytes, Outcome]:
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    out, outcome = Pipe(), Outcome(Path("-"), Path("-"))
    decode_stream(codec, source, out, options or DecodeOptions(), outcome, seekable=False)  # type: ignore[arg-type]
    return out.getvalue(), outcome


class Pipe(io.BytesIO):
    """Bytes that are written, and cannot be gone back in."""

    def seek(self, *_: object) -> int:
        raise OSError("a pipe")


class Slowly(io.RawIOBase):
    """A file that gives what is asked for in pieces of odd sizes."""

    def __init__(self, data: bytes, seed: int) -> None:
        self.data, self.rng = data, np.random.default_rng(seed)

    def read(self, size: int = -1) -> bytes:
        taken = len(self.data) if size < 0 else int(self.rng.integers(1, min(size, 3000) + 1))
        piece, self.data = self.data[:taken], self.data[taken:]
        return piece


# --- encode ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, word",
    [
        ("raw", "taken as 16-bit samples"),
        ("wav", ""),
        ("endless wav", ""),
        ("wav of no length", "announces no audio"),
        ("wav of doubles", ""),
        ("stereo wav", "downmixed"),
        ("flac", "read to its end"),
        ("rifx", "read to its end"),
        ("nist", "read to its end"),
        ("aiff", "read to its end"),
        ("au", "read to its end"),
        ("w64", "read to its end"),
        ("caf", "read to its end"),
        ("rf64", ""),
    ],
)
def test_any_input_gives_the_same_stream(
    codec: Codec, pcm: np.ndarray, kind: str, word: str
) -> None:
    data, outcome = encode(codec, container(pcm, kind), EncodeOptions(16.4))
    assert (outcome.num_samples, outcome.sample_rate) == (len(pcm), 16000)
    assert outcome.num_bytes == len(data)
    assert len(outcome.notes) == (word != "")
    assert all(word in note for note in outcome.notes)
    offline = codec.encode(as_float(pcm), 16000, 16.4)
    header, packets = read_stream(data)
    assert packets == read_stream(offline)[1]
    assert header.num_samples == len(pcm)
    assert header.open_end == ("its end" not in word)  # those had to be read to their end first


@pytest.mark.parametrize("intra_only", [False, True])
def test_pieces_of_any_size(codec: Codec, pcm: np.ndarray, intra_only: bool) -> None:
    raw = container(pcm, "raw")
    options = EncodeOptions(intra_only=intra_only)
    coded, _ = encode(codec, Slowly(raw, 1), options)
    out, outcome = decode(codec, Slowly(coded, 2), DecodeOptions(format="raw"))
    offline = codec.encode(as_float(pcm), 16000, 13.2, independent=intra_only)
    wanted = to_int16(codec.decode(offline))
    assert outcome.num_samples == len(pcm)
    np.testing.assert_array_equal(np.frombuffer(out, "<i2"), wanted)


@pytest.mark.parametrize("length", [0, 1, 160, 161, 320])
def test_short_streams(codec: Codec, pcm: np.ndarray, length: int) -> None:
    raw = Samples("s16le", 16000, 1)
    coded, _ = encode(codec, container(pcm[:length], "raw"), EncodeOptions(8.0), raw=raw)
    out, outcome = decode(codec, coded)
    assert outcome.num_samples == length
    assert out[:44] == wav_header(16000, length)
    assert len(out) == 44 + 2 * length


def test_a_file_that_can_seek_gets_an_ordinary_header(codec: Codec, pcm: np.ndarray) -> None:
    file = io.BytesIO()
    source = io.BytesIO(container(pcm, "raw"))
    encode_pipe(codec, source, file.write, EncodeOptions(), seek=file.seek)
    assert file.getvalue() == codec.encode(as_float(pcm), 16000, 13.2)


@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_other_rates_are_resampled_while_they_come_in(
    codec: Codec, pcm: np.ndarray, rate: int, vbr: bool
) -> None:
    options = EncodeOptions(13.2, vbr=vbr)
    coded, outcome = encode(codec, Slowly(container(pcm, "wav", rate), 3), options)
    assert (outcome.num_samples, outcome.sample_rate) == (len(pcm), rate)
    assert outcome.notes == [f"resampled from {rate} to 16000 Hz"]
    offline = codec.encode(as_float(pcm), rate, 13.2, vbr)
    assert read_stream(coded)[1] == read_stream(offline)[1]
    for wanted, length in ((None, len(pcm)), (16000, -(-len(pcm) * 16000 // rate))):
        out, outcome = decode(codec, coded, DecodeOptions(wanted))
        assert outcome.num_samples == length
        assert out[:44] == wav_header(wanted or rate, length)


def test_samples_of_any_kind(codec: Codec, pcm: np.ndarray) -> None:
    """With --raw nothing is guessed: samples may look like anything."""
    data = np.stack([pcm, pcm], 1).astype("<f4") / 32768
    coded, outcome = encode(codec, data.tobytes(), raw=Samples("f32le", 16000, 2))
    assert outcome.notes == ["downmixed 2 channels to mono"]
    assert read_stream(coded)[1] == read_stream(codec.encode(as_float(pcm)))[1]
    text = b"This is a text, and 16-bit samples if one says so. " * 40
    assert encode(codec, text, raw=Samples("s16le", 16000, 1))[1].num_samples == len(text) // 2
    with pytest.raises(AudioError, match="NaN"):
        encode(codec, np.full(10, np.nan, "<f4").tobytes(), raw=Samples("f32le", 16000, 1))


def test_channels_of_a_pipe(codec: Codec, pcm: np.ndarray) -> None:
    """The downmix is chosen by the first second of sound, and stays."""
    silence = np.zeros(8000, np.int16)
    left = np.concatenate([silence, pcm])
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([left, -left], 1), 16000, format="WAV")
    coded, outcome = encode(codec, buffer.getvalue())
    assert "channel 2 with the sign changed" in outcome.notes[0]
    offline = codec.encode(as_float(left))
    assert read_stream(coded)[1] == read_stream(offline)[1]
    coded, outcome = encode(codec, buffer.getvalue(), EncodeOptions(channel=1))
    assert read_stream(coded)[1] == read_stream(offline)[1]


def test_a_cut_wav_is_said(codec: Codec, pcm: np.ndarray) -> None:
    data = container(pcm, "wav")
    _, outcome = encode(codec, data[:-1001])
    assert outcome.num_samples == len(pcm) - 501
    assert outcome.notes == [
        f"the file is cut off: {2 * len(pcm) - 1001} of {2 * len(pcm)} bytes of audio are there "
        "and are used"
    ]
    assert encode(codec, data[:-1])[1].notes == []
    ogg = container(pcm, "ogg")
    _, outcome = encode(codec, ogg[: len(ogg) * 3 // 4])
    assert outcome.notes[0] == "the file is cut off: what is there is used"


def test_what_follows_the_samples_is_read_and_left_out(codec: Codec, pcm: np.ndarray) -> None:
    """Or whoever writes would be told that nobody listens."""
    data = container(pcm, "wav") + b"LIST" + (200_000).to_bytes(4, "little") + bytes(200_000)
    source = io.BytesIO(data)
    assert encode(codec, source)[1].num_samples == len(pcm)
    assert source.read() == b""
    empty = wav_header(16000, 0) + b"LIST\4\0\0\0text"
    assert encode(codec, empty)[1].num_samples == 0


def test_input_that_fails_is_kept_up_to_there(codec: Codec, pcm: np.ndarray) -> None:
    """What came through a pipe cannot come again."""
    x = as_float(pcm).astype("<f4")
    x[-100] = np.nan
    coded, outcome = encode(codec, Slowly(x.tobytes(), 4), raw=Samples("f32le", 16000, 1))
    assert outcome.error == "standard input: has NaN or infinite samples; repair it first"
    assert outcome.num_samples == len(pcm) - 100
    offline = codec.encode(x[: outcome.num_samples])
    assert read_stream(coded)[1] == read_stream(offline)[1]

    class Breaks(Slowly):
        def read(self, size: int = -1) -> bytes:
            if not self.data:
                raise OSError(5, "Input/output error")
            return super().read(size)

    _, outcome = encode(codec, Breaks(container(pcm, "raw"), 5), raw=Samples("s16le", 16000, 1))
    assert outcome.num_samples == len(pcm) and "Input/output error" in outcome.error
    with pytest.raises(OSError):
        encode(codec, Breaks(b"", 5), raw=Samples("s16le", 16000, 1))


@pytest.mark.parametrize("bad", [5000, 20000])
def test_sound_before_a_bad_sample_is_kept(codec: Codec, pcm: np.ndarray, bad: int) -> None:
    """Also what was held back until the downmix of several channels is chosen."""
    x = np.repeat(as_float(pcm)[:, None], 2, axis=1).astype("<f4")
    x = np.concatenate([x] * (30000 // len(x) + 1))
    x[bad, 1] = 1e30
    _, outcome = encode(codec, Slowly(x.tobytes(), 1 << 16), raw=Samples("f32le", 16000, 2))
    assert outcome.num_samples == bad
    assert "has samples of 1e+30" in outcome.error


def test_bytes_that_are_left_out_are_said(codec: Codec, pcm: np.ndarray) -> None:
    raw = Samples("s32le", 16000, 2)
    assert encode(codec, bytes(8 * 500 + 5), raw=raw)[1].notes[0].startswith("5 bytes at the end")
    data = container(pcm, "wav") + b"\xee" * 100
    assert encode(codec, data)[1].notes == ["100 bytes behind the announced audio are left out"]


# --- what is recognised ---------------------------------------------------------------------------


def mp3(pcm: np.ndarray, rate: int) -> bytes:
    data = container(pcm, "mp3", rate)
    return data[data.index(b"\xff") :]


def test_mp3_without_a_tag(codec: Codec, pcm: np.ndarray) -> None:
    for rate in (16000, 44100, 48000, 8000):
        assert is_audio_file(mp3(pcm, rate)[:4096])
    _, outcome = encode(codec, mp3(pcm, 16000))
    assert abs(outcome.num_samples - len(pcm)) < 3000


def test_samples_that_begin_like_an_mp3_frame(codec: Codec, pcm: np.ndarray) -> None:
    data = b"\xff\xfb\x90\x00" + container(pcm, "raw")
    _, outcome = encode(codec, data)
    assert outcome.num_samples == len(pcm) + 2


@pytest.mark.parametrize(
    "head, word",
    [
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "MP4, M4A or MOV"),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0", "WebM or Matroska"),
        (2 * (b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(9)), "AAC"),
        (b"<!DOCTYPE html><html><head><title>404</title></head></html>\n", "HTML"),
        (b"\n\n  <?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey", "HTML or XML"),
        (b'{"error": "not found", "status": 404}', "text"),
        (b"NSVQ\4\x18", "coded stream already"),
        (b"\xff\xfe<\0h\0t\0m\0l\0>\0" + 20 * b" \0", "HTML"),
        ("<p>Die Datei wurde nicht gefunden: \u00e4\u00f6\u00fc</p>".encode(), "HTML"),
        (b"gone\n", "text"),
        (b"PK\x03\x04\x14\0\0\0", "ZIP"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"%PDF-1.7\n", "PDF"),
    ],
)
def test_what_is_no_audio_is_not_coded_as_noise(codec: Codec, head: bytes, word: str) -> None:
    with pytest.raises(AudioError, match=f"standard input: is {word}|standard input: is .*{word}"):
        encode(
            codec, head if word in ("text", "HTML") or head[:1] == b"\xff" else head + bytes(100)
        )


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", bytes(512), b"\0\1HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("container", ["WAV", "AIFF", "FLAC", "OGG"])
def test_a_container_behind_other_bytes_is_not_coded_as_noise(
    codec: Codec, pcm: np.ndarray, before: bytes, container: str
) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm[:1000], 16000, format=container)
    with pytest.raises(AudioError, match=f"has {len(before)} bytes before an audio file"):
        encode(codec, before + buffer.getvalue())


def test_noise_is_taken_as_samples() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        assert not is_audio_file(rng.bytes(64))
    for amplitude in (1, 3, 100, 3000, 30000):
        sound = (amplitude * rng.standard_normal((300, 512))).clip(-32768, 32767).astype("<i2")
        assert not any(is_audio_file(row.tobytes()) for row in sound)
    assert not is_audio_file(b"") and not is_audio_file(bytes(64))


# --- decode ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 300])
def test_a_wav_in_a_pipe_has_its_true_length(codec: Codec, pcm: np.ndarray, cut: int) -> None:
    """A file knows it before the first sample; one with an open end if it can be read twice."""
    closed = codec.encode(as_float(pcm), 44100)
    coded, _ = encode(codec, container(pcm, "raw"))
    for data, rate in ((closed, 16000), (closed, None), (coded, 16000), (coded, None)):
        options = DecodeOptions(rate, salvage=bool(cut))
        out, outcome = decode(codec, data[: len(data) - cut], options)
        assert len(out) == 44 + 2 * outcome.num_samples
        assert out[:44] == wav_header(outcome.sample_rate, outcome.num_samples)
    out, outcome = decode(codec, Slowly(coded, 0))
    assert out[:44] == wav_header(16000)  # there is no way to know


def test_faults_are_said(codec: Codec, pcm: np.ndarray) -> None:
    with pytest.raises(AudioError, match="standard input"):
        encode(codec, b"fLaC" + bytes(100))
    data, _ = encode(codec, container(pcm, "raw"))
    damaged = bytearray(data)
    damaged[500] ^= 1
    for wrong, message in (
        (b"", "cut off|empty"), (b"hello there", "not a file of this codec"),
        (data[:10], "cut off"), (data[:700], "cut off"), (data[:-1], "cut off"),
        (bytes(damaged), "damaged between 0.0 s and 1.0 s"),
    ):  # fmt: skip
        with pytest.raises(BitstreamError, match=message):
            decode(codec, wrong)


# --- processes ------------------------------------------------------------------------------------


def run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*CLI, *arguments], input=data, capture_output=True, timeout=120)


def test_a_pipe_that_brings_nothing(tmp_path: Path) -> None:
    target = str(tmp_path / "a.bin")
    result = run("encode", "-", target)
    assert (result.returncode, os.path.exists(target)) == (2, False)
    assert result.stderr.startswith(b"codec: error: standard input: is empty")
    result = run("encode", "--raw", "s16le", "-", target)
    assert result.returncode == 0
    assert b"codec: note: no samples came in" in result.stderr.splitlines()


def test_commands_in_a_pipe(codec: Codec, pcm: np.ndarray) -> None:
    encoder = subprocess.Popen(
        [*CLI, "encode", "-", "-", "--bitrate", "16.4", "--raw", "s16le"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    decoder = subprocess.Popen(
        [*CLI, "decode", "-", "-"], stdin=encoder.stdout, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert encoder.stdin and encoder.stdout and encoder.stderr and decoder.stdout and decoder.stderr
    encoder.stdout.close()
    # The first samples come back while the input is still open.
    encoder.stdin.write(container(pcm, "raw"))
    encoder.stdin.flush()
    first = decoder.stdout.read(44 + 2 * 16000)
    assert len(first) == 44 + 2 * 16000 and first[:4] == b"RIFF"
    assert encoder.poll() is None
    encoder.stdin.close()
    rest = decoder.stdout.read()
    assert (encoder.wait(60), decoder.wait(60)) == (0, 0)
    assert encoder.stderr.read() == decoder.stderr.read() == b""
    samples = np.frombuffer((first + rest)[44:], "<i2")
    wanted = to_int16(codec.decode(codec.encode(as_float(pcm), 16000, 16.4)))
    np.testing.assert_array_equal(samples, wanted)


def test_files_and_pipes_mix(codec: Codec, pcm: np.ndarray, tmp_path: Path) -> None:
    wav, coded, back = tmp_path / "in.wav", tmp_path / "a.bin", tmp_path / "back.wav"
    soundfile.write(wav, pcm, 16000)
    offline = codec.encode(as_float(pcm), 16000, 8.0, independent=True)
    to_pipe = run("encode", str(wav), "-", "--bitrate", "8", "--intra-only")
    assert (to_pipe.returncode, to_pipe.stderr) == (0, b"")
    assert to_pipe.stdout == offline
    coded.write_bytes(b"an older output")
    from_pipe = run("encode", "-", str(coded), "--bitrate", "8", "--intra-only",
                    data=wav.read_bytes())  # fmt: skip
    assert from_pipe.returncode == 0, from_pipe.stderr
    assert coded.read_bytes() == offline
    assert run("decode", "-", str(back), data=offline).returncode == 0
    wanted = to_int16(codec.decode(offline))
    assert soundfile.info(back).frames == len(pcm)
    np.testing.assert_array_equal(soundfile.read(back, dtype="int16")[0], wanted)
    raw = run("decode", str(coded), "-", "--raw")
    np.testing.assert_array_equal(np.frombuffer(raw.stdout, "<i2"), wanted)
    command = " ".join(CLI)
    script = f"{command} decode - - < {coded} > {back}; {command} encode <(cat {wav}) {coded}"
    subprocess.run(["bash", "-c", script], check=True, capture_output=True)
    np.testing.assert_array_equal(soundfile.read(back, dtype="int16")[0], wanted)
    assert read_header(coded.read_bytes())[0].num_samples == len(pcm)


def test_a_fault_leaves_no_file_and_one_line(tmp_path: Path) -> None:
    result = run("decode", "-", str(tmp_path / "out.wav"), data=b"nonsense")
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1 and b"codec: error: standard input" in result.stderr
    assert list(tmp_path.iterdir()) == []
    result = run("decode", "-", "-", data=b"nonsense")
    assert (result.returncode, result.stdout) == (2, b"")


@pytest.mark.parametrize(
    "number, target",
    [
        (signal.SIGINT, "out.bin"),
        (signal.SIGTERM, "-"),
        (signal.SIGHUP, "out.bin"),
        pytest.param(signal.SIGTERM, "out.bin", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "-", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "-", marks=pytest.mark.slow),
    ],
)
def test_a_live_recording_that_is_stopped_is_kept(
    codec: Codec, pcm: np.ndarray, tmp_path: Path, number: signal.Signals, target: str
) -> None:
    out = tmp_path / "out.bin"
    with open(tmp_path / "stdout", "wb") as stdout:
        process = subprocess.Popen(
            [*CLI, "encode", "-", str(out) if target != "-" else "-"], stdin=subprocess.PIPE,
            stdout=stdout, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert process.stdin and process.stderr
    process.stdin.write(container(pcm, "endless wav"))
    process.stdin.flush()
    written = tmp_path / "stdout"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until it has begun to write
        if target != "-":
            written = next(tmp_path.glob(".codec-*.tmp"), written)
        if written.stat().st_size:
            break
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.stderr.read().decode()
    assert process.wait(60) == 128 + number, errors
    assert f"stopped by {number.name}" in errors
    assert f"holds the {len(pcm) / 16000:.2f} s that came in" in errors
    data = out.read_bytes() if target != "-" else (tmp_path / "stdout").read_bytes()
    assert data == codec.encode(as_float(pcm))
    assert not list(tmp_path.glob(".codec-*"))


def test_a_terminal_that_closes_hangs_up_twice(pcm: np.ndarray, tmp_path: Path) -> None:
    """Its shell does, and the system: what was recorded is kept all the same."""
    out = tmp_path / "out.bin"
    process = subprocess.Popen(
        [*CLI, "encode", "-", str(out)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin
    process.stdin.write(container(pcm, "endless wav"))
    process.stdin.flush()
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob(".codec-*.tmp")))
    for _ in range(20):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    errors = process.communicate()[1].decode()
    assert process.returncode == 128 + signal.SIGHUP, errors
    assert [path.name for path in tmp_path.iterdir()] == ["out.bin"]


def test_decoding_from_a_pipe_cleans_up(codec: Codec, pcm: np.ndarray, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*CLI, "decode", "-", str(tmp_path / "out.wav")], stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(codec.encode(as_float(pcm))[:1000])
    process.stdin.flush()
    wait_for(lambda: any(tmp_path.iterdir()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_recording_stopped_before_it_began_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*CLI, "encode", "-", str(tmp_path / "out.bin")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_udp_example(codec: Codec, pcm: np.ndarray, tmp_path: Path) -> None:
    wav, out = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(wav, pcm, 16000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    receive = subprocess.Popen(
        [sys.executable, str(ROOT / "examples/udp_receive.py"), "--port", "0", "--out", str(out),
         "--timeout", "60"], stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert receive.stdout
    port = receive.stdout.readline().strip().rsplit(":", 1)[1]
    sent = subprocess.run(
        [sys.executable, str(ROOT / "examples/udp_send.py"), str(wav), "--port", port,
         "--loss", "10", "--reorder", "10", "--fast"], capture_output=True, text=True,
        env=environment, timeout=120,
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    summary = receive.communicate(timeout=60)[0]
    assert receive.returncode == 0
    packets = int(sent.stdout.split()[0])
    lost = int(sent.stdout.split(": ")[1].split()[0])
    late = int(sent.stdout.split("lost, ")[1].split()[0])
    assert lost > 0 and late > 0
    # Lost packets are concealed, late ones are put in their place.
    assert f"{lost} packets concealed, 0 came too late" in summary
    decoded, rate = soundfile.read(out, dtype="int16")
    assert rate == 16000 and len(decoded) == 320 * packets - 160
    without_loss = codec.decode(codec.encode(as_float(pcm), 16000, 16.4, independent=True))
    correlation = np.corrcoef(decoded[: len(pcm)].astype(float), without_loss)[0, 1]
    assert correlation > 0.6
