"""Rate control of training: Laplace code lengths, and the step at which they meet a frame's bits.

The context model of the bitstream is trained after the graph; until then a Laplace distribution,
whose scale follows the envelope, stands in for it. :func:`bisect_step` bisects the step of each
frame until the bits fit; :func:`newton_step` then takes one differentiable Newton step, so that the
gradient knows that bits spent in one band coarsen all others.

Shapes: magnitudes |MDCT| [B, F, 2, N]; the log2 of the Laplace scale, and of the steps of
coefficients, [B, F, N]; steps and bits of frames [B, F]. Logarithms are in octaves of amplitude.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codec.coding.allocation import MAX_DEPTH, SIDE_BITS
from codec.config import BLOCKS_PER_FRAME, LOG_ONE, ROUNDING

LOG2E = 1.4426950408889634
# Share of training sequences whose steps are moved away from where the Laplace bits put them, by
# STEP_SPREAD octaves around STEP_MEAN, over runs of STEP_RUN frames: where the envelope fits
# badly, as in digital silence, the context model pays far fewer bits: the true step is octaves
# finer.
MOVED_STEPS, STEP_MEAN, STEP_SPREAD, STEP_RUN = 0.3, -0.4, 0.9, 10
# Half width, in steps, of the zone around the first threshold in which a coefficient may change
# sides.
EDGE = 0.2
BISECTIONS, SEARCH_OCTAVES = 12, 16.0


def laplace_code_lengths(log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return bits of a zero, bits of a one (with sign), and bits per further unit.

    Parameters
    ----------
    log_scale : float Tensor   log2 of the Laplace scale, in quantizer steps
    """
    inverse = torch.exp2(-log_scale.clamp(-3.0, 9.0))
    zero = -torch.log2(-torch.expm1(-(1.0 - ROUNDING) * inverse))
    slope = LOG2E * inverse
    one = 1.0 + (1.0 - ROUNDING) * slope - torch.log2(-torch.expm1(-inverse))
    return zero, one, slope


def context_ratio(frame_bits: Tensor) -> Tensor:
    """Return what the context model is expected to need of the Laplace model's bits.

    0.88 at 160 bits per frame (8 kbit/s), 0.94 at 640: measured by
    ``experiments/measure/context_saving.py``; the finer the step, the more is incompressible.
    """
    return (0.88 + 0.03 * torch.log2(frame_bits / 160)).clamp(0.86, 0.96)


def coefficient_budget(frame_bits: Tensor, num_stages: Tensor, codebook_bits: int) -> Tensor:
    """Return the Laplace bits [B, F] that are left for the coefficients of frames.

    Parameters
    ----------
    frame_bits : float Tensor, shape [B, F]    all parts included
    num_stages : int64 Tensor, shape [B]       envelope stages of each sequence
    codebook_bits : int
    """
    # Indices are entropy coded: about one bit less than their width.
    side = (codebook_bits - 1) * num_stages[:, None].to(frame_bits) + SIDE_BITS
    return ((frame_bits - side) / context_ratio(frame_bits)).clamp_min(8.0)


def hard_bits(magnitude: Tensor, log_scale: Tensor, log_step: Tensor) -> Tensor:
    """Return the Laplace bits of each frame, [B, F], with quantized coefficients."""
    zero, one, slope = laplace_code_lengths(log_scale - log_step)
    level = torch.floor(magnitude * torch.exp2(-log_step)[:, :, None] + ROUNDING)
    further = (level - 1.0).clamp_min_(0.0).sum(2)
    count = level.clamp_(max=1.0).sum(2)  # nonzero coefficients of both blocks, [B, F, N]
    total = zero * (BLOCKS_PER_FRAME - count) + one * count + slope * further
    return total.sum(-1)


def soft_bits(magnitude: Tensor, log_scale: Tensor, log_step: Tensor) -> Tensor:
    """Return the Laplace bits [B, F] without steps: differentiable in step and scale.

    A coefficient becomes coded within ``EDGE`` of the threshold, as in what the quantizer loses.
    """
    zero, one, slope = laplace_code_lengths(log_scale - log_step)
    ratio = magnitude * torch.exp2(-log_step)[:, :, None]
    part = ((ratio - (1.0 - ROUNDING - EDGE)) / (2 * EDGE)).clamp(0.0, 1.0).sum(2)
    further = (ratio - 1.0).clamp_min(0.0).sum(2)
    return (zero * (BLOCKS_PER_FRAME - part) + one * part + slope * further).sum(-1)


