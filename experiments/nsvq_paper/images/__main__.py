"""Image compression with a VQ-VAE: NSVQ against STE, EMA and DiVeQ (the NSVQ paper's Figures 2-3).

    python experiments/images.py [--quick] [--data DIR] [--out docs/experiments] [--jobs 2]

A small convolutional VQ-VAE codes 32 x 32 colour patches as 8 x 8 indices of one codebook of 2**8
to 2**12 codewords; only what stands in for the quantizer in training differs. Measured on patches
from parts of the pictures that training never sees: SSIM and peak SNR, for several seeds; and the
error and the perplexity of the codebook while training. Writes `images*.png` and `images.json`.

Pictures are those inside scikit-image and scikit-learn, nothing is downloaded; ``--data DIR`` takes
a folder of any others (PNG, JPEG, ...), such as CIFAR-10 written as PNG files. Runs that are done
are kept under ``--work``: the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import multiprocessing
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from codec.io.files import atomic_write
from experiments.vq_methods import METHOD_COLORS, EMAQuantizer, make_quantizer, without_package
from models.quantizers import (
    CodebookUsage,
    VectorQuantizer,
    nearest,
    perplexity,
    reset_moments,
    substitute,
)

try:
    import skimage
    import sklearn
    from PIL import Image, UnidentifiedImageError
    from skimage.metrics import structural_similarity
except ImportError as error:
    without_package(error)

PATCH = 32  # pixels; as CIFAR
GRID = 8  # latent vectors per side of a patch
BLOCK = 128  # pixels; side of the regions that are held out
SPLIT_SEED = 2022  # one split for all runs
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".webp")
# Colour photographs among the files inside the two packages.
BUNDLED = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/ihc.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
BITS = (8, 9, 10, 11, 12)


@dataclass(frozen=True)
class Row:
    """One way to train: an estimator, and whether hardly used codewords are replaced."""

    name: str
    method: str
    replaces: bool
    in_paper: bool

    @property
    def style(self) -> dict[str, Any]:
        """How it is drawn: colour by estimator, full line for what the paper compares."""
        color = METHOD_COLORS[self.method]
        if self.name == "NSVQ, no replacement":
            return {"color": color, "linestyle": ":", "marker": "x"}
        if self.in_paper:
            return {"color": color, "linestyle": "-", "marker": "o"}
        return {"color": color, "linestyle": "--", "marker": "s"}


ROWS = (
    Row("NSVQ", "nsvq", True, True),
    Row("STE", "ste", False, True),
    Row("EMA", "ema", False, True),
    Row("NSVQ, no replacement", "nsvq", False, True),
    Row("STE + replacement", "ste", True, False),
    Row("EMA + replacement", "ema", True, False),
    Row("DiVeQ + replacement", "diveq", True, False),
)


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's result, but for its row, bits, seed and the pictures.

    Attributes
    ----------
    steps, batch : int            optimizer steps, patches per step
    channels, dim : int           width of the network, dimension of the latent vectors (D)
    learning_rate : float         of Adam; falls linearly to 0 over the last ``decay`` of the steps
    codebook_scale : float        standard deviation of the first codewords, the same in all rows:
                                  of 1, 0.1 and 0.01, 0.1 was the best one for STE and EMA
    replace_every : int           steps between replacements, in the rows that have them
    replace_until : float         part of the steps after which no codeword is replaced
    log_every : int               steps per point of the curves
    check_every : int             steps between looks at the error of held-out patches
    """

    steps: int = 1200
    batch: int = 32
    channels: int = 32
    dim: int = 16
    learning_rate: float = 1e-3
    decay: float = 0.5
    codebook_scale: float = 0.1
    replace_every: int = 50
    replace_until: float = 0.7
    log_every: int = 25
    check_every: int = 100


@dataclass(frozen=True)
class Patches:
    """The pictures, cut.

    Attributes
    ----------
    train : uint8 array, shape [N, 32, 32, 3]
    test : uint8 array, shape [M, 32, 32, 3]
    examples : uint8 array, shape [E, S, S, 3]   held-out parts to look at
    about : dict                                 what was read and how it was split
    """

    train: np.ndarray
    test: np.ndarray
    examples: np.ndarray
    about: dict[str, Any]


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


# ------------------------------------------------------------------------------------- pictures


