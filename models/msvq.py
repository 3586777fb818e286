"""Predictive multi-stage VQ of the log envelope: training by NSVQ, int16 tables for the bits.

::

    envelope e[t] ──(-)──► stage 1 ──► residual ──► stage 2 ──► ... ──► stage S
                     ▲         └── c1 ──────┬── c2 ───────────── cS ─┘
    predictor  A·ê[t-1] + b                 ▼
                     └────────────────────(+)──► ê[t], sum of table rows and the prediction

References
----------
Juang & Gray, "Multiple stage vector quantization for speech coding", ICASSP 1982.
LeBlanc et al., "Efficient search and design procedures for robust multi-stage VQ of LPC
parameters for 4 kb/s speech coding", IEEE Trans. SAP 1(4), 1993 (M-best search).
Vali & Bäckström, "End-to-End Optimized Multi-Stage Vector Quantization of Spectral Envelopes for
Speech and Audio Coding", Interspeech 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.quantizers import (
    CodebookUsage,
    QuantizerOutput,
    check_estimator,
    nearest,
    perplexity,
    substitute,
)


def affine_fit(known: Tensor, target: Tensor) -> Tensor:
    """Return the least-squares matrix [K + 1, D], last row the constant, of [M, K] to [M, D]."""
    design = torch.cat([known, torch.ones_like(known[:, :1])], -1)
    gram = design.T @ design + 1e-3 * len(design) * torch.eye(design.shape[1]).to(design)
    solution: Tensor = torch.linalg.solve(gram, design.T @ target)
    return solution


class PredictiveMSVQ(nn.Module):
    """Quantize a sequence of log envelopes by prediction and ``num_stages`` codebooks.

    Units are octaves of amplitude (log2). The prediction of the first frame of a sequence uses
    ``initial`` as the previous envelope.

    Parameters
    ----------
    num_stages, codebook_size, dim : int   S, K, D
    estimator : str                        one of ``models.quantizers.ESTIMATORS``
    predictive : bool                      False: the prediction is the constant ``bias``

    Attributes
    ----------
    codebooks : Parameter, shape [S, K, D]
    predictor : Parameter, shape [D, D]    A
    bias : Parameter, shape [D]            b
    initial : buffer, shape [D]            envelope before the first frame
    """

    initial: Tensor

    def __init__(
        self,
        num_stages: int,
        codebook_size: int,
        dim: int,
        estimator: str = "nsvq",
        predictive: bool = True,
    ) -> None:
        super().__init__()
        self.predictive = predictive
        self.estimator = check_estimator(estimator)
        scale = 2.0 ** -torch.arange(num_stages, dtype=torch.float32)[:, None, None]
        self.codebooks = nn.Parameter(torch.randn(num_stages, codebook_size, dim) * scale)
        self.predictor = nn.Parameter(0.7 * torch.eye(dim) * predictive, requires_grad=predictive)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("initial", torch.zeros(dim))
        self.usage = CodebookUsage(num_stages, codebook_size)

    @property
    def num_stages(self) -> int:
        """Return S."""
        return self.codebooks.shape[0]

    def predict(self, previous: Tensor) -> Tensor:
        """Return A·previous + b, shape [..., D]."""
        return previous @ self.predictor.T + self.bias

    @torch.no_grad()
    def search(self, envelope: Tensor, num_stages: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize closed-loop, stage by stage (greedy).

        Parameters
        ----------
        envelope : float Tensor, shape [B, F, D]
        num_stages : int64 Tensor, shape [B], values in 1..S

        Returns
        -------
        indices : int64 Tensor, shape [B, F, S]    stages beyond num_stages are not used
        previous : float Tensor, shape [B, F, D]   the decoded envelope of the frame before
        """
        batch, frames, dim = envelope.shape
        decoded = self.initial.expand(batch, dim)
        indices, previous = [], []
        for t in range(frames):
            previous.append(decoded)
            chosen, decoded = self.choose(envelope[:, t], self.predict(decoded), num_stages)
            indices.append(chosen)
        return torch.stack(indices, 1), torch.stack(previous, 1)

    def choose(
        self, target: Tensor, predicted: Tensor, num_stages: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return indices [..., S] of codewords, stage by stage, and what they decode to [..., D].

        Parameters
        ----------
        target, predicted : float Tensor, shape [..., D]
        num_stages : int64 Tensor, shape [...]
        """
        codebooks, chosen = self.codebooks.detach(), []
        energy = codebooks.square().sum(-1)
        for s in range(self.num_stages):
            distance = energy[s] - 2 * (target - predicted) @ codebooks[s].T
            index = distance.argmin(-1)
            predicted = predicted + codebooks[s, index] * (num_stages > s)[..., None]
            chosen.append(index)
        return torch.stack(chosen, -1), predicted

    def decode(self, indices: Tensor, previous: Tensor, num_stages: Tensor) -> Tensor:
        """Return prediction + sum of codewords, differentiable in both.

        Parameters
        ----------
        indices : int64 Tensor, shape [B, F, S]
        previous : float Tensor, shape [B, F, D]
        num_stages : int64 Tensor, shape [B] or [B, F]

        Returns
        -------
        float Tensor, shape [B, F, D]
        """
        hard = self.predict(previous)
        stages = num_stages[:, None] if num_stages.dim() == 1 else num_stages
        for s in range(self.num_stages):
            used = (stages > s).to(hard)[..., None]
            hard = hard + self.codebooks[s][indices[..., s]] * used
        return hard

    def forward(self, envelope: Tensor, num_stages: Tensor, hard: bool = False) -> QuantizerOutput:
        """Quantize envelopes [B, F, D]; noise substitution unless ``hard`` or ``eval()``.

        Parameters
        ----------
        envelope : float Tensor, shape [B, F, D]   octaves
        num_stages : int64 Tensor, shape [B]       stage dropout: stages used by each sequence
        hard : bool                                give the hard value, without gradient

        Returns
        -------
        QuantizerOutput   indices [B, F, S]; entries of unused stages are meaningless
        """
        indices, previous = self.search(envelope, num_stages)
        return self.replace(envelope, indices, previous, num_stages, hard)

    def replace(
        self, target: Tensor, indices: Tensor, known: Tensor, num_stages: Tensor, hard: bool
    ) -> QuantizerOutput:
        """Return what the graph sees of ``target`` [B, F, D], given its indices; see `forward`."""
        perplexities = []
        for s in range(self.num_stages):
            counts = self.usage.count(indices[num_stages > s][..., s], s)
            perplexities.append(perplexity(counts))
        value = self.decode(indices, known, num_stages)
        if self.training and not hard:
            quantized, auxiliary = substitute(target, value, self.estimator)
        else:
            quantized, auxiliary = value.detach(), target.new_zeros(())
        return QuantizerOutput(quantized, value, indices, torch.stack(perplexities), auxiliary)

    def replace_dead(self, jitter: float = 0.01) -> Tensor:
        """Replace hardly used codewords; returns the bool mask [S, K] of those replaced."""
        return self.usage.replace(self.codebooks, jitter)

    @torch.no_grad()
    def initialise(self, envelope: Tensor, iterations: int = 12) -> list[float]:
        """Fit predictor (least squares) and codebooks (stage-wise k-means) to data.

        The prediction residual is computed open-loop from the envelopes with noise of the
        expected quantization error added, which stands for the closed loop.

        Parameters
        ----------
        envelope : float Tensor, shape [B, F, D]   B sequences of consecutive frames
        iterations : int                           Lloyd iterations per stage

        Returns
        -------
        list of float   rms error after each stage, in octaves
        """
        if self.predictive:
            residual = self._fit_predictor(envelope)
        else:
            self.bias.copy_(envelope.flatten(0, 1).mean(0))
            residual = envelope.flatten(0, 1) - self.bias
        self.initial.copy_(envelope.flatten(0, 1).mean(0))
        return self._fit_codebooks(residual, iterations)

    @torch.no_grad()
    def _fit_predictor(self, envelope: Tensor) -> Tensor:
        """Fit A and b by least squares; returns what they leave, [M, D]."""
        dim = envelope.shape[-1]
        noisy = envelope + 0.45 * torch.randn_like(envelope)
        past = noisy[:, :-1].reshape(-1, dim)
        present = envelope[:, 1:].reshape(-1, dim)
        solution = affine_fit(past, present)
        # A leak of 5 % bounds how long a lost frame is heard.
        self.predictor.copy_(0.95 * solution[:-1].T)
        self.bias.copy_((present - past @ self.predictor.T).mean(0))
        return present - self.predict(past)

    @torch.no_grad()
    def _fit_codebooks(self, residual: Tensor, iterations: int) -> list[float]:
        """Fit the codebooks stage by stage to [M, D]; returns the rms error after each."""
        errors = []
        size = self.codebooks.shape[1]
        for s in range(self.num_stages):
            start = torch.randperm(max(len(residual), size))[:size] % len(residual)
            centres = residual[start].clone()
            for _ in range(iterations):
                index = nearest(residual, centres)
                counts = torch.bincount(index, minlength=size)
                sums = torch.zeros_like(centres).index_add_(0, index, residual)
                centres = torch.where(
                    counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centres
                )
                empty = counts == 0
                if empty.any():
                    pick = torch.randint(len(residual), (int(empty.sum()),))
                    centres[empty] = residual[pick]
            self.codebooks[s] = centres
            residual = residual - centres[nearest(residual, centres)]
            errors.append(float(residual.square().mean().sqrt()))
        return errors
