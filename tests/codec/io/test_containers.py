"""Headers whose sizes are wrong; further cases are the inputs of `experiments.field`."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import soundfile

from codec.io.parts import file_parts

SIZE = 5_000_000_044
HEAD = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 8, 48000, 768_000, 16, 16)


@pytest.mark.parametrize(
    "announced, word",
    [(0xFFFFFFFF, ""), ((SIZE - 44) % (1 << 32), "went round at 4 GB"), (0, "announces no audio")],
)
def test_wav_files_beyond_4_gb(tmp_path: Path, announced: int, word: str) -> None:
    """Their size does not fit into the header. The file is a hole: it takes no space."""
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWAVE" + HEAD + struct.pack("<4sI", b"data", announced))
        file.truncate(SIZE)
    (part,), notes = file_parts(path)
    assert len(notes) == (word != "") and all(word in note for note in notes)
    with part.open() as source, soundfile.SoundFile(source) as found:
        assert (found.format, found.frames) == ("RF64", (SIZE - 44) // 16)


def test_what_is_right_is_not_touched(tmp_path: Path) -> None:
    """A file whose header is sound is opened by its path."""
    for container in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "MP3", "OGG"):
        path = tmp_path / f"a.{container.lower()}"
        soundfile.write(path, [0.0, 0.1] * 500, 16000, format=container)
        (part,), notes = file_parts(path)
        assert (part.pieces, notes) == ((), []), container


@pytest.mark.parametrize("size", [2**64 - 1, 2**63 - 1])
def test_w64_of_unknown_length(tmp_path: Path, size: int) -> None:
    """What ffmpeg writes into a pipe is whole: nothing is cut off."""
    path = tmp_path / "a.w64"
    soundfile.write(path, [0.0, 0.1] * 500, 16000, format="W64")
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 16
    data[place : place + 8] = size.to_bytes(8, "little")
    path.write_bytes(data)
    assert file_parts(path)[1] == []
    assert len(soundfile.read(path)[0]) == 1000
