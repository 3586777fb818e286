"""Run other codecs' programs on a clip, so that `codec eval` can set them beside ours.

Each baseline is a small class: the programs it needs, the rates it offers, the two commands, and a
parser of the encoder's file. The parser counts the bytes of the codec proper, never those of the
container. Settings are the same for all: mono speech at 16 kHz, constant bitrate, best effort, no
discontinuous transmission. Delay and fixed filtering of the decoded wave are left as they are:
`alignment` deals with them.
"""

from __future__ import annotations

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile
from numpy.typing import ArrayLike, NDArray

from codec.config import SAMPLE_RATE
from codec.errors import AudioError
from codec.io.wav import write_wav
from evaluation.alignment import MAX_DELAY_SAMPLES
from evaluation.baselines.containers import Payload
from evaluation.baselines.programs import BaselineError, Command, Programs, run_program

SOURCE, DECODED = "source.wav", "decoded.wav"  # names in the temporary directory of a run
# Silence after the clip: what a codec's delay holds back at the end still comes out of it.
_TAIL_SAMPLES = 640


@dataclass(frozen=True)
class Coded:
    """What a codec made of one clip.

    wave : float32 array, shape [any], 16 kHz, full scale ±1, 16 bits; delayed, perhaps longer
    payload_bytes : int, packets of the codec proper, without the container
    num_frames : int, frames that those bytes code
    frame_s : float, seconds of audio in a frame
    encode_s, decode_s : float, CPU seconds of the two programs, their start and their reading
        and writing of files included
    """

    wave: NDArray[np.float32]
    payload_bytes: int
    num_frames: int
    frame_s: float
    encode_s: float
    decode_s: float

    @property
    def duration_s(self) -> float:
        """Seconds of audio that the payload stands for, a little more than the clip has."""
        return self.num_frames * self.frame_s

    @property
    def measured_kbps(self) -> float:
        """Payload bits per second of the frames that they code, in kbit/s.

        Not per second of the clip: the last frame is filled up, and frames are added for the
        codec's delay, which would charge short clips with more than the codec takes on the wire.
        """
        return 8e-3 * self.payload_bytes / self.duration_s


def nearest(kbps: float, offered: Sequence[float]) -> float:
    """Return the offered rate closest to `kbps`, the lower one of two as close."""
    return min(sorted(offered), key=lambda rate: round(abs(rate - _valid_rate(kbps)), 9))


def whole_bytes(kbps: float, frame_ms: int, min_bytes: int, max_bytes: int) -> float:
    """Return the rate closest to `kbps` whose frames are whole bytes, within the two limits.

    Of two as close it is the lower: LC3 has 20 or 21 bytes for 16.4 kbit/s, and `elc3` takes 20.
    """
    exact = _valid_rate(kbps) * frame_ms / 8
    num_bytes = min(max(math.ceil(exact - 0.5 - 1e-9), min_bytes), max_bytes)
    return 8 * num_bytes / frame_ms


def _valid_rate(kbps: float) -> float:
    if not (math.isfinite(kbps) and kbps > 0):
        raise ValueError(f"a rate must be a positive number of kbit/s, got {kbps}")
    return float(kbps)


