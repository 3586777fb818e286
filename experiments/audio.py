"""The audio that a command measures on."""

from __future__ import annotations

import sys
from pathlib import Path

import codec.io.audio
from codec.errors import AudioError


def list_audio(directory: Path) -> list[Path]:
    """Return the audio files below a directory; without any, one line ends the command."""
    try:
        if found := codec.io.audio.list_audio(directory):
            return found
        problem = f"{directory}: no audio files; check the path"
    except AudioError as error:
        problem = str(error)
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)
