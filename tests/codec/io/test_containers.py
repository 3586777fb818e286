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
