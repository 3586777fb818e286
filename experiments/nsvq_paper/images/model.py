"""The VQ-VAE of the image experiment, its training and its scores."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.extra import without_package
from experiments.nsvq_paper.images.pictures import Patches
from experiments.nsvq_paper.images.settings import Row, Settings
from experiments.nsvq_paper.methods import make_quantizer
from models.quantizers import perplexity, reset_moments

try:
    from skimage.metrics import structural_similarity
except ImportError as error:
    without_package(error)


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