class Baseline(ABC):
    """One codec of others, run as a program. Instances hold no state and can be pickled."""

    name: ClassVar[str]
    coded_name: ClassVar[str]  # of the coded file; some programs go by its suffix
    alternatives: ClassVar[tuple[Programs, ...]]  # the first that is installed is used

    @abstractmethod
    def nearest_rate(self, kbps: float) -> float:
        """Return the nominal rate, in kbit/s, that the codec offers nearest to `kbps`.

        Raises
        ------
        ValueError   `kbps` is not a positive number
        """

    @abstractmethod
    def commands(self, programs: Programs, kbps: float) -> tuple[Command, Command]:
        """Return the commands `SOURCE` → `coded_name` and `coded_name` → `DECODED`."""

    @abstractmethod
    def payload(self, data: bytes, kbps: float) -> Payload:
        """Count the bytes of the codec proper in a coded file.

        Raises
        ------
        ValueError   this is not such a file; the message is a phrase ("no Ogg page at byte 0")
        """

    def sent(self, data: bytes, kbps: float) -> bytes:
        """Return what of the coded file reaches the decoder; for most codecs, all of it."""
        return data

    def rates(self, asked: Sequence[float]) -> list[float]:
        """Return the nearest rates to those asked for, sorted, each once."""
        return sorted({self.nearest_rate(kbps) for kbps in asked})

    def check(self) -> None:
        """Check that the programs are installed.

        Raises
        ------
        BaselineError   they are not; one line that names them and the Debian packages
        """
        self._installed()

    def _installed(self) -> Programs:
        for programs in self.alternatives:
            if programs.complete():
                return programs
        wanted = ", or ".join(programs.describe() for programs in self.alternatives)
        raise BaselineError(f"{self.name}: needs {wanted}")

    def code(self, wave: ArrayLike, kbps: float) -> Coded:
        """Encode and decode a clip with the codec's own programs, through 16-bit WAV files.

        Parameters
        ----------
        wave : float array, shape [T], mono, 16 kHz, clipped to ±1
        kbps : float, nominal rate; the nearest that the codec offers is used

        Returns
        -------
        Coded

        Raises
        ------
        BaselineError    program missing, failed, too slow or without usable output; wave is empty,
                     not one channel or not finite
        ValueError   `kbps` is not a positive number
        """
        samples = np.asarray(wave, dtype=np.float32)
        if samples.ndim != 1 or samples.size == 0:
            raise BaselineError(f"{self.name}: a clip must have shape [T], not {samples.shape}")
        if not np.isfinite(samples).all():
            raise BaselineError(f"{self.name}: the clip has NaN or infinite samples")
        rate = self.nearest_rate(kbps)
        programs = self._installed()
        encode, decode = self.commands(programs, rate)
        padded = np.concatenate([samples, np.zeros(_TAIL_SAMPLES, np.float32)])
        try:
            with tempfile.TemporaryDirectory(prefix="codec-baseline-") as folder:
                self.write_source(Path(folder) / SOURCE, padded)
                encode_s = self._run(encode, folder)
                coded_path = Path(folder) / self.coded_name
                if not coded_path.is_file():
                    raise BaselineError(f"{self.name}: {encode[0]} wrote no output")
                data = coded_path.read_bytes()
                try:
                    payload = self.payload(data, rate)
                except ValueError as exc:
                    what = f"{encode[0]} wrote a bad file: {exc}"
                    raise BaselineError(f"{self.name}: {what}") from exc
                coded_path.write_bytes(self.sent(data, rate))
                decode_s = self._run(decode, folder)
                decoded = self.read_decoded(Path(folder) / DECODED, decode[0])
        except AudioError as exc:
            raise BaselineError(f"{self.name}: {exc}") from exc
        except OSError as exc:
            reason = exc.strerror or exc
            raise BaselineError(f"{self.name}: temporary files cannot be used ({reason})") from exc
        clip_s = samples.size / SAMPLE_RATE
        self._check_length(encode[0], payload.num_frames * payload.frame_s, clip_s)
        late_s = MAX_DELAY_SAMPLES / SAMPLE_RATE
        self._check_length(decode[0], decoded.size / SAMPLE_RATE, clip_s - late_s)
        return Coded(decoded, *payload, encode_s, decode_s)

    def _check_length(self, program: str, seconds: float, least: float) -> None:
        """Refuse the output of a program that stopped before the end of the clip."""
        if seconds < least:
            raise BaselineError(f"{self.name}: {program} gave only {seconds:.2f} s of the clip")

    def write_source(self, path: Path, wave: NDArray[np.float32]) -> None:
        """Write the clip as the encoder wants it: a WAV file."""
        write_wav(path, wave, SAMPLE_RATE)

    def read_decoded(self, path: Path, program: str) -> NDArray[np.float32]:
        """Read what the decoder wrote: a WAV file.

        Raises
        ------
        BaselineError   there is none, or it is not mono at 16 kHz
        """
        if not path.is_file():
            raise BaselineError(f"{self.name}: {program} wrote no output")
        try:
            samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as exc:
            raise BaselineError(f"{self.name}: {program} wrote no readable WAV file") from exc
        if rate != SAMPLE_RATE or samples.shape[1] != 1 or samples.shape[0] == 0:
            raise BaselineError(
                f"{self.name}: {program} wrote {samples.shape[0]} samples of "
                f"{samples.shape[1]} channels at {rate} Hz, not one channel at {SAMPLE_RATE} Hz"
            )
        return samples[:, 0].astype(np.float32) / np.float32(32768)

    def _run(self, command: Command, folder: str) -> float:
        """Run one program in `folder` and return its CPU seconds, or raise BaselineError."""
        try:
            return run_program(command, folder)
        except BaselineError as exc:
            raise BaselineError(f"{self.name}: {exc}") from exc
