"""Train one 8-bit codebook on 2-D toy distributions with each method (NSVQ's toy scenario).

    python -m experiments.nsvq_paper.toy [--quick] [--out DIR] [--seeds 5] [--jobs 2]

NSVQ, STE, DiVeQ, EMA and scikit-learn's MiniBatchKMeans code a Swiss roll, a pinwheel and a mixture
of Gaussians. All start from the same codebooks, in a tiny region at the edge of the distribution or
drawn from a normal distribution; all see the same batches, and those with gradients have the same
optimizer and learning rates. Every method runs with and without replacement of dead codewords.

Measured on points that training never sees: the mean square error, also in dB above k-means run to
convergence on all training points; codewords without a single hit; the perplexity. Writes
``toy_<distribution>.png`` (the codebooks), ``toy_curves.png`` and ``toy.json``, and prints the
tables of ``toy.md``. The full mode takes minutes, ``--quick`` seconds: it shows
that the command works, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from codec.errors import AudioError
from codec.io.files import atomic_write
from experiments.extra import without_package
from experiments.nsvq_paper.toy.report import (
    as_json,
    main_table,
    plot_codebooks,
    plot_curves,
    sweep_table,
)
from experiments.nsvq_paper.toy.training import (
    DISTRIBUTIONS,
    INITS,
    METHODS,
    QUICK,
    Run,
    Settings,
    one_run,
    reference,
)

try:
    import matplotlib
    import sklearn
except ImportError as error:
    without_package(error)

HERE = Path(__file__).resolve().parent


def runs_of(settings: Settings) -> tuple[list[Run], list[Run]]:
    """Return the runs of the comparison, and those of the sweep over rates and decays."""
    rate, decay = settings.learning_rate, settings.ema_decay
    comparison = [
        Run(distribution, init, method, replacement, seed, rate, decay)
        for distribution, init, method, replacement, seed in product(
            DISTRIBUTIONS, INITS, METHODS, (False, True), range(settings.seeds)
        )
    ]
    places = list(product(DISTRIBUTIONS, INITS, range(settings.sweep_seeds)))
    sweep = [
        Run(distribution, init, "nsvq", True, 100 + seed, value, decay)
        for value in settings.sweep_learning_rates
        for distribution, init, seed in places
    ] + [
        Run(distribution, init, "ema", True, 100 + seed, rate, value)
        for value in settings.sweep_ema_decays
        for distribution, init, seed in places
    ]
    return comparison, sweep


def execute(settings: Settings, jobs: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run everything; returns the report that becomes `toy.json`, and the runs with codebooks."""
    comparison, sweep = runs_of(settings)
    work = [(run, settings) for run in comparison + sweep]
    places = [(distribution, settings) for distribution in DISTRIBUTIONS]
    total = len(work) + len(places)
    with tqdm(total=total, desc="toy", unit="run", disable=None) as progress:

        def watched(results: Iterable[Any]) -> list[Any]:
            done = []
            for result in results:
                done.append(result)
                progress.update()
            return done

        if jobs == 1:
            errors = watched(map(reference, places))
            results = watched(map(one_run, work))
        else:
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                errors = watched(pool.map(reference, places))
                results = watched(pool.map(one_run, work))
    references = dict(zip(DISTRIBUTIONS, errors, strict=True))
    for result in results:
        result["db"] = 10 * float(np.log10(result["mse"] / references[result["distribution"]]))
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for result in results[: len(comparison)]:
        key = tuple(result[k] for k in ("distribution", "init", "method", "replacement"))
        groups.setdefault(key, []).append(result["curve"])
    curves = []
    for (distribution, init, method, replacement), group in groups.items():
        step, mse, used = np.mean(group, axis=0).T
        curves.append(
            {
                "distribution": distribution, "init": init, "method": method,
                "replacement": replacement, "step": step.astype(int).tolist(),
                "mse": [float(f"{v:.5g}") for v in mse],
                "perplexity": [float(f"{v:.5g}") for v in used],
            }
        )  # fmt: skip

    def kept(result: dict[str, Any], *names: str) -> dict[str, Any]:
        row = {k: v for k, v in result.items() if k not in ("codebook", "curve", *names)}
        return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}

    report = {
        "settings": json.loads(json.dumps(asdict(settings))),  # tuples become lists
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__, "scikit-learn": sklearn.__version__,
        },
        "kmeans_mse": {k: float(f"{v:.6g}") for k, v in references.items()},
        "runs": [kept(r, "learning_rate", "ema_decay") for r in results[: len(comparison)]],
        "sweep": [kept(r) for r in results[len(comparison) :]],
        "curves": curves,
    }  # fmt: skip
    return report, results[: len(comparison)]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, write its files, print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few steps, in seconds")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seeds", type=positive, help="runs of each variant (5; 2 with --quick)")
    parser.add_argument("--steps", type=positive, help="training steps (2000; 60 with --quick)")
    parser.add_argument("--jobs", type=positive, help="processes (one per core, at most 8)")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else Settings()
    changes = {k: v for k in ("seeds", "steps") if (v := getattr(options, k)) is not None}
    settings = Settings(**(asdict(settings) | changes))
    jobs = options.jobs or (1 if options.quick else min(8, os.cpu_count() or 1))
    try:
        options.out.mkdir(parents=True, exist_ok=True)  # said now, not after the work
        report, results = execute(settings, jobs)
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            for distribution in DISTRIBUTIONS:
                path = options.out / f"toy_{distribution}.png"
                plot_codebooks(distribution, results, settings, path)
            plot_curves(report["curves"], report["kmeans_mse"], options.out / "toy_curves.png")
        atomic_write(options.out / "toy.json", as_json(report).encode())
    except (OSError, AudioError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(main_table(report), sweep_table(report), sep="\n\n")


if __name__ == "__main__":
    main()
