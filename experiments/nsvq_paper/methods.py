"""Ways to train one codebook, behind one interface: NSVQ, STE, DiVeQ (models/quantizers.py), EMA.

Used by the toy, image and speech experiments. The codec itself is trained with
gradients only, so the moving averages of VQ-VAE live here and not in ``models/``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.quantizers import (
    COMMITMENT_WEIGHT,
    CodebookUsage,
    QuantizerOutput,
    VectorQuantizer,
    nearest,
    perplexity,
)

METHODS = ("nsvq", "ste", "ema", "diveq")
METHOD_NAMES = {"nsvq": "NSVQ", "ste": "STE", "ema": "EMA", "diveq": "DiVeQ", "kmeans": "k-means"}
# Colour-blind safe (Okabe and Ito): one method has one colour in all figures.
METHOD_COLORS = {
    "nsvq": "#1f4e9c",
    "ste": "#d55e00",
    "ema": "#009e73",
    "diveq": "#cc79a7",
    "kmeans": "#555555",
}


class EMAQuantizer(nn.Module):
    """Quantize vectors with a codebook of moving averages, as in the appendix of VQ-VAE.

    With n_k vectors of a batch nearest to codeword k, and s_k their sum, a training pass sets ::

        N_k <- decay N_k + (1 - decay) n_k        cluster size
        m_k <- decay m_k + (1 - decay) s_k        cluster sum
        c_k <- (m_k + epsilon c_k) / (N_k + epsilon)

    after it has quantized the batch with the old codewords. ``epsilon`` is the Laplace smoothing
    of the usual implementations, but the vectors that it invents lie on the codeword and not on
    the origin: a codeword without hits stays where it is, as in the equations of the paper,
    instead of wandering to the origin once its N_k has decayed below epsilon.

    Gradients pass straight through to the input; ``auxiliary_loss`` is the commitment term.

    Parameters
    ----------
    codebook_size : int   K
    dim : int             D
    decay : float         0 <= decay < 1; 0.99 in the paper
    epsilon : float       > 0

    Buffers
    -------
    codebook : float32, shape [K, D]       no gradient: averages are all that moves it
    cluster_size : float32, shape [K]      N
    cluster_sum : float32, shape [K, D]    m

    Raises
    ------
    ValueError   decay or epsilon is out of range

    References
    ----------
    van den Oord, Vinyals & Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017,
    appendix A.1.
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor

    def __init__(
        self, codebook_size: int, dim: int, decay: float = 0.99, epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, not {epsilon}")
        self.estimator = "ema"
        self.decay = decay
        self.epsilon = epsilon
        self.register_buffer("codebook", torch.empty(codebook_size, dim))
        self.register_buffer("cluster_size", torch.empty(codebook_size))
        self.register_buffer("cluster_sum", torch.empty(codebook_size, dim))
        self.usage = CodebookUsage(1, codebook_size)
        self.set_codebook(torch.randn(codebook_size, dim))

    @torch.no_grad()
    def set_codebook(self, codebook: Tensor, cluster_size: float = 1.0) -> None:
        """Start the averages anew from these codewords [K, D], each with that cluster size."""
        self.codebook.copy_(codebook)
        self.cluster_size.fill_(cluster_size)
        self.cluster_sum.copy_(cluster_size * self.codebook)

    def encode(self, x: Tensor) -> Tensor:
        """Return the nearest codeword's index, shape [..., D] -> int64 [...]."""
        return nearest(x, self.codebook)

    def decode(self, indices: Tensor) -> Tensor:
        """Return the codewords of ``indices``, shape [...] -> [..., D]."""
        return self.codebook[indices]

    def forward(self, x: Tensor) -> QuantizerOutput:
        """Quantize ``x`` [..., D]; in training mode, then move the codewords towards it."""
        with torch.no_grad():
            indices = self.encode(x)
        counts = self.usage.count(indices, 0)
        hard = self.decode(indices)
        quantized, auxiliary = hard, x.new_zeros(())
        if self.training:
            quantized = x + (hard - x).detach()
            auxiliary = COMMITMENT_WEIGHT * (hard - x).square().mean()
            self._update(x.detach().reshape(-1, x.shape[-1]), indices.flatten(), counts)
        return QuantizerOutput(
            quantized, hard, indices[..., None], perplexity(counts)[None], auxiliary
        )

    @torch.no_grad()
    def _update(self, x: Tensor, indices: Tensor, counts: Tensor) -> None:
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, indices, x.to(self.cluster_sum))
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.cluster_sum.lerp_(sums, 1 - self.decay)
        total = self.cluster_sum + self.epsilon * self.codebook
        self.codebook.copy_(total / (self.cluster_size + self.epsilon)[:, None])

    @torch.no_grad()
    def replace_dead(self, jitter: float = 0.01, vectors: Tensor | None = None) -> Tensor:
        """Restart hardly used codewords; returns the bool mask [K] of those restarted.

        Parameters
        ----------
        jitter : float   see `models.quantizers.CodebookUsage.replace`
        vectors : float Tensor, shape [..., D], optional
            restart on random ones of these (as Jukebox does) instead of on copies of used codewords
        """
        if vectors is None:
            stacked = nn.Parameter(self.codebook[None].clone())
            dead = self.usage.replace(stacked, jitter)[0]
            restarted = stacked.detach()[0, dead]
        else:
            rows = vectors.detach().reshape(-1, self.codebook.shape[1])
            dead = self.usage.dead()[0]
            chosen = torch.randint(len(rows), (int(dead.sum()),), device=rows.device)
            restarted = rows[chosen].to(self.codebook)
            self.usage.hits.zero_()
            self.usage.total.zero_()
        # The average size: heavy enough to stay for a while, light enough to be moved by hits.
        size = self.cluster_size.mean()
        self.codebook[dead] = restarted
        self.cluster_size[dead] = size
        self.cluster_sum[dead] = size * restarted
        return dead


def make_quantizer(
    method: str, codebook_size: int, dim: int, codebook: Tensor | None = None
) -> VectorQuantizer | EMAQuantizer:
    """Return the quantizer of a method in :data:`METHODS`, starting from ``codebook`` [K, D].

    Raises
    ------
    ValueError   unknown method
    """
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}': choose one of {', '.join(METHODS)}")
    if method == "ema":
        ema = EMAQuantizer(codebook_size, dim)
        if codebook is not None:
            ema.set_codebook(codebook)
        return ema
    quantizer = VectorQuantizer(codebook_size, dim, method)
    if codebook is not None:
        with torch.no_grad():
            quantizer.codebook.copy_(codebook)
    return quantizer
