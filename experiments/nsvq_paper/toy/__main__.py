"""Train one 8-bit codebook on 2-D toy distributions with each method (NSVQ's toy scenario).

    python experiments/toy.py [--quick] [--out docs/experiments] [--seeds 5] [--jobs 2]

NSVQ, STE, DiVeQ, EMA and scikit-learn's MiniBatchKMeans code a Swiss roll, a pinwheel and a mixture
of Gaussians. All start from the same codebooks, in a tiny region at the edge of the distribution or
drawn from a normal distribution; all see the same batches, and those with gradients have the same
optimizer and learning rates. Every method runs with and without replacement of dead codewords.

Measured on points that training never sees: the mean square error, also in dB above k-means run to
convergence on all training points; codewords without a single hit; the perplexity. Writes
``toy_<distribution>.png`` (the codebooks), ``toy_curves.png`` and ``toy.json``, and prints the
tables of ``docs/experiments/toy.md``. The full mode takes minutes, ``--quick`` seconds: it shows
that the command works, its figures mean nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from codec.errors import AudioError
from codec.io.files import atomic_write
from experiments.vq_methods import METHOD_COLORS, METHOD_NAMES, make_quantizer, without_package
from models.quantizers import nearest, perplexity, reset_moments

try:
    import matplotlib
    import sklearn
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.datasets import make_blobs, make_swiss_roll
except ImportError as error:
    without_package(error)

DISTRIBUTIONS = {"swiss_roll": "Swiss roll", "pinwheel": "pinwheel", "blobs": "Gaussian mixture"}
INITS = {"edge": "at the edge", "random": "at random"}
METHODS = ("nsvq", "ste", "diveq", "ema", "kmeans")
NAMES = METHOD_NAMES | {"kmeans": "MiniBatchKMeans"}
DATA_SEED = 2022  # the points are the same in all runs; seeds change codebooks, batches and noise


@dataclass(frozen=True)
class Settings:
    """What all runs have in common."""

    bits: int = 8
    train_points: int = 65536
    test_points: int = 65536
    steps: int = 2000
    batch_size: int = 256  # MiniBatchKMeans refuses batches smaller than the codebook
    learning_rate: float = 1e-2  # Adam; a cosine brings it to 0
    ema_decay: float = 0.99
    replace_every: int = 100
    replace_until: float = 0.8  # part of the steps; later ones could not settle any more
    edge_radius: float = 0.01  # the data have a variance of 1
    curve_points: int = 24
    curve_subset: int = 4096
    seeds: int = 5
    sweep_seeds: int = 1
    sweep_learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    sweep_ema_decays: tuple[float, ...] = (0.9, 0.99, 0.999)


QUICK = Settings(
    train_points=4096, test_points=4096, steps=60, replace_every=15,
    curve_points=6, curve_subset=1024, seeds=2, sweep_seeds=1, sweep_learning_rates=(1e-2,),
    sweep_ema_decays=(0.99,),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training; `learning_rate` and `ema_decay` differ from the settings in the sweep only."""

    distribution: str
    init: str
    method: str
    replacement: bool
    seed: int
    learning_rate: float
    ema_decay: float


# --------------------------------------------------------------------------------------------------
# Data


def draw(distribution: str, count: int, seed: int) -> np.ndarray:
    """Return points of a distribution, not yet scaled, float64 [count, 2]."""
    rng = np.random.default_rng(seed)
    if distribution == "swiss_roll":
        points, _ = make_swiss_roll(count, noise=0.35, random_state=seed)
        return points[:, [0, 2]]
    if distribution == "pinwheel":  # five arms that turn the further out they are
        radius = 1 + 0.3 * rng.standard_normal(count)
        across = 0.05 * rng.standard_normal(count)
        angle = 2 * np.pi / 5 * rng.integers(0, 5, count) + 0.25 * np.exp(radius)
        x = radius * np.cos(angle) - across * np.sin(angle)
        y = radius * np.sin(angle) + across * np.cos(angle)
        return np.stack([x, y], axis=1)
    if distribution == "blobs":  # tight and wide ones, with gaps between them
        layout = np.random.default_rng(DATA_SEED)
        centers = layout.uniform(-10, 10, (12, 2))
        spread = layout.uniform(0.15, 1.2, 12)
        shares = layout.dirichlet(np.full(12, 2.0))
        counts = np.random.default_rng(seed).multinomial(count, shares)
        points, _ = make_blobs(counts, centers=centers, cluster_std=spread, random_state=seed)
        return points
    raise ValueError(f"unknown distribution '{distribution}': one of {', '.join(DISTRIBUTIONS)}")


