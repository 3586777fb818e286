"""A recording that fills the disk: what fits is kept."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import Codec
from codec.bitstream import read_stream
from codec.errors import AudioError
from codec.io.files import WriteThrough, atomic_open
from codec.io.wav import Samples
from codec.pieces import EncodeOptions, Outcome
from codec.pipe import encode_pipe

RAW = Samples("f32le", 16000, 1)


class SmallDisk(io.BytesIO):
    """A file for which there is room for so many bytes; the last write is a short one."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: object) -> int:
        left = self.room - self.tell()
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(bytes(data)[:left])  # type: ignore[call-overload]


class Pipe(io.BytesIO):
    """A source that gives a little at once."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3000 if size is None or size < 0 else min(size, 3000))


def record(
    codec: Codec, data: bytes, disk: io.BytesIO, raw: Samples | None, vbr: bool = False
) -> Outcome:
    out = WriteThrough(disk)
    options = EncodeOptions(13.2, vbr)
    return encode_pipe(codec, Pipe(data), out.write, options, out.seek, raw, cut=out.cut)


@pytest.mark.parametrize("vbr", [False, True])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_what_fits_is_kept(codec: Codec, speech: np.ndarray, rate: int, vbr: bool) -> None:
    x = np.tile(speech, 3)[: 3 * rate].astype("<f4")
    whole = SmallDisk(10**6)
    raw = Samples("f32le", rate, 1)
    assert record(codec, x.tobytes(), whole, raw, vbr).error == ""
    packets = read_stream(whole.getvalue())[1]
    assert len(packets) > 150
    for room in (len(whole.getvalue()) - 1, len(whole.getvalue()) // 2 + 200):
        disk = SmallDisk(room)
        outcome = record(codec, x.tobytes(), disk, raw, vbr)
        assert outcome.error == "the output cannot be written (No space left on device)"
        header, kept = read_stream(disk.getvalue())  # a sound stream
        assert len(kept) == 50 * (len(kept) // 50) > 0 and kept == packets[: len(kept)]
        assert outcome.num_samples == header.num_samples
        assert 0 <= len(kept) / 50 - outcome.seconds < 0.011
        assert outcome.num_bytes == len(disk.getvalue()) > room - 50 * 80
        assert len(codec.decode(disk.getvalue())) == -(-header.num_samples * 16000 // rate)


def test_a_container_that_is_spooled(codec: Codec, speech: np.ndarray) -> None:
    flac = io.BytesIO()
    soundfile.write(flac, speech, 16000, format="FLAC")
    disk = SmallDisk(4000)
    outcome = record(codec, flac.getvalue(), disk, None)
    assert "No space left" in outcome.error and outcome.seconds == pytest.approx(1.99)
    assert len(read_stream(disk.getvalue())[1]) == 100


def test_less_than_a_second_is_an_error(codec: Codec, speech: np.ndarray) -> None:
    for room in (10, 500):
        with pytest.raises(OSError, match="No space left"):
            record(codec, speech.astype("<f4").tobytes(), SmallDisk(room), RAW)


def test_what_can_be_read_again_is_not_cut(
    codec: Codec, speech: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "in.raw").write_bytes(speech.astype("<f4").tobytes())
    out = WriteThrough(SmallDisk(4000))
    with (tmp_path / "in.raw").open("rb") as file, pytest.raises(OSError, match="No space left"):
        encode_pipe(codec, file, out.write, EncodeOptions(), out.seek, RAW, cut=out.cut)


def test_a_real_file_is_cut(tmp_path: Path) -> None:
    with atomic_open(tmp_path / "a") as file:
        out = WriteThrough(file)
        out.write(b"abcdef")
        out.write(b"ghi")
        assert out.cut([10, 12]) == 0
        assert out.cut([3, 8, 10]) == 2
        out.seek(0)
        out.write(b"AB")
    assert (tmp_path / "a").read_bytes() == b"ABcdefgh"


def full(room: int) -> Callable[..., io.BytesIO]:
    return lambda *_, **__: SmallDisk(room)


def test_no_room_for_temporary_files(
    codec: Codec, speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", full(100_000))
    with pytest.raises(AudioError, match=r"cannot be written \(No space left.*TMPDIR"):
        record(codec, speech.astype("<f4").tobytes(), SmallDisk(10**6), RAW, vbr=True)
    flac = io.BytesIO()
    soundfile.write(flac, np.tile(speech, 4), 16000, format="FLAC")

    class Temporary(io.FileIO):
        """A file of that name, on a disk that is full after half of the input."""

        def write(self, data: object) -> int:
            left = len(flac.getvalue()) // 2 - self.tell()
            if left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(memoryview(data)[:left])  # type: ignore[arg-type]

    name = os.fspath(tmp_path / "spool")
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: Temporary(name, "w+"))
    disk = SmallDisk(10**6)
    outcome = record(codec, flac.getvalue(), disk, None)
    assert "No space left" in outcome.error and "TMPDIR" in outcome.error
    assert 1 < outcome.seconds < 11
    assert len(codec.decode(disk.getvalue())) == outcome.num_samples
