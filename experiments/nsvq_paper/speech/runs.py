"""The runs of the speech experiment: done once, kept in files, in several processes."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from codec.io.audio import list_audio
from codec.io.files import atomic_write
from experiments.measure.estimators import envelopes
from experiments.nsvq_paper.speech.codec_runs import score_codec, train_codec
from experiments.nsvq_paper.speech.settings import (
    PAPER,
    QUICK_CODEC,
    QUICK_VQ,
    CodecSettings,
    VQSettings,
)
from experiments.nsvq_paper.speech.summary import differences, summarise_codec, summarise_vq
from experiments.nsvq_paper.speech.vq import train_vq
from models.quantizers import ESTIMATORS


def kept(path: Path, settings: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what an interrupted run has left at ``path`` with these settings, or do the work."""
    wanted = json.loads(json.dumps(asdict(settings)))
    if path.is_file():
        found = json.loads(path.read_text())
        if found["settings"] == wanted:
            return dict(found["result"])
    result = work()
    text = json.dumps({"settings": wanted, "result": result})
    atomic_write(path, text.encode())
    return result


def vq_task(
    task: tuple[str, bool, bool, int],
    settings: VQSettings,
    train: np.ndarray,
    test: np.ndarray,
    work: Path,
) -> dict[str, Any]:
    """Run :func:`train_vq`, or return what it gave before."""
    estimator, networks, replacement, seed = task
    name = f"vq_{estimator}_{networks:d}{replacement:d}_{seed}.json"
    return kept(work / name, settings, partial(train_vq, task, settings, train, test))


def codec_task(
    task: tuple[str, int],
    settings: CodecSettings,
    data_dir: Path,
    files: Sequence[Path],
    train: np.ndarray,
    work: Path,
) -> dict[str, Any]:
    """Train and score a codec, or return what that gave before."""

    def both() -> dict[str, Any]:
        result = train_codec(task, settings, data_dir, train, work)
        weights = work / f"{task[0]}_{task[1]}.safetensors"
        return result | score_codec(weights, files, settings.rates)

    return kept(work / f"codec_{task[0]}_{task[1]}.json", settings, both)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run both parts; returns what is written as JSON."""
    vq = QUICK_VQ if options.quick else VQSettings()
    codec = QUICK_CODEC if options.quick else CodecSettings()
    codec = replace(codec, steps=options.steps or codec.steps, seeds=options.seeds or codec.seeds)
    options.work.mkdir(parents=True, exist_ok=True)
    train = envelopes(options.train_dir, vq.train_crops, 1).flatten(0, 1).numpy()
    test = envelopes(options.test_dir, vq.test_crops, 2).flatten(0, 1).numpy()
    files = [Path(path) for path in list_audio(options.test_dir)]
    files = files[: codec.max_clips or None]
    vq_tasks = [
        (estimator, networks, replacement, seed)
        for networks in (False, True)
        for replacement in (True, False)
        for estimator in ESTIMATORS
        for seed in range(vq.seeds)
    ]
    tasks = [(estimator, seed) for seed in range(codec.seeds) for estimator in ESTIMATORS]
    train_and_score = partial(
        codec_task, settings=codec, data_dir=options.train_dir, files=files, train=train,
        work=options.work,
    )  # fmt: skip
    train_alone = partial(vq_task, settings=vq, train=train, test=test, work=options.work)
    if options.jobs == 1:
        codec_runs, vq_runs = list(map(train_and_score, tasks)), list(map(train_alone, vq_tasks))
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, context) as pool:
            waiting = pool.map(train_and_score, tasks)  # the long ones first
            vq_runs = list(pool.map(train_alone, vq_tasks))
            codec_runs = list(waiting)
    return {
        "settings": {"vq": asdict(vq), "codec": asdict(codec)},
        "clips": [path.relative_to(options.test_dir).as_posix() for path in files],
        "paper": PAPER,
        "vq": {"bands": int(train.shape[-1]), "summary": summarise_vq(vq_runs), "runs": vq_runs},
        "codec": {
            "summary": summarise_codec(codec_runs, codec.rates),
            "differences": differences(codec_runs, codec.rates),
            "runs": codec_runs,
        },
    }