@cache
def data(distribution: str, train_points: int, test_points: int) -> tuple[Tensor, Tensor]:
    """Return training and held-out points of mean 0 and variance 1, float32 [count, 2] each."""
    train = draw(distribution, train_points, DATA_SEED)
    test = draw(distribution, test_points, DATA_SEED + 1)
    mean, scale = train.mean(0), train.std(0)
    return tuple(torch.from_numpy((x - mean) / scale).float() for x in (train, test))  # type: ignore[return-value]


def initial_codebook(init: str, train: Tensor, size: int, radius: float, seed: int) -> Tensor:
    """Return the codebook that all methods start from, float32 [size, 2]."""
    noise = torch.randn(size, 2, generator=torch.Generator().manual_seed(seed))
    if init == "random":
        return noise
    edge = train[train.norm(dim=1).argmax()]  # the mean is 0: the outermost point
    return edge + radius * noise


def assess(points: Tensor, codebook: Tensor) -> tuple[float, int, float]:
    """Return the mean square error per dimension, the codewords without a hit, and perplexity."""
    indices = nearest(points, codebook)
    counts = torch.bincount(indices, minlength=len(codebook))
    mse = (points - codebook[indices]).square().mean()
    return float(mse), int((counts == 0).sum()), float(perplexity(counts))


def curve_steps(settings: Settings) -> list[int]:
    """Return at which numbers of steps the curves are measured: even on a logarithmic axis."""
    steps = np.geomspace(1, settings.steps, settings.curve_points).round().astype(int)
    return sorted({0, *steps.tolist()})


# --------------------------------------------------------------------------------------------------
# Training


def train_quantizer(run: Run, settings: Settings) -> tuple[Tensor, list[list[float]]]:
    """Train one codebook; return it, and [step, mse, perplexity] on the way.

    The batches, and the random numbers of each replacement, depend on the seed alone.
    """
    train, test = data(run.distribution, settings.train_points, settings.test_points)
    subset = test[: settings.curve_subset]
    size = 2**settings.bits
    start = initial_codebook(run.init, train, size, settings.edge_radius, run.seed)
    batches = np.random.default_rng(run.seed).integers(
        0, len(train), (settings.steps, settings.batch_size)
    )
    measured = set(curve_steps(settings))
    curve: list[list[float]] = []

    def measure(step: int, codebook: Tensor) -> None:
        if step in measured:
            mse, _, used = assess(subset, codebook)
            curve.append([step, mse, used])

    measure(0, start)
    if run.method == "kmeans":
        kmeans = MiniBatchKMeans(
            size,
            init=start.numpy(),
            n_init=1,
            batch_size=settings.batch_size,
            random_state=run.seed,
            reassignment_ratio=0.01 if run.replacement else 0.0,  # 0.01: its default
        )
        for step, batch in enumerate(batches, 1):
            kmeans.partial_fit(train[batch].numpy())
            if step in measured:
                measure(step, torch.from_numpy(kmeans.cluster_centers_).float())
        return torch.from_numpy(kmeans.cluster_centers_).float(), curve

    quantizer = make_quantizer(run.method, size, 2, start)
    if run.method == "ema":
        quantizer.decay = run.ema_decay
    parameters = list(quantizer.parameters())
    optimizer = torch.optim.Adam(parameters, fused=True) if parameters else None
    torch.manual_seed(run.seed)
    for step, batch in enumerate(batches, 1):
        x = train[batch]
        out = quantizer(x)
        if optimizer is not None:
            cosine = 0.5 + 0.5 * np.cos(np.pi * (step - 1) / settings.steps)
            optimizer.param_groups[0]["lr"] = run.learning_rate * cosine
            loss = (out.quantized - x).square().mean() + out.auxiliary_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (
            run.replacement
            and step % settings.replace_every == 0
            and step <= settings.replace_until * settings.steps
        ):
            torch.manual_seed(run.seed * settings.steps + step)
            dead = quantizer.replace_dead()
            if optimizer is not None:
                reset_moments(optimizer, parameters[0], dead)
        measure(step, quantizer.codebook.detach())
    return quantizer.codebook.detach().clone(), curve