def read_picture(path: Path) -> np.ndarray:
    """Return a picture as uint8 array [H, W, 3]; ValueError if it is none."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read '{path}' as a picture ({error})") from None


def bundled_paths() -> list[Path]:
    """Return the photographs that are inside the installed packages; none is downloaded."""
    folders = {"skimage": Path(skimage.__file__).parent, "sklearn": Path(sklearn.__file__).parent}
    paths = [folders[package] / name for package, name in BUNDLED]
    return [path for path in paths if path.is_file()]


def list_pictures(folder: Path) -> list[Path]:
    """Return the picture files below ``folder``, sorted; ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is not a directory")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"no pictures ({', '.join(SUFFIXES)}) in '{folder}'")
    return paths


def halve(picture: np.ndarray) -> np.ndarray:
    """Return the picture at half its size, each pixel the mean of 2 x 2."""
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.round(blocks.astype(np.float32).mean((1, 3))).astype(np.uint8)


def crops(picture: np.ndarray, stride: int, allowed: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the patches of a grid that lie in the allowed pixels [H, W] as a whole."""
    height, width = picture.shape[:2]
    for y in range(0, height - PATCH + 1, stride):
        for x in range(0, width - PATCH + 1, stride):
            if allowed[y : y + PATCH, x : x + PATCH].all():
                yield picture[y : y + PATCH, x : x + PATCH]


def held_out_blocks(height: int, width: int, rng: np.random.Generator) -> list[tuple[slice, slice]]:
    """Return one in five of the 128 x 128 blocks of a picture (at least one)."""
    corners = [
        (y, x)
        for y in range(0, height - BLOCK + 1, BLOCK)
        for x in range(0, width - BLOCK + 1, BLOCK)
    ]
    count = max(1, round(len(corners) / 5))
    chosen = rng.choice(len(corners), count, replace=False)
    return [
        (slice(y, y + BLOCK), slice(x, x + BLOCK)) for y, x in (corners[i] for i in sorted(chosen))
    ]


def cut_patches(paths: Sequence[Path], max_train: int = 40000, max_test: int = 512) -> Patches:
    """Cut pictures to patches for training and, from what training never sees, for testing.

    Few large pictures (fewer than 20) are split by region: one in five of their 128 x 128 blocks is
    held out, and no training patch touches it. Many pictures are split by picture, one in five.
    Patches come from the picture and, where its sides have at least 256 pixels, from its half-size
    copy. Those for training overlap (a stride of 8 pixels), those for testing do not.

    Raises
    ------
    ValueError   a file is not a picture, or too little is left of them
    """
    rng = np.random.default_rng(SPLIT_SEED)
    by_region = len(paths) < 20
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    examples: list[np.ndarray] = []
    used = 0
    found = {"train": 0, "test": 0}
    # Keeps memory bounded when the pictures are many or huge.
    limits = [max(1, 2 * limit // len(paths)) for limit in (max_train, max_test)]
    if by_region:
        limits[1] = max_test
    held_out = np.zeros(len(paths), bool)
    held_out[rng.permutation(len(paths))[: max(1, len(paths) // 5)]] = True
    for i, path in enumerate(paths):
        picture = read_picture(path)
        height, width = picture.shape[:2]
        if min(height, width) < (BLOCK if by_region else PATCH):
            continue
        used += 1
        mask = np.zeros((height, width), bool)
        if by_region:
            blocks = held_out_blocks(height, width, rng)
            for block in blocks:
                mask[block] = True
            examples.append(picture[blocks[0]])
        else:
            mask[:] = held_out[i]
        scales = [(picture, mask)]
        if min(height, width) >= 2 * BLOCK:
            # The blocks start at even pixels: 4 pixels that become one are held out, or none is.
            small = mask[: height // 2 * 2, : width // 2 * 2]
            small = small.reshape(height // 2, 2, width // 2, 2)
            scales.append((halve(picture), small.all((1, 3))))
        new_train: list[np.ndarray] = []
        new_test: list[np.ndarray] = []
        for scaled, out in scales:
            new_test.extend(crops(scaled, PATCH, out))
            new_train.extend(crops(scaled, 8, ~out))
        found["train"] += len(new_train)
        found["test"] += len(new_test)
        for new, kept, limit in ((new_train, train, limits[0]), (new_test, test, limits[1])):
            if len(new) > limit:
                new = [new[j] for j in rng.choice(len(new), limit, replace=False)]
            kept.extend(patch.copy() for patch in new)
        if not by_region and held_out[i] and min(height, width) >= PATCH and len(examples) < 8:
            examples.append(picture[:PATCH, :PATCH])
    need = BLOCK if by_region else PATCH
    if len(train) < 100 or len(test) < 10:
        raise ValueError(
            f"too little to learn from: {len(train)} patches for training and {len(test)} for "
            f"testing (at least 100 and 10) in {used} pictures of {need} x {need} pixels or more"
        )
    cut = []
    for patches, limit in ((train, max_train), (test, max_test)):
        chosen = np.sort(rng.permutation(len(patches))[:limit])
        cut.append(np.stack([patches[j] for j in chosen]))
    about = {
        "pictures": used,
        "files": [path.name for path in paths] if len(paths) <= 20 else f"{len(paths)} files",
        "split": "by region" if by_region else "by picture",
        "train_patches": len(cut[0]),
        "test_patches": len(cut[1]),
        "patches_found": found,
        "sha256": hashlib.sha256(cut[0].tobytes() + cut[1].tobytes()).hexdigest(),
    }
    return Patches(cut[0], cut[1], np.stack(examples[:8]), about)


# ---------------------------------------------------------------------------------------- model


class Residual(nn.Module):
    """Add what two convolutions make of the input to it, [B, C, H, W] -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x + body(x)."""
        return x + self.body(x)


class ImageVQVAE(nn.Module):
    """Code pictures as a grid of codeword indices, a quarter of their height and width.

    ::

        picture ─► /2 ─► /2 ─► residual ─► 1x1 ─► quantizer ─► 3x3 ─► residual ─► x2 ─► x2
        [B,3,H,W]                          [B,D,H/4,W/4]                            [B,3,H,W]

    Parameters
    ----------
    method : str           one of `experiments.vq_methods.METHODS`
    codebook_size : int    K
    settings : Settings

    References
    ----------
    van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017.
    """

    def __init__(self, method: str, codebook_size: int, settings: Settings) -> None:
        super().__init__()
        c, dim = settings.channels, settings.dim
        self.encoder = nn.Sequential(
            nn.Conv2d(3, c // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(c // 2, c, 4, stride=2, padding=1),
            Residual(c),
            nn.ReLU(),
            nn.Conv2d(c, dim, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, c, 3, padding=1),
            Residual(c),
            nn.ReLU(),
            nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(c // 2, 3, 4, stride=2, padding=1),
        )
        # The quantizer comes last: the networks of all rows start from the same weights.
        first = settings.codebook_scale * torch.randn(codebook_size, dim)
        self.quantizer = make_quantizer(method, codebook_size, dim, first)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoded pictures [B, 3, H, W], indices [B, H/4, W/4, 1], auxiliary loss."""
        latent = self.encoder(pictures).permute(0, 2, 3, 1)  # [B, H/4, W/4, D]
        out = self.quantizer(latent)
        return self.decoder(out.quantized.permute(0, 3, 1, 2)), out.indices, out.auxiliary_loss


def to_tensor(patches: np.ndarray) -> Tensor:
    """Return uint8 pictures [B, H, W, 3] as float32 [B, 3, H, W], -0.5 to 0.5."""
    return torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255 - 0.5


@torch.no_grad()
def code(model: ImageVQVAE, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures [B, H, W, 3] as decoded from their indices (uint8), and the indices."""
    model.eval()
    decoded, indices = [], []
    for start in range(0, len(pictures), 64):
        out, chosen, _ = model(to_tensor(pictures[start : start + 64]))
        rounded = ((out + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        decoded.append(rounded.permute(0, 2, 3, 1).numpy())
        indices.append(chosen.flatten().numpy())
    model.train()
    return np.concatenate(decoded), np.concatenate(indices)


def mean_error(reference: np.ndarray, decoded: np.ndarray) -> float:
    """Return the MSE of uint8 pictures, for pixels between 0 and 1."""
    return float(np.square(reference.astype(np.float64) - decoded).mean() / 255**2)


def quality(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """Return mean SSIM and mean peak SNR (dB) of uint8 patches [B, H, W, 3], and their MSE.

    SSIM as by `skimage.metrics` with its defaults (7 x 7 window, mean over colours); the peak SNR
    of a patch is 10 log10(255**2 / MSE), its MSE not below that of rounding (1/12). The returned
    ``mse`` is for pixels between 0 and 1, as in training.
    """
    error = reference.astype(np.float64) - decoded
    mse = np.square(error).mean((1, 2, 3))
    peak_snr = 10 * np.log10(255**2 / np.maximum(mse, 1 / 12))
    ssim = [
        structural_similarity(a, b, channel_axis=2, data_range=255)
        for a, b in zip(reference, decoded, strict=True)
    ]
    return {
        "ssim": float(np.mean(ssim)),
        "peak_snr_db": float(peak_snr.mean()),
        "mse": mean_error(reference, decoded),
    }


def train_and_score(
    row: Row, bits: int, seed: int, settings: Settings, patches: Patches
) -> dict[str, Any]:
    """Train one VQ-VAE and score it on the held-out patches.

    The loss is MSE / variance of the training pixels, plus the quantizer's own (STE, EMA). Seeds
    are the same in all rows: same first weights, same first codebook, same patches in each step.

    Returns
    -------
    dict with ``ssim``, ``peak_snr_db``, ``mse``, ``perplexity``, ``used`` (codewords used) on the
    held-out patches, ``cpu_seconds``, ``curve`` (lists ``step``, ``train_mse`` with the stand-in,
    ``train_perplexity`` over the steps since the point before; ``check_step``, ``check_mse`` of a
    quarter of the held-out patches with real codewords), ``replaced`` (codewords replaced, each
    time), ``examples`` (uint8, nested list; of the first seed only)
    """
    torch.set_num_threads(1)
    started = time.process_time()
    torch.manual_seed(seed)
    model = ImageVQVAE(row.method, 2**bits, settings).train()
    order = np.random.default_rng(seed)
    variance = float(np.var(patches.train[:2000] / 255.0))
    codebook = model.quantizer.codebook
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    fall = max(1, round(settings.decay * settings.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (settings.steps - step) / fall)
    )
    counts = np.zeros(2**bits, np.int64)
    errors: list[float] = []
    names = ("step", "train_mse", "train_perplexity", "check_step", "check_mse")
    curve: dict[str, list[float]] = {name: [] for name in names}
    replaced: list[int] = []
    for step in range(1, settings.steps + 1):
        chosen = order.integers(len(patches.train), size=settings.batch)
        batch = to_tensor(patches.train[chosen])
        decoded, indices, auxiliary = model(batch)
        mse = (decoded - batch).square().mean()
        optimizer.zero_grad()
        (mse / variance + auxiliary).backward()
        optimizer.step()
        schedule.step()
        errors.append(mse.item())
        counts += np.bincount(indices.flatten().numpy(), minlength=len(counts))
        if row.replaces and step % settings.replace_every == 0:
            if step <= settings.replace_until * settings.steps:
                dead = model.quantizer.replace_dead()
                reset_moments(optimizer, codebook, dead)
                replaced.append(int(dead.sum()))
        if step % settings.log_every == 0:
            curve["step"].append(step)
            curve["train_mse"].append(float(np.mean(errors)))
            curve["train_perplexity"].append(float(perplexity(torch.from_numpy(counts))))
            counts[:] = 0
            errors.clear()
        if step % settings.check_every == 0:
            curve["check_step"].append(step)
            curve["check_mse"].append(
                mean_error(patches.test[::4], code(model, patches.test[::4])[0])
            )
    decoded_test, indices_test = code(model, patches.test)
    usage = np.bincount(indices_test, minlength=2**bits)
    result: dict[str, Any] = quality(patches.test, decoded_test)
    result |= {
        "perplexity": float(perplexity(torch.from_numpy(usage))),
        "used": int((usage > 0).sum()),
        "curve": curve,
        "replaced": replaced,
    }
    if seed == 0:
        result["examples"] = code(model, patches.examples)[0].tolist()
    result["cpu_seconds"] = time.process_time() - started
    return result


# ----------------------------------------------------------------------------------------- runs

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


# -------------------------------------------------------------------------------------- summary


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def roughness(errors: Sequence[float]) -> float:
    """Return the mean step between points of a curve's second half over the curve's mean there."""
    half = np.asarray(errors[len(errors) // 2 :])
    return float(np.abs(np.diff(half)).mean() / half.mean()) if len(half) > 1 else 0.0


SCORES = ("ssim", "peak_snr_db", "mse", "perplexity", "used", "train_mse", "roughness")


def summarise(runs: Sequence[Run], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one dict per row and bits: scores of each seed, their mean and deviation, curves."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault((run.row.name, run.bits), []).append(i)
    summary = []
    for (name, bits), members in groups.items():
        row = runs[members[0]].row
        seeds = []
        for i in members:
            errors = results[i]["curve"]["train_mse"]
            scores = results[i] | {"train_mse": errors[-1], "roughness": roughness(errors)}
            kept = {key: float(f"{scores[key]:.6g}") for key in SCORES}
            seeds.append({"seed": runs[i].seed} | kept | {"replaced": results[i]["replaced"]})
        entry: dict[str, Any] = {
            "row": name,
            "method": row.method,
            "replaces": row.replaces,
            "bits": bits,
            "bits_per_patch": GRID * GRID * bits,
            "bits_per_pixel": GRID * GRID * bits / PATCH**2,
            "seeds": seeds,
        }
        for key in SCORES:
            entry[key], entry[f"{key}_std"] = mean_std([seed[key] for seed in seeds])
        curves = [results[i]["curve"] for i in members]
        entry["curve"] = {"step": curves[0]["step"], "check_step": curves[0]["check_step"]}
        for key in ("train_mse", "train_perplexity", "check_mse"):
            table = np.array([curve[key] for curve in curves])  # [seeds, points]
            spread = table.std(0, ddof=1) if len(table) > 1 else np.zeros(table.shape[1])
            for suffix, line in (("", table.mean(0)), ("_std", spread)):
                entry["curve"][key + suffix] = [float(f"{value:.4g}") for value in line]
        summary.append(entry)
    return summary


def lookup(summary: Sequence[dict[str, Any]], name: str, bits: int) -> dict[str, Any]:
    """Return the entry of a row at a codebook size."""
    return next(entry for entry in summary if entry["row"] == name and entry["bits"] == bits)


def present(summary: Sequence[dict[str, Any]]) -> tuple[list[Row], list[int]]:
    """Return the rows and the codebook sizes that a summary has."""
    names = {entry["row"] for entry in summary}
    return [row for row in ROWS if row.name in names], sorted({e["bits"] for e in summary})


def table(summary: Sequence[dict[str, Any]], key: str, digits: int) -> str:
    """Return a Markdown table of one score, mean and deviation, rows over bits."""
    rows, sizes = present(summary)
    lines = ["| | " + " | ".join(f"{bits} bits" for bits in sizes) + " |"]
    lines.append("|---|" + "---|" * len(sizes))
    for row in rows:
        cells = []
        for bits in sizes:
            entry = lookup(summary, row.name, bits)
            deviation = f" ± {entry[key + '_std']:.{digits}f}" if len(entry["seeds"]) > 1 else ""
            cells.append(f"{entry[key]:.{digits}f}{deviation}")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def all_tables(summary: Sequence[dict[str, Any]], seeds: int) -> str:
    """Return the tables of all scores as Markdown, each below its title."""
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "1 seed"
    return "\n\n".join(
        f"{title} ({over}):\n\n{table(summary, key, digits)}"
        for key, title, digits in (
            ("ssim", "**SSIM** of held-out patches", 3),
            ("peak_snr_db", "**Peak SNR** of held-out patches, dB", 2),
            ("perplexity", "**Perplexity** of the indices of held-out patches", 0),
            ("used", "**Codewords used** by held-out patches", 0),
            ("train_mse", "**Training error** (MSE) at the end", 5),
            ("roughness", "**Roughness** of the training error", 3),
        )
    )


def update_page(path: Path, tables: str) -> None:
    """Put the tables between the two marks of a page, if there is one that has them."""
    if not path.is_file():
        return
    text = path.read_text()
    before, start, rest = text.partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- end of tables -->\n")
    if start and end:
        atomic_write(path, f"{before}{start}\n{tables}\n\n{end}{after}".encode())


# -------------------------------------------------------------------------------------- figures


def draw_quality(summary: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw SSIM, peak SNR and perplexity over the codebook's bits, with deviations."""
    import matplotlib.pyplot as plt

    rows, sizes = present(summary)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    panels = (("ssim", "SSIM"), ("peak_snr_db", "peak SNR (dB)"), ("perplexity", "perplexity"))
    for axis, (key, label) in zip(axes, panels, strict=True):
        for row in rows:
            entries = [lookup(summary, row.name, bits) for bits in sizes]
            axis.errorbar(
                sizes,
                [entry[key] for entry in entries],
                [entry[f"{key}_std"] for entry in entries],
                label=row.name,
                capsize=3,
                markersize=5,
                **row.style,
            )
        axis.set_xticks(sizes, [f"{bits}\n{GRID * GRID * bits / PATCH**2:.4g}" for bits in sizes])
        axis.set_xlabel("bits per index, and per pixel")
        axis.set_title(f"{label}, held-out patches", fontsize=11)
        axis.grid(alpha=0.3)
    axes[2].set_yscale("log", base=2)
    axes[2].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[2].plot(sizes, [2**bits for bits in sizes], color="#999999", linewidth=1, zorder=0)
    middle = (sizes[0] + sizes[-1]) / 2
    axes[2].annotate(
        "all codewords", (middle, 2**middle), (-8, 6), textcoords="offset points",
        ha="right", color="#777777", fontsize=8,
    )  # fmt: skip
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_training(summary: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training error, held-out error and perplexity over the steps, at three sizes."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    rows, sizes = present(summary)
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})
    panels = (
        ("step", "train_mse", "training error (MSE)"),
        ("check_step", "check_mse", "held-out error (MSE)"),
        ("step", "train_perplexity", "perplexity"),
    )
    figure, axes = plt.subplots(
        3, len(shown), figsize=(4 * len(shown), 9), layout="constrained", squeeze=False,
        sharex=True, sharey="row",
    )  # fmt: skip
    for j, bits in enumerate(shown):
        for i, (x, y, label) in enumerate(panels):
            axis = axes[i, j]
            for row in rows:
                curve = lookup(summary, row.name, bits)["curve"]
                mean, spread = np.array(curve[y]), np.array(curve[f"{y}_std"])
                style = row.style | {"marker": ""}
                axis.plot(curve[x], mean, label=row.name, linewidth=1.4, **style)
                low = np.maximum(mean - spread, 0.2 * mean)
                axis.fill_between(
                    curve[x], low, mean + spread, color=style["color"], alpha=0.15, linewidth=0
                )
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.yaxis.set_minor_formatter("")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.grid(alpha=0.3)
            if i == 0:
                axis.set_title(f"{bits} bits ({2**bits} codewords)", fontsize=11)
            if i == 2:
                axis.set_xlabel("step")
            if j == 0:
                axis.set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_examples(
    originals: np.ndarray, decoded: dict[str, np.ndarray], bits: int, path: Path
) -> None:
    """Draw held-out parts of pictures, original and as decoded, a line per row."""
    import matplotlib.pyplot as plt

    lines = {"original": originals} | decoded
    columns = min(5, len(originals))
    figure, axes = plt.subplots(
        len(lines), columns, figsize=(1.6 * columns + 0.4, 1.61 * len(lines) + 0.35),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for i, (name, pictures) in enumerate(lines.items()):
        for j in range(columns):
            axis = axes[i, j]
            axis.imshow(pictures[j], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if i:
                mse = np.square(originals[j].astype(float) - pictures[j]).mean()
                axis.text(
                    0.97, 0.04, f"{10 * np.log10(255**2 / max(mse, 1 / 12)):.1f} dB",
                    transform=axis.transAxes, ha="right", fontsize=7, color="white",
                    bbox={"facecolor": "black", "alpha": 0.55, "pad": 1.5, "linewidth": 0},
                )  # fmt: skip
        axes[i, 0].set_ylabel(name.replace(" + ", "\n+ ").replace(", ", ",\n"), fontsize=9)
    rate = GRID * GRID * bits / PATCH**2
    figure.suptitle(f"Held-out parts at {bits} bits per index, {rate:.4g} bit/pixel", fontsize=11)
    figure.savefig(path, dpi=90)
    plt.close(figure)


# ----------------------------------------------------------------------------------------- main


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    summary, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        description=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: a check")
    parser.add_argument("--data", type=Path, help="folder of pictures instead of the bundled ones")
    parser.add_argument("--out", type=Path, help="docs/experiments, with --quick runs/quick")
    parser.add_argument("--work", type=Path, default=Path("runs/images"), help="keeps done runs")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--seeds", type=int, help="runs of each kind (3, with --quick 1)")
    parser.add_argument("--steps", type=int, help="training steps (1200, with --quick 100)")
    parser.add_argument("--bits", help="codebook sizes, as in 8,10,12")
    options = parser.parse_args(arguments)
    options.out = options.out or Path("runs/quick" if options.quick else "docs/experiments")
    options.seeds = (1 if options.quick else 3) if options.seeds is None else options.seeds
    for name, least in (("jobs", 1), ("seeds", 1), ("steps", 50)):
        value = getattr(options, name)
        if value is not None and value < least:
            fail(f"--{name} must be at least {least}, not {value}")
    if options.bits is not None:
        try:
            options.bits = tuple(sorted({int(bits) for bits in options.bits.split(",")}))
        except ValueError:
            fail(f"--bits must be whole numbers with commas between them, not '{options.bits}'")
        if not 1 <= options.bits[0] <= options.bits[-1] <= 16:
            fail("--bits must be between 1 and 16")
    return options


def without_paths(arguments: Sequence[str]) -> list[str]:
    """Return the options that say what was done, without the folders of one machine."""
    kept: list[str] = []
    hidden = False
    for argument in arguments:
        name = argument.split("=")[0]
        if name in ("--out", "--work", "--jobs"):
            hidden = "=" not in argument
        elif name == "--data":
            kept += ["--data", "DIR"]
            hidden = "=" not in argument
        elif hidden:
            hidden = False
        else:
            kept.append(argument)
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut the pictures, do the runs, write figures and JSON, print the tables."""
    options = parse(arguments)
    settings, sizes, rows, max_test = Settings(), BITS, ROWS, 512
    if options.quick:
        settings = replace(settings, steps=100, batch=16, log_every=10, check_every=50)
        settings = replace(settings, replace_every=10)
        sizes, rows, max_test = (8, 10), ROWS[:3], 128
    if options.steps:
        settings = replace(settings, steps=options.steps)
    sizes = options.bits or sizes
    started = time.monotonic()
    try:
        paths = list_pictures(options.data) if options.data else bundled_paths()
        patches = cut_patches(paths, max_test=max_test)
    except ValueError as error:
        fail(str(error))
    work = options.work / fingerprint(settings, patches)
    for folder in (options.out, work):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"cannot make the folder '{folder}' ({error.strerror})")
    about = patches.about
    print(
        f"{about['pictures']} pictures, split {about['split']}: {about['train_patches']} patches "
        f"for training, {about['test_patches']} for testing"
    )
    # By seed first: what an interruption leaves is complete for the seeds before.
    runs = [Run(row, b, seed) for seed in range(options.seeds) for b in sizes for row in rows]
    try:
        do_all(runs, settings, patches, work, options.jobs)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    results = [json.loads(result_path(work, run).read_text()) for run in runs]
    summary = summarise(runs, results)

    middle = sizes[len(sizes) // 2]
    decoded = {
        run.row.name: np.array(result["examples"], np.uint8)
        for run, result in zip(runs, results, strict=True)
        if run.bits == middle and run.seed == 0
    }
    given = sys.argv[1:] if arguments is None else list(arguments)
    header = {
        "command": " ".join(["python experiments/images.py", *without_paths(given)]),
        "quick": options.quick,
        "settings": asdict(settings),
        "seeds": options.seeds,
        "data": about,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-image": skimage.__version__,
        },
        "cpu_seconds": round(sum(result["cpu_seconds"] for result in results)),
    }
    text = json.dumps(header, indent=1)[:-2] + ',\n "results": [\n'
    text += ",\n".join("  " + json.dumps(entry) for entry in summary) + "\n ]\n}\n"
    import matplotlib

    matplotlib.use("Agg")
    draw_quality(summary, options.out / "images.png")
    draw_training(summary, options.out / "images_training.png")
    draw_examples(patches.examples, decoded, middle, options.out / "images_examples.png")
    atomic_write(options.out / "images.json", text.encode())
    tables = all_tables(summary, options.seeds)
    print("\n" + tables)
    update_page(options.out / "images.md", tables)
    print(
        f"\n{(time.monotonic() - started) / 60:.1f} minutes; the runs took "
        f"{header['cpu_seconds'] / 60:.1f} minutes of CPU time in all; written to '{options.out}'"
    )


if __name__ == "__main__":
    main()
