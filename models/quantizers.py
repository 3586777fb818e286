"""Vector quantizers whose training replaces the quantization error: NSVQ, DiVeQ, and STE.

::

    x ──► nearest codeword c ──► hard error e = c - x
    │                                │ |e|
    └────────► + ◄── noise v ────────┘        forward (training):  x + |e| v/|v|
               │
               ▼  quantized                   encode/decode (inference):  c

The nearest neighbour has no gradient. NSVQ lets both the input and the codebook learn all the
same: the substituted value has the true error's norm, which is differentiable in both.

References
----------
Vali & Bäckström, "NSVQ: Noise Substitution in Vector Quantization for Machine Learning",
IEEE Access 10, 2022, eq. (5)-(7).
Vali, Bäckström & Solin, "DiVeQ: Differentiable Vector Quantization Using the Reparameterization
Trick", ICLR 2026.
Bengio, Léonard & Courville, "Estimating or propagating gradients through stochastic neurons",
2013 (STE); van den Oord et al., "Neural discrete representation learning", NeurIPS 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

ESTIMATORS = ("nsvq", "ste", "diveq")
DIVEQ_VARIANCE = 1e-3
COMMITMENT_WEIGHT = 0.25


class QuantizerOutput(NamedTuple):
    """Result of a quantizer's training pass.

    Attributes
    ----------
    quantized : float Tensor, shape [..., D]    what the rest of the graph sees
    hard : float Tensor, shape [..., D]         sum of the chosen codewords
    indices : int64 Tensor, shape [..., S]      chosen codewords (S = 1 for a single codebook)
    perplexity : float Tensor, shape [S]        2**entropy of the indices of this batch
    auxiliary_loss : float Tensor, scalar       zero but for ``ste`` (codebook + commitment)
    """

    quantized: Tensor
    hard: Tensor
    indices: Tensor
    perplexity: Tensor
    auxiliary_loss: Tensor


def either(intra: Tensor, own: QuantizerOutput, predicted: QuantizerOutput) -> QuantizerOutput:
    """Return what intra frames' own quantizer says where ``intra`` [B], the other elsewhere."""
    chosen = intra[:, None, None]
    return predicted._replace(
        quantized=torch.where(chosen, own.quantized, predicted.quantized),
        hard=torch.where(chosen, own.hard, predicted.hard),
        auxiliary_loss=predicted.auxiliary_loss + own.auxiliary_loss,
    )


def check_estimator(name: str) -> str:
    """Return ``name`` if it is a known estimator, else raise ``ValueError``."""
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator '{name}': choose one of {', '.join(ESTIMATORS)}")
    return name


def substitute(x: Tensor, hard: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
    """Return the differentiable stand-in for ``hard`` and the auxiliary loss.

    Parameters
    ----------
    x, hard : float Tensor, shape [..., D]   input and its hard-quantized value
    estimator : 'nsvq' | 'ste' | 'diveq'

    Returns
    -------
    quantized : shape [..., D]
    auxiliary_loss : scalar
    """
    zero = x.new_zeros(())
    if estimator == "ste":
        codebook_loss = (hard - x.detach()).square().mean()
        commitment = (hard.detach() - x).square().mean()
        return x + (hard - x).detach(), codebook_loss + COMMITMENT_WEIGHT * commitment
    error = hard - x
    norm = torch.linalg.vector_norm(error, dim=-1, keepdim=True)
    if estimator == "nsvq":
        direction = torch.randn_like(x)
    else:
        direction = error.detach() + DIVEQ_VARIANCE**0.5 * torch.randn_like(x)
    direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True).clamp_min(
        1e-12
    )
    return x + norm * direction, zero


def nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest codeword in L2, ties to the lowest.

    Parameters
    ----------
    x : float Tensor, shape [..., D]
    codebook : float Tensor, shape [K, D]

    Returns
    -------
    int64 Tensor, shape [...]
    """
    return (codebook.square().sum(-1) - 2 * x @ codebook.T).argmin(-1)


def perplexity(counts: Tensor) -> Tensor:
    """Return 2**entropy of counts along the last dimension, between 1 and K (0 counts give 1)."""
    p = counts.float() / counts.sum(-1, keepdim=True).clamp_min(1)
    return torch.exp2(-(p * torch.log2(p.clamp_min(1e-12))).sum(-1))


def reset_moments(optimizer: torch.optim.Optimizer, parameter: Tensor, mask: Tensor) -> None:
    """Zero Adam's moments of replaced codewords; a codebook that it does not train is skipped."""
    moments = optimizer.state.get(parameter, {})
    for key in ("exp_avg", "exp_avg_sq"):
        if key in moments:
            moments[key][mask] = 0.0