@torch.no_grad()
def bisect_step(magnitude: Tensor, log_scale: Tensor, relative: Tensor, budget: Tensor) -> Tensor:
    """Return the finest step [B, F] (octaves) at which the hard bits stay within ``budget``.

    ``relative`` [B, F, N] is what the step of each coefficient lies above the frame's.
    """
    centre = (log_scale - relative).mean(-1)
    low, high = centre - SEARCH_OCTAVES, centre + SEARCH_OCTAVES
    for _ in range(BISECTIONS):
        step = 0.5 * (low + high)
        fits = hard_bits(magnitude, log_scale, step[..., None] + relative) <= budget
        high = torch.where(fits, step, high)
        low = torch.where(fits, low, step)
    return high


@torch.no_grad()
def expected_step(log_scale: Tensor, relative: Tensor, budget: Tensor) -> Tensor:
    """Return the step [B, F] at which a Laplace source of this scale needs ``budget`` bits."""
    centre = (log_scale - relative).mean(-1)
    table = expected_bits(log_scale)
    low, high = centre - SEARCH_OCTAVES, centre + SEARCH_OCTAVES
    for _ in range(BISECTIONS):
        step = 0.5 * (low + high)
        index = 16 * (log_scale - relative - step[..., None]) + 128
        bits = BLOCKS_PER_FRAME * table[index.floor().long().clamp(0, len(table) - 1)].sum(-1)
        high = torch.where(bits <= budget, step, high)
        low = torch.where(bits <= budget, low, step)
    return torch.maximum(high, (log_scale - relative).amax(-1) - MAX_DEPTH / LOG_ONE)


def expected_bits(like: Tensor) -> Tensor:
    """Return bits of a Laplace coefficient by log2 of its scale in steps, 16 entries per octave.

    Entry 128 is scale 1; the table spans 2^-8 to 2^12.
    """
    log_scale = torch.arange(-128, 192, dtype=torch.float64) / 16
    zero, one, slope = laplace_code_lengths(log_scale)
    inverse = torch.exp2(-log_scale)
    p_zero = -torch.expm1(-(1 - ROUNDING) * inverse)
    mean_further = 1 / torch.expm1(inverse)  # of |q| - 1, given |q| >= 1
    return (p_zero * zero + (1 - p_zero) * (one + slope * mean_further)).to(like)


@torch.no_grad()
def takes_fewer_bits(spectrum: Tensor, other: Tensor, log_step: Tensor) -> Tensor:
    """Return where frames of ``other`` take fewer bits than those of ``spectrum``, bool [B, F].

    The bits of a coefficient are taken to be log2(1 + ratio²) / 2, of its ratio to the step
    (``log_step`` [B, F, N]): none for what is far below it.
    """
    inverse = torch.exp2(-2.0 * log_step)[:, :, None]

    def bits(x: Tensor) -> Tensor:
        return torch.log1p(x.square() * inverse).sum((-2, -1))

    return bits(other) < bits(spectrum)


def newton_step(step: Tensor, magnitude: Tensor, log_scale: Tensor, relative: Tensor) -> Tensor:
    """Return ``step`` with the gradient of the step that keeps the bits what they are."""
    log_step = step[..., None] + relative
    with torch.no_grad():
        slope = hard_bits(magnitude, log_scale, log_step - 0.25)
        slope = 2.0 * (slope - hard_bits(magnitude, log_scale, log_step + 0.25))
        slope = slope.clamp_min(10.0)
    soft = soft_bits(magnitude, log_scale, log_step)
    return step + (soft - soft.detach()) / slope


def moved_steps(step: Tensor) -> Tensor:
    """Return by how much to move the steps [B, F] of some sequences, octaves."""
    batch, frames = step.shape
    runs = -(-frames // STEP_RUN)
    move = STEP_MEAN + STEP_SPREAD * torch.randn(batch, runs, device=step.device)
    move = move * (torch.rand(batch, runs, device=step.device) < 0.5)
    move = move * (torch.rand(batch, 1, device=step.device) < MOVED_STEPS)
    return move.repeat_interleave(STEP_RUN, 1)[:, :frames]
