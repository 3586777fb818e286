"""Read and code an input by path and by pipe, and say what is wrong with the result."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codec import Codec
from codec.bitstream import read_stream
from codec.errors import AudioError
from codec.io.audio import read_audio
from codec.pieces import EncodeOptions, Outcome
from codec.pipe import encode_pipe
from codec.transcode import encode_file
from experiments.field.inputs import LENGTH, Case, signal

OPTIONS = EncodeOptions(8.0)


def check(codec: Codec, case: Case, folder: Path) -> str | None:
    """Return what is wrong, an empty string if nothing is, None where the input cannot be made."""
    data = case.make()
    if not data:
        return None
    path = folder / f"in{case.suffix}"
    path.write_bytes(data)
    coded = folder / "out.bin"
    wrong = check_outcome(case, lambda: encode_file(codec, path, coded, OPTIONS))
    if wrong or case.samples is None:
        found = wrong
    else:
        found = "" if not case.exact else check_samples(path)
    if not case.pipe or found:
        return found
    pieces: list[bytes] = []
    wrong = check_outcome(
        case, lambda: encode_pipe(codec, io.BytesIO(data), pieces.append, OPTIONS)
    )
    if wrong or case.samples is None:
        return wrong and f"by pipe: {wrong}"
    same = read_stream(b"".join(pieces))[1] == read_stream(coded.read_bytes())[1]
    return "" if same else "by pipe: not the packets of the file"


def check_outcome(case: Case, work: Callable[[], Outcome]) -> str:
    """Return what is wrong with the length, the notes or the error."""
    try:
        outcome = work()
    except AudioError as error:
        text = str(error)
        if case.samples is not None:
            return f"refused: {text}"
        return "" if case.word in text and "\n" not in text else f"another error: {text}"
    if case.samples is None:
        return f"not refused: {outcome.num_samples} samples, {outcome.notes}"
    seconds = case.samples / 16000
    spare = case.slack / 16000
    if not seconds <= outcome.seconds <= seconds + spare + 1e-9:
        return f"{outcome.num_samples} samples at {outcome.sample_rate} Hz, not {case.samples}"
    if not any(case.word in note for note in [*outcome.notes, ""]):
        return f"nothing is said of {case.word!r}: {outcome.notes}"
    return ""


def check_samples(path: Path) -> str:
    """Return what is wrong with the samples: they begin with those of `signal`."""
    wave = read_audio(path)[0][:LENGTH]
    wanted = signal()[: len(wave)].astype(np.float32) / 32768
    error = float(np.abs(wave - wanted).max(initial=0))
    return "" if error <= 1.5 / 32768 else f"samples are off by {error:.3g}"
