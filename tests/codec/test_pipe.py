"""Pipes: standard input and output of the real commands, and the UDP example."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import BitstreamError, Codec
from codec.bitstream import read_stream
from codec.errors import AudioError
from codec.io.wav import to_int16, wav_header
from codec.pipe import decode_pipe, encode_pipe

ROOT = Path(__file__).resolve().parent.parent
CLI = [sys.executable, str(ROOT / "cli.py")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def pcm(speech: np.ndarray) -> np.ndarray:
    """1.5 s of speech, int16; no whole number of packets."""
    return to_int16(speech[: 24000 + 77])


def as_float(pcm: np.ndarray) -> np.ndarray:
    return pcm.astype(np.float32) / np.float32(32768)


def container(pcm: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "raw":
        return pcm.astype("<i2").tobytes()
    if kind == "endless wav":  # as programs write it that do not know how much will come
        return wav_header(16000) + pcm.astype("<i2").tobytes()
    if kind == "stereo wav":
        soundfile.write(buffer, np.stack([pcm, pcm], 1), 16000, format="WAV")
    else:
        soundfile.write(buffer, pcm, 16000, format=kind.upper())
    return buffer.getvalue()


class Slowly(io.RawIOBase):
    """A file that gives what is asked for in pieces of odd sizes."""

    def __init__(self, data: bytes, seed: int) -> None:
        self.data, self.rng = data, np.random.default_rng(seed)

    def read(self, size: int = -1) -> bytes:
        taken = len(self.data) if size < 0 else int(self.rng.integers(1, min(size, 3000) + 1))
        piece, self.data = self.data[:taken], self.data[taken:]
        return piece


@pytest.mark.parametrize("kind", ["raw", "wav", "endless wav", "stereo wav", "flac"])
def test_any_input_gives_the_same_stream(codec: Codec, pcm: np.ndarray, kind: str) -> None:
    pieces: list[bytes] = []
    source = io.BytesIO(container(pcm, kind))
    count, rate, notes = encode_pipe(codec, source, pieces.append, 16.4)
    assert (count, rate) == (len(pcm), 16000)
    assert bool(notes) == (kind in ("stereo wav", "flac"))
    offline = codec.encode(as_float(pcm), 16000, 16.4)
    header, packets = read_stream(b"".join(pieces))
    assert packets == read_stream(offline)[1]
    assert header.num_samples == len(pcm)
    assert header.open_end == (kind != "flac")  # that one had to be read to its end first


@pytest.mark.parametrize("independent", [False, True])
def test_pieces_of_any_size(codec: Codec, pcm: np.ndarray, independent: bool) -> None:
    coded: list[bytes] = []
    raw = container(pcm, "raw")
    encode_pipe(codec, Slowly(raw, 1), coded.append, 13.2, independent=independent)
    out: list[bytes] = []
    count = decode_pipe(codec, Slowly(b"".join(coded), 2), out.append)
    offline = codec.encode(as_float(pcm), 16000, 13.2, independent=independent)
    wanted = to_int16(codec.decode(offline))
    assert count == len(pcm)
    np.testing.assert_array_equal(np.frombuffer(b"".join(out), "<i2"), wanted)


@pytest.mark.parametrize("length", [0, 1, 160, 161, 320])
def test_short_streams(codec: Codec, pcm: np.ndarray, length: int) -> None:
    coded: list[bytes] = []
    encode_pipe(codec, io.BytesIO(container(pcm[:length], "raw")), coded.append, 8.0)
    out: list[bytes] = []
    assert decode_pipe(codec, io.BytesIO(b"".join(coded)), out.append) == length
    assert len(b"".join(out)) == 2 * length


def test_a_file_that_can_seek_gets_an_ordinary_header(codec: Codec, pcm: np.ndarray) -> None:
    file = io.BytesIO()
    encode_pipe(codec, io.BytesIO(container(pcm, "raw")), file.write, 13.2, seek=file.seek)
    assert file.getvalue() == codec.encode(as_float(pcm), 16000, 13.2)


def test_a_file_of_another_rate_is_resampled(codec: Codec, pcm: np.ndarray) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, 22050, format="WAV")
    coded: list[bytes] = []
    buffer.seek(0)
    assert encode_pipe(codec, buffer, coded.append, 13.2)[:2] == (len(pcm), 22050)
    assert b"".join(coded) == codec.encode(as_float(pcm), 22050, 13.2)
    out: list[bytes] = []
    count = decode_pipe(codec, io.BytesIO(b"".join(coded)), out.append)
    assert count == -(-len(pcm) * 16000 // 22050)


def test_faults_are_said(codec: Codec, pcm: np.ndarray) -> None:
    with pytest.raises(AudioError, match="standard input"):
        encode_pipe(codec, io.BytesIO(b"fLaC" + bytes(100)), lambda data: None, 13.2)
    coded: list[bytes] = []
    encode_pipe(codec, io.BytesIO(container(pcm, "raw")), coded.append, 13.2)
    data = b"".join(coded)
    damaged = bytearray(data)
    damaged[500] ^= 1
    for wrong, message in (
        (b"", "cut off|empty"), (b"hello there", "not a file of this codec"),
        (data[:10], "cut off"), (data[:700], "cut off"), (data[:-1], "cut off"),
        (bytes(damaged), "damaged between 0.0 s and 1.0 s"),
    ):  # fmt: skip
        with pytest.raises(BitstreamError, match=message):
            decode_pipe(codec, io.BytesIO(wrong), lambda data: None)


def test_commands_in_a_pipe(codec: Codec, pcm: np.ndarray) -> None:
    encode = subprocess.Popen(
        [*CLI, "encode", "-", "-", "--bitrate", "16.4"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    decode = subprocess.Popen(
        [*CLI, "decode", "-", "-"], stdin=encode.stdout, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert encode.stdin and encode.stdout and encode.stderr and decode.stdout and decode.stderr
    encode.stdout.close()
    # The first samples come back while the input is still open.
    encode.stdin.write(container(pcm, "raw"))
    encode.stdin.flush()
    first = decode.stdout.read(44 + 2 * 16000)
    assert len(first) == 44 + 2 * 16000 and first[:4] == b"RIFF"
    assert encode.poll() is None
    encode.stdin.close()
    rest = decode.stdout.read()
    assert (encode.wait(60), decode.wait(60)) == (0, 0)
    assert encode.stderr.read() == decode.stderr.read() == b""
    samples = np.frombuffer((first + rest)[44:], "<i2")
    wanted = to_int16(codec.decode(codec.encode(as_float(pcm), 16000, 16.4)))
    np.testing.assert_array_equal(samples, wanted)


def run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CLI, *arguments], input=data, capture_output=True, env=ENVIRONMENT, timeout=120
    )


def test_files_and_pipes_mix(codec: Codec, pcm: np.ndarray, tmp_path: Path) -> None:
    wav, coded, back = tmp_path / "in.wav", tmp_path / "a.bin", tmp_path / "back.wav"
    soundfile.write(wav, pcm, 16000)
    to_pipe = run("encode", str(wav), "-", "--bitrate", "8", "--independent-packets")
    assert (to_pipe.returncode, to_pipe.stderr) == (0, b"")
    from_pipe = run("encode", "-", str(coded), "--bitrate", "8", "--independent-packets",
                    data=wav.read_bytes())  # fmt: skip
    assert from_pipe.returncode == 0, from_pipe.stderr
    offline = codec.encode(as_float(pcm), 16000, 8.0, independent=True)
    assert coded.read_bytes() == offline
    assert read_stream(to_pipe.stdout)[1] == read_stream(offline)[1]

    wanted = to_int16(codec.decode(offline))
    assert run("decode", "-", str(back), data=offline).returncode == 0
    assert soundfile.info(back).frames == len(pcm)  # the header was put right
    np.testing.assert_array_equal(soundfile.read(back, dtype="int16")[0], wanted)
    raw = run("decode", str(coded), "-", "--raw")
    np.testing.assert_array_equal(np.frombuffer(raw.stdout, "<i2"), wanted)


def test_a_fault_leaves_no_file_and_one_line(pcm: np.ndarray, tmp_path: Path) -> None:
    result = run("decode", "-", str(tmp_path / "out.wav"), data=b"nonsense")
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1 and b"codec: error: standard input" in result.stderr
    assert list(tmp_path.iterdir()) == []
    result = run("decode", "-", "-", data=b"nonsense")
    assert (result.returncode, result.stdout) == (2, b"")
    result = run("decode", str(tmp_path / "none.bin"), "-")
    assert result.returncode == 2 and b"no such file" in result.stderr
    result = run("encode", str(tmp_path), "-")
    assert result.returncode == 2 and b"directory" in result.stderr


def test_udp_example(codec: Codec, pcm: np.ndarray, tmp_path: Path) -> None:
    wav, out = tmp_path / "in.wav", tmp_path / "out.wav"
    soundfile.write(wav, pcm, 16000)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
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
    start = time.monotonic()
    summary = receive.communicate(timeout=60)[0]
    assert time.monotonic() - start < 60
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
