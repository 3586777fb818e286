"""The VQ alone: a 12-bit codebook learns envelopes, bare or between a small encoder and decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.measure.estimators import OCTAVE_DB
from experiments.nsvq_paper.speech.settings import CODEBOOK_BITS, VQSettings
from models.quantizers import QuantizerOutput, VectorQuantizer, reset_moments

REPLACE_UNTIL = 0.8  # part of the steps
CURVE_POINTS = 40


def random_codewords(like: Tensor, count: int) -> Tensor:
    """Return codewords [count, D] of a Gaussian with the mean and covariance of ``like`` [M, D]."""
    factor = torch.linalg.cholesky(like.T.cov() + 1e-6 * torch.eye(like.shape[-1]))
    return like.mean(0) + torch.randn(count, like.shape[-1]) @ factor.T


class EnvelopeVQ(nn.Module):
    """One codebook for envelopes [M, bands], bare or between networks.

    Parameters
    ----------
    estimator : str
    networks : bool           a small encoder and decoder around the quantizer
    settings : VQSettings
    known : float Tensor      envelopes; their moments normalise, the codebook starts like them
    """

    def __init__(self, estimator: str, networks: bool, settings: VQSettings, known: Tensor) -> None:
        super().__init__()
        bands, hidden = known.shape[-1], settings.hidden_size
        self.mean, self.spread = known.mean(0), known.std(0)

        def network(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.ELU(), nn.Linear(hidden, outputs))

        self.encoder: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()
        size = bands
        if networks:
            size = settings.latent_size
            self.encoder, self.decoder = network(bands, size), network(size, bands)
        self.quantizer = VectorQuantizer(1 << CODEBOOK_BITS, size, estimator)
        with torch.no_grad():
            latents = self.encode(known)
            self.quantizer.codebook.copy_(random_codewords(latents, 1 << CODEBOOK_BITS))

    def encode(self, batch: Tensor) -> Tensor:
        """Return what is quantized of envelopes."""
        latents: Tensor = self.encoder((batch - self.mean) / self.spread)
        return latents

    def forward(self, batch: Tensor) -> tuple[QuantizerOutput, Tensor, Tensor]:
        """Return the quantizer's output, and the squared errors (octaves) soft and hard."""
        out = self.quantizer(self.encode(batch))
        return out, self.error(out.quantized, batch), self.error(out.hard, batch)

    def error(self, quantized: Tensor, batch: Tensor) -> Tensor:
        """Return the mean squared error of quantized latents against envelopes."""
        decoded = self.decoder(quantized) * self.spread + self.mean
        return (decoded - batch).square().mean()


def make_optimizer(model: EnvelopeVQ, settings: VQSettings) -> torch.optim.Optimizer:
    """Return Adam with a rate for the codebook and one for the networks, if there are any."""
    groups = [{"params": model.quantizer.parameters(), "lr": settings.learning_rate}]
    networks = [*model.encoder.parameters(), *model.decoder.parameters()]
    if networks:
        groups.append({"params": networks, "lr": settings.network_learning_rate})
    return torch.optim.Adam(groups)


def train_vq(
    task: tuple[str, bool, bool, int], settings: VQSettings, train: np.ndarray, test: np.ndarray
) -> dict[str, Any]:
    """Train one codebook; ``task`` is (estimator, between networks, replacement, seed).

    Replacement is that of codewords that are hardly used.
    """
    estimator, networks, replacement, seed = task
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    known = torch.from_numpy(train)
    model = EnvelopeVQ(estimator, networks, settings, known).train()
    optimizer = make_optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    rng = np.random.default_rng(seed)
    curve = []
    for step in range(settings.steps):
        out, error, hard = model(
            known[torch.from_numpy(rng.integers(0, len(known), settings.batch))]
        )
        loss = error + out.auxiliary_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        due = step % settings.replace_every == settings.replace_every - 1
        if replacement and due and step < REPLACE_UNTIL * settings.steps:
            dead = model.quantizer.replace_dead()
            reset_moments(optimizer, model.quantizer.codebook, dead)
        if step % max(settings.steps // CURVE_POINTS, 1) == 0:
            rms = float(hard.detach().sqrt()) * OCTAVE_DB
            curve.append((step, round(rms, 4), round(float(out.perplexity[0]), 1)))
    model.eval()
    with torch.no_grad():
        out, _, hard = model(torch.from_numpy(test))
        used = len(torch.unique(model.quantizer.encode(model.encode(known))))
    return {
        "estimator": estimator,
        "networks": networks,
        "replacement": replacement,
        "seed": seed,
        "rms_db": float(hard.sqrt()) * OCTAVE_DB,
        "perplexity": float(out.perplexity[0]),
        "dead": (1 << CODEBOOK_BITS) - used,  # codewords that no training vector is nearest to
        "curve": curve,
    }