def one_run(job: tuple[Run, Settings]) -> dict[str, Any]:
    """Train and assess; returns what `toy.json` holds of a run, and its codebook and curve."""
    torch.set_num_threads(1)
    run, settings = job
    codebook, curve = train_quantizer(run, settings)
    _, test = data(run.distribution, settings.train_points, settings.test_points)
    mse, dead, used = assess(test, codebook)
    return {**asdict(run), "mse": mse, "dead": dead, "perplexity": used,
            "codebook": codebook.numpy(), "curve": curve}  # fmt: skip


def reference(job: tuple[str, Settings]) -> float:
    """Return the held-out error of k-means, k-means++ and Lloyd to convergence, best of three."""
    distribution, settings = job
    train, test = data(distribution, settings.train_points, settings.test_points)
    fitted = KMeans(2**settings.bits, n_init=3, max_iter=300, random_state=0).fit(train.numpy())
    return assess(test, torch.from_numpy(fitted.cluster_centers_).float())[0]


# --------------------------------------------------------------------------------------------------
# Tables


def mean_std(values: Iterable[float], decimals: int) -> str:
    """Return "mean ± standard deviation" of values; that of one value is left out."""
    array = np.array(list(values), float)
    mean = f"{array.mean():.{decimals}f}".replace("-", "−")
    return mean if array.size == 1 else f"{mean} ± {array.std(ddof=1):.{decimals}f}"


