"""WAV headers and samples without a header, held to libsndfile."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.errors import AudioError
from codec.io.audio import read_audio
from codec.io.wav import Samples, parse_wav, to_int16, wav_header, write_wav

SUBTYPES = {
    "u8": "PCM_U8", "s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32",
    "f32le": "FLOAT", "f64le": "DOUBLE", "alaw": "ALAW", "mulaw": "ULAW",
}  # fmt: skip


def test_write_wav_rounds_and_clips(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, np.array([0, 0.4 / 32768, 0.6 / 32768, 1.0, -1.0, 7.0, -7.0, -0.5]), 16000)
    y, rate = soundfile.read(path, dtype="int16")
    assert rate == 16000
    assert y.tolist() == [0, 0, 1, 32767, -32768, 32767, -32768, -16384]
    assert soundfile.info(path).subtype == "PCM_16"
    with pytest.raises(AudioError, match="NaN"):
        write_wav(path, np.array([np.nan]), 16000)
    assert soundfile.info(path).frames == 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("num_samples", [0, 1, 1000])
@pytest.mark.parametrize("rate", [8000, 16000, 768000])
def test_wav_is_that_of_libsndfile(tmp_path: Path, num_samples: int, rate: int) -> None:
    x = 0.5 * np.sin(np.arange(num_samples) / 9)
    write_wav(tmp_path / "ours.wav", x, rate)
    soundfile.write(tmp_path / "theirs.wav", to_int16(x), rate, subtype="PCM_16")
    assert (tmp_path / "ours.wav").read_bytes() == (tmp_path / "theirs.wav").read_bytes()


def test_int16_survives_a_round_trip(tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "in.wav", x, 16000)
    write_wav(tmp_path / "out.wav", read_audio(tmp_path / "in.wav")[0], 16000)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav", dtype="int16")[0], x)


def test_from_4_gb_on_the_header_is_rf64(tmp_path: Path) -> None:
    """The file is a hole: it takes no space."""
    num_samples = (1 << 31) + 5
    header = wav_header(16000, num_samples)
    assert (header[:4], len(header)) == (b"RF64", 80)
    with open(tmp_path / "long.wav", "wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * num_samples)
    found = soundfile.info(tmp_path / "long.wav")
    assert (found.format, found.frames, found.samplerate) == ("RF64", num_samples, 16000)
    assert wav_header(16000, (1 << 31) - 3000)[:4] == b"RIFF"


def test_a_length_that_is_not_known() -> None:
    header = wav_header(8000)
    assert (len(header), header[4:8], header[40:]) == (44, b"\xff" * 4, b"\xff" * 4)


@pytest.mark.parametrize("encoding", SUBTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_those_of_libsndfile(encoding: str, channels: int) -> None:
    x = np.random.default_rng(2).uniform(-1, 1, (500, channels))
    x[:3] = [[1], [-1], [0]]
    buffer = io.BytesIO()
    soundfile.write(buffer, x, 22050, format="WAV", subtype=SUBTYPES[encoding])
    data = buffer.getvalue()
    header = parse_wav(lambda at, size: data[at : at + size])
    assert header is not None
    assert header.samples == Samples(encoding, 22050, channels)
    assert header.size == 500 * header.samples.frame_bytes
    ours = header.samples.to_float(data[header.offset : header.offset + header.size])
    buffer.seek(0)
    theirs, _ = soundfile.read(buffer, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("encoding", ["alaw", "mulaw"])
def test_every_byte_of_g711(encoding: str, tmp_path: Path) -> None:
    data = bytes(range(256))
    (tmp_path / "a.raw").write_bytes(data)
    theirs, _ = soundfile.read(
        tmp_path / "a.raw", samplerate=8000, channels=1, format="RAW", subtype=SUBTYPES[encoding],
        dtype="float32",
    )  # fmt: skip
    np.testing.assert_array_equal(Samples(encoding, 8000, 1).to_float(data)[:, 0], theirs)


def test_chunks_before_the_samples_are_passed_over() -> None:
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    data = b"RIFF\0\0\0\0WAVE" + b"LIST" + struct.pack("<I", 3) + b"abc\0" + fmt + b"data\4\0\0\0"
    header = parse_wav(lambda at, size: data[at : at + size])
    assert header is not None
    assert header[:3] == (Samples("s16le", 16000, 1), len(data), 4)


@pytest.mark.parametrize("length", range(44))
def test_a_header_that_is_cut_is_none(length: int) -> None:
    data = wav_header(16000, 100)[:length]
    assert parse_wav(lambda at, size: data[at : at + size]) is None


def test_what_it_does_not_know() -> None:
    for format, subtype in (("WAV", "IMA_ADPCM"), ("AIFF", "PCM_16"), ("W64", "PCM_16")):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(500), 16000, format=format, subtype=subtype)
        data = buffer.getvalue()
        assert (
            getattr(parse_wav(lambda at, size, data=data: data[at : at + size]), "samples", None)
            is None
        )