class CodebookUsage(nn.Module):
    """Counts hits of each codeword and replaces those that are hardly used.

    Buffers
    -------
    hits : float32, shape [S, K]   hits since the last replacement (saved in the state dict)
    total : float32, shape [S]     vectors quantized by each stage since then
    """

    hits: Tensor
    total: Tensor

    def __init__(self, num_stages: int, codebook_size: int, threshold: float = 0.05) -> None:
        super().__init__()
        self.threshold = threshold
        self.register_buffer("hits", torch.zeros(num_stages, codebook_size))
        self.register_buffer("total", torch.zeros(num_stages))

    @torch.no_grad()
    def count(self, indices: Tensor, stage: int) -> Tensor:
        """Add one hit per index (only in training mode) and return this batch's counts [K]."""
        batch = torch.bincount(indices.flatten(), minlength=self.hits.shape[1]).to(self.hits)
        if self.training:
            self.hits[stage] += batch
            self.total[stage] += batch.sum()
        return batch

    def dead(self) -> Tensor:
        """Return a bool mask [S, K] of codewords used below ``threshold`` x uniform use."""
        uniform = self.total[:, None] / self.hits.shape[1]
        return (self.hits < self.threshold * uniform) & (self.total[:, None] > 0)

    @torch.no_grad()
    def replace(self, codebooks: nn.Parameter, jitter: float = 0.01) -> Tensor:
        """Replace dead codewords by jittered copies of used ones, and start counting anew.

        A used codeword is drawn in proportion to its hits. The jitter is ``jitter`` times the
        norm of the copied codeword, so that it neither vanishes in float32 nor blurs small ones.

        Parameters
        ----------
        codebooks : Parameter, shape [S, K, D]
        jitter : float

        Returns
        -------
        bool Tensor, shape [S, K]   the replaced codewords (their optimizer moments want a reset)
        """
        dead = self.dead()
        for s in range(codebooks.shape[0]):
            count = int(dead[s].sum())
            weights = self.hits[s] * ~dead[s]
            if count == 0 or float(weights.sum()) == 0:
                dead[s] = False
                continue
            source = torch.multinomial(weights, count, replacement=True)
            chosen = codebooks[s, source]
            scale = jitter * torch.linalg.vector_norm(chosen, dim=-1, keepdim=True)
            scale = scale / chosen.shape[-1] ** 0.5
            codebooks[s, dead[s]] = chosen + scale * torch.randn_like(chosen)
        self.hits.zero_()
        self.total.zero_()
        return dead


class VectorQuantizer(nn.Module):
    """Quantize vectors with a single codebook, trained by ``nsvq``, ``ste`` or ``diveq``.

    Parameters
    ----------
    codebook_size : int   K
    dim : int             D
    estimator : str       one of :data:`ESTIMATORS`

    Attributes
    ----------
    codebook : Parameter, shape [K, D]
    usage : CodebookUsage

    Examples
    --------
    >>> quantizer = VectorQuantizer(256, 2)
    >>> out = quantizer(torch.randn(64, 2))
    >>> out.quantized.shape, out.indices.shape
    (torch.Size([64, 2]), torch.Size([64, 1]))
    """

    def __init__(self, codebook_size: int, dim: int, estimator: str = "nsvq") -> None:
        super().__init__()
        self.estimator = check_estimator(estimator)
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.usage = CodebookUsage(1, codebook_size)

    def encode(self, x: Tensor) -> Tensor:
        """Return the nearest codeword's index, shape [..., D] -> int64 [...]."""
        return nearest(x, self.codebook)

    def decode(self, indices: Tensor) -> Tensor:
        """Return the codewords of ``indices``, shape [...] -> [..., D]."""
        return self.codebook[indices]

    def forward(self, x: Tensor) -> QuantizerOutput:
        """Quantize ``x`` [..., D]; the estimator stands in for the hard value in training mode.

        In ``eval()`` the quantized value is the hard one, and nothing is counted.
        """
        with torch.no_grad():
            indices = self.encode(x)
        counts = self.usage.count(indices, 0)
        hard = self.decode(indices)
        if self.training:
            quantized, auxiliary = substitute(x, hard, self.estimator)
        else:
            quantized, auxiliary = hard, x.new_zeros(())
        return QuantizerOutput(
            quantized, hard, indices[..., None], perplexity(counts)[None], auxiliary
        )

    def replace_dead(self, jitter: float = 0.01) -> Tensor:
        """Replace hardly used codewords; returns the bool mask [K] of those replaced."""
        with torch.no_grad():
            stacked = nn.Parameter(self.codebook.detach()[None].clone())
            dead = self.usage.replace(stacked, jitter)
            self.codebook.copy_(stacked[0])
        return dead[0]
