"""Distributions of the toy experiment, and the training of one codebook on them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.extra import without_package
from experiments.nsvq_paper.methods import METHOD_NAMES, make_quantizer
from models.quantizers import nearest, perplexity, reset_moments

try:
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
