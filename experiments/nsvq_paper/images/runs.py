"""The runs of the image experiment: done once, kept in files, in several processes."""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from codec.io.files import atomic_write
from experiments.nsvq_paper.images.model import (
    ImageVQVAE,
    Residual,
    code,
    quality,
    to_tensor,
    train_and_score,
)
from experiments.nsvq_paper.images.pictures import Patches
from experiments.nsvq_paper.images.settings import Row, Settings
from experiments.nsvq_paper.methods import EMAQuantizer, make_quantizer
from models.quantizers import CodebookUsage, VectorQuantizer, nearest, reset_moments, substitute

_shared: dict[str, Any] = {}  # of a worker process


@dataclass(frozen=True)
class Run:
    """One training: row, bits and seed."""

    row: Row
    bits: int
    seed: int

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.row.name}, {self.bits} bits, seed {self.seed}"


def fingerprint(settings: Settings, patches: Patches) -> str:
    """Return a name for all that decides the result of a run, code included."""
    parts = (ImageVQVAE, Residual, train_and_score, quality, code, to_tensor)
    parts += (make_quantizer, reset_moments, EMAQuantizer, VectorQuantizer, CodebookUsage)
    text = json.dumps([asdict(settings), patches.about["sha256"], torch.__version__])
    text += "".join(inspect.getsource(part) for part in (*parts, substitute, nearest))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def result_path(work: Path, run: Run) -> Path:
    """Return where the result of a run is kept."""
    replaced = "_replaced" if run.row.replaces else ""
    return work / f"{run.row.method}{replaced}_{run.bits}bits_seed{run.seed}.json"


def share(settings: Settings, patches: Patches, work: Path) -> None:
    """Keep what is the same for all runs of a process."""
    _shared.update(settings=settings, patches=patches, work=work)


def start_worker(settings: Settings, patches: Patches, work: Path) -> None:
    """Begin a worker process; Ctrl-C is for the main process, which then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    share(settings, patches, work)


def do_run(run: Run) -> tuple[Run, float, float]:
    """Train, keep the result in a file; return the run, its SSIM and its peak SNR."""
    result = train_and_score(run.row, run.bits, run.seed, _shared["settings"], _shared["patches"])
    atomic_write(result_path(_shared["work"], run), json.dumps(result).encode())
    return run, result["ssim"], result["peak_snr_db"]


def do_all(
    runs: Sequence[Run], settings: Settings, patches: Patches, work: Path, jobs: int
) -> None:
    """Do the runs that have no result yet in ``jobs`` processes, a line for each."""
    todo = [run for run in runs if not result_path(work, run).is_file()]
    if len(todo) < len(runs):
        print(f"{len(runs) - len(todo)} of {len(runs)} runs are kept from before in '{work}'")
    started = time.monotonic()

    def report(done: int, run: Run, ssim: float, peak_snr: float) -> None:
        left = (time.monotonic() - started) / done * (len(todo) - done)
        print(
            f"[{done}/{len(todo)}] {run.label}: SSIM {ssim:.3f}, peak SNR {peak_snr:.2f} dB"
            f" (about {left / 60:.0f} min left)",
            flush=True,
        )

    if jobs == 1:
        share(settings, patches, work)
        for done, run in enumerate(todo, 1):
            report(done, *do_run(run))
    elif todo:
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(jobs, len(todo)), start_worker, (settings, patches, work)) as pool:
            for done, outcome in enumerate(pool.imap_unordered(do_run, todo), 1):
                report(done, *outcome)