def main_table(report: dict[str, Any]) -> str:
    """Return the Markdown table of the runs: dB above k-means, dead codewords, perplexity."""
    lines = [
        "| distribution | start | replacement | method | MSE × 1000 | dB above k-means "
        "| dead of {} | perplexity |".format(2 ** report["settings"]["bits"]),
        "|---|---|---|---|---|---|---|---|",
    ]
    for distribution, init, replacement, method in product(
        DISTRIBUTIONS, INITS, (False, True), METHODS
    ):
        rows = [
            r
            for r in report["runs"]
            if (r["distribution"], r["init"], r["replacement"], r["method"])
            == (distribution, init, replacement, method)
        ]
        if rows:
            cells = (
                DISTRIBUTIONS[distribution],
                INITS[init],
                "yes" if replacement else "no",
                NAMES[method],
                mean_std((1000 * r["mse"] for r in rows), 3),
                mean_std((r["db"] for r in rows), 2),
                mean_std((r["dead"] for r in rows), 1),
                mean_std((r["perplexity"] for r in rows), 1),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep_table(report: dict[str, Any]) -> str:
    """Return the Markdown table of dB above k-means over the learning rate or the decay."""
    lines = [
        "| method | setting | " + " | ".join(
            f"{DISTRIBUTIONS[d]}, {INITS[i]}" for d in DISTRIBUTIONS for i in INITS
        ) + " |",
        "|---|---|" + "---|" * (len(DISTRIBUTIONS) * len(INITS)),
    ]  # fmt: skip
    settings = report["settings"]
    variants = [("nsvq", "learning_rate", v) for v in settings["sweep_learning_rates"]]
    variants += [("ema", "ema_decay", v) for v in settings["sweep_ema_decays"]]
    for method, key, value in variants:
        cells = []
        for distribution, init in product(DISTRIBUTIONS, INITS):
            rows = [
                r["db"]
                for r in report["sweep"]
                if (r["distribution"], r["init"], r["method"], r[key])
                == (distribution, init, method, value)
            ]
            cells.append(mean_std(rows, 2))
        name = f"{key.replace('ema_', '').replace('_', ' ')} {value:g}"
        lines.append(f"| {NAMES[method]} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# Figures


def save_png(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    atomic_write(path, buffer.getvalue())


def new_figure(size: tuple[float, float]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_codebooks(
    distribution: str, results: Sequence[dict[str, Any]], settings: Settings, path: Path
) -> None:
    """Draw the codebooks of the first seed over the data: methods across, starts down."""
    _, test = data(distribution, settings.train_points, settings.test_points)
    points = test[:4000].numpy()
    rows = list(product(INITS, (False, True)))
    figure = new_figure((2.35 * len(METHODS) + 0.5, 2.45 * len(rows) + 0.4))
    panels = figure.subplots(len(rows), len(METHODS), sharex=True, sharey=True)
    for i, (init, replacement) in enumerate(rows):
        for j, method in enumerate(METHODS):
            axes = panels[i][j]
            result = next(
                r
                for r in results
                if (r["distribution"], r["init"], r["replacement"], r["method"], r["seed"])
                == (distribution, init, replacement, method, 0)
            )
            axes.scatter(*points.T, s=1, color="#c9c9c9", linewidth=0, rasterized=True)
            codebook = result["codebook"]
            hit = np.bincount(nearest(test, torch.from_numpy(codebook)), minlength=len(codebook))
            used = codebook[hit > 0]
            axes.scatter(*used.T, s=7, color=METHOD_COLORS[method], linewidth=0, zorder=3)
            dead = codebook[hit == 0]
            axes.scatter(*dead.T, s=12, marker="x", color="#111111", linewidth=0.7, zorder=2)
            axes.text(
                0.5, -0.02, f"{result['db']:+.2f} dB, {len(dead)} dead".replace("-", "−"),
                transform=axes.transAxes, ha="center", va="top", fontsize=9, color="#333333",
            )  # fmt: skip
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if i == 0:
                axes.set_title(NAMES[method], fontsize=11, fontweight="bold", color="#333333")
            if j == 0:
                what = "with replacement" if replacement else "no replacement"
                axes.set_ylabel(f"start {INITS[init]}\n{what}", fontsize=10, color="#333333")
    low, high = points.min(0) - 0.25, points.max(0) + 0.25
    panels[0][0].set_xlim(low[0], high[0])
    panels[0][0].set_ylim(low[1], high[1])
    figure.suptitle(
        f"{DISTRIBUTIONS[distribution]}: codewords (dots; crosses: without a hit) after "
        f"{settings.steps} steps, first seed; error in dB above k-means",
        fontsize=11, color="#333333",
    )  # fmt: skip
    save_png(figure, path)


def plot_curves(curves: Sequence[dict[str, Any]], references: dict[str, float], path: Path) -> None:
    """Draw held-out error and perplexity over the steps, means over the seeds."""
    from matplotlib.ticker import NullFormatter

    widths = {"nsvq": 4.6, "diveq": 2.8, "ste": 1.1, "ema": 1.5, "kmeans": 1.5}
    rows = [(init, replacement) for init in INITS for replacement in (False, True)]
    figure = new_figure((15, 12.5))
    panels = figure.subplots(len(rows), 2 * len(DISTRIBUTIONS), sharex=True)
    for (i, (init, replacement)), (j, distribution) in product(
        enumerate(rows), enumerate(DISTRIBUTIONS)
    ):
        error, usage = panels[i][j], panels[i][j + len(DISTRIBUTIONS)]
        for method in ("nsvq", "diveq", "ste", "ema", "kmeans"):
            curve = next(
                c
                for c in curves
                if (c["distribution"], c["init"], c["replacement"], c["method"])
                == (distribution, init, replacement, method)
            )
            steps = np.maximum(curve["step"], 0.7)  # the start, at 0, on a logarithmic axis
            style = {
                "color": METHOD_COLORS[method],
                "linewidth": widths[method],
                "linestyle": "--" if method in ("ema", "kmeans") else "-",
                "label": NAMES[method],
            }
            error.plot(steps, curve["mse"], **style)
            usage.plot(steps, curve["perplexity"], **style)
        error.axhline(references[distribution], color="#111111", linewidth=0.8, linestyle=":")
        error.set_yscale("log")
        error.yaxis.set_minor_formatter(NullFormatter())
        usage.set_ylim(0, 256)
        for axes in (error, usage):
            axes.set_xscale("log")
            axes.grid(color="#e5e5e5", linewidth=0.7)
            axes.tick_params(labelsize=8)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        if i == 0:
            error.set_title(f"{DISTRIBUTIONS[distribution]}: error", fontsize=10)
            usage.set_title(f"{DISTRIBUTIONS[distribution]}: perplexity", fontsize=10)
        if i == len(rows) - 1:
            error.set_xlabel("step", fontsize=9)
            usage.set_xlabel("step", fontsize=9)
        if j == 0:
            what = "with replacement" if replacement else "no replacement"
            error.set_ylabel(f"start {INITS[init]}\n{what}", fontsize=10)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
        title="mean over the seeds, on held-out points; dotted: k-means run to convergence. "
        "NSVQ, DiVeQ and STE lie on each other.",
    )  # fmt: skip
    save_png(figure, path)


# --------------------------------------------------------------------------------------------------
# The command


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
    from tqdm import tqdm

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


def as_json(report: dict[str, Any]) -> str:
    """Return the report as JSON, with one line for each row of its lists."""
    parts = []
    for key, value in report.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            parts.append(f' "{key}": [\n{rows}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


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
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
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
