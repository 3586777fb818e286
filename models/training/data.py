"""Training data: every recording in memory as int16, seeded random crops, augmentation.

The crops of step ``n`` depend on (seed, n) only, so a resumed run sees exactly the crops that an
uninterrupted one would have seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.config import HOP_LENGTH, SAMPLE_RATE
from codec.errors import AudioError
from codec.io.audio import list_audio, read_audio
from codec.io.files import printable
from codec.io.resample import to_codec_rate
from models.training.augment import FULL_SCALE, SYNTHETIC, augment, synthetic

# Corpora of torchaudio.datasets: class, and the folder that it makes.
CORPORA = {
    "librispeech": ("LIBRISPEECH", "LibriSpeech"),
    "vctk": ("VCTK_092", "VCTK-Corpus-0.92"),
    "speechcommands": ("SPEECHCOMMANDS", "SpeechCommands"),
    "yesno": ("YESNO", "waves_yesno"),
    "ljspeech": ("LJSPEECH", "LJSpeech-1.1"),
}
# Crops that are drawn again: near-silent ones teach nothing, and PESQ's gradient is NaN on
# digital silence.
MAX_DRAWS, MAX_SILENT, MIN_LEVEL = 20, 0.05, 1.5e-3


def _load_file(path: Path) -> np.ndarray | AudioError:
    try:
        waveform, rate, _ = read_audio(path)
    except AudioError as error:
        return error
    waveform = to_codec_rate(waveform, rate)
    return np.round(np.clip(waveform, -1, 1 - 1 / FULL_SCALE) * FULL_SCALE).astype(np.int16)


def say(text: str) -> None:
    """Print a remark on stderr."""
    print(f"codec: note: {printable(text)}", file=sys.stderr)


def load_directory(
    directory: Path, workers: int = 2, report: Callable[[str], object] = say
) -> list[np.ndarray]:
    """Read every audio file below ``directory`` as 16 kHz mono int16.

    Parameters
    ----------
    directory : Path
    workers : int       threads
    report : callable   is told of each file that cannot be read, and how many these are

    Raises
    ------
    AudioError   the directory is missing or holds no audio that can be read
    """
    notes: list[str] = []
    files = list_audio(directory, notes)
    for text in notes:
        report(text)
    if not files:
        raise AudioError(f"no audio files in '{directory}': name a folder with speech recordings")
    recordings, broken = [], 0
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(_load_file, files):
            if isinstance(found, AudioError):
                report(str(found))
                broken += 1
            elif len(found):
                recordings.append(found)
    if broken == len(files):
        raise AudioError(f"none of the {broken} audio files in '{directory}' can be read")
    if not recordings:
        raise AudioError(f"the audio files in '{directory}' have no samples")
    if broken:
        report(f"{broken} of {len(files)} files in {directory} cannot be read and are left out")
    return recordings


def load_torchaudio(
    name: str, root: Path, download: bool = True, report: Callable[[str], object] = say
) -> list[np.ndarray]:
    """Read a corpus through ``torchaudio.datasets``, e.g. ``librispeech:train-clean-100``.

    Parameters
    ----------
    name : str    'librispeech[:subset]', 'vctk', 'speechcommands', 'ljspeech' or 'yesno'
    root : Path   where the corpus is, or is downloaded to

    Raises
    ------
    ValueError   unknown corpus
    AudioError   the corpus is not there and could not be fetched
    """
    kind, _, subset = name.partition(":")
    kind = kind.lower()
    if kind not in CORPORA:
        raise ValueError(
            f"unknown dataset '{name}': use one of {', '.join(CORPORA)}, "
            "for example librispeech:train-clean-100"
        )
    from torchaudio import datasets  # only where a corpus is asked for

    class_name, folder_name = CORPORA[kind]
    folder, options = root / folder_name, {}
    if kind == "librispeech":
        options["url"] = subset or "train-clean-100"
        folder = folder / options["url"]
    root.mkdir(parents=True, exist_ok=True)
    try:
        corpus = getattr(datasets, class_name)
        corpus(root, download=download and not folder.is_dir(), **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AudioError(f"dataset '{name}' could not be loaded in '{root}': {reason}") from None
    # The torchaudio classes index and check the corpus; its files are read by libsndfile.
    return load_directory(folder, report=report)


class CropSampler:
    """Draw seeded, augmented crops from recordings held in memory.

    Parameters
    ----------
    recordings : list of int16 arrays   16 kHz mono; crops may span two of them
    crop_samples : int
    seed : int
    augment : bool                      see models/training/augment.py
    """

    def __init__(
        self, recordings: list[np.ndarray], crop_samples: int, seed: int, augment: bool = True
    ) -> None:
        self.samples = np.concatenate(recordings)
        if len(self.samples) < crop_samples:
            raise AudioError(
                f"the recordings last {len(self.samples) / SAMPLE_RATE:.1f} s in all, less than "
                f"one crop of {crop_samples / SAMPLE_RATE:.1f} s: give more audio"
            )
        if not self.samples.any():
            raise AudioError("the recordings are digital silence: give speech")
        self.crop_samples = crop_samples
        self.seed = seed
        self.augment = augment

    @property
    def hours(self) -> float:
        """Return the length of all recordings in hours."""
        return len(self.samples) / SAMPLE_RATE / 3600

    def _crop(self, rng: np.random.Generator, length: int) -> np.ndarray:
        crop: np.ndarray = np.zeros(length, np.float32)
        for _ in range(MAX_DRAWS):
            start = int(rng.integers(0, len(self.samples) - length + 1))
            raw = self.samples[start : start + length]
            blocks = raw[: len(raw) // HOP_LENGTH * HOP_LENGTH].reshape(-1, HOP_LENGTH)
            silent = (np.abs(blocks).max(1) == 0).mean()
            crop = raw.astype(np.float32) / FULL_SCALE
            if silent < MAX_SILENT and crop.std() > MIN_LEVEL:
                break
        return crop

    def speech(self, step: int, size: int) -> Tensor:
        """Return which crops of a step are speech and not synthetic, bool [size]."""
        rng = np.random.default_rng([self.seed, step, 3])
        return torch.from_numpy(rng.random(size) >= (SYNTHETIC if self.augment else 0.0))

    def batch(self, step: int, size: int, more: int = 0) -> Tensor:
        """Return the crops of one step, float32 [size, crop_samples + more], within ±1."""
        rng = np.random.default_rng([self.seed, step])
        length = self.crop_samples + more
        crops = [self._crop(rng, length) for _ in range(size)]
        if self.augment:
            speech = self.speech(step, size)
            crops = [
                augment(crop, rng) if speech[i] else synthetic(length, rng)
                for i, crop in enumerate(crops)
            ]
        else:
            dither = rng.uniform(-1, 1, (size, length)).astype(np.float32) / FULL_SCALE
            crops = list(np.stack(crops) + dither)
        return torch.from_numpy(np.stack(crops).astype(np.float32))
