"""Search of the step offsets by rate: coordinate descent on the true loss.

The gradient of a step has to guess what happens when bins begin to be coded, and gets stuck: a band
far above its envelope feels nothing, and one octave less may be better on every measure at
once. So the offsets that depend on the rate alone (``StepAllocation.rate_offsets``) are found
without a gradient: move a group of bands up or down, code the same crops at the same rate, keep
what lowers the loss. Quantization is hard, the rate is met, and noise is the same in all trials.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.allocation import FIRST_KNOT, KNOTS_PER_OCTAVE, NUM_KNOTS
from models.codec_net import CodecNet
from models.losses import CodecLoss

# Neighbouring bands that move together first; then each band by itself.
GROUPS = ((0, 7), (7, 13), (13, 17), (17, 20), (9, 13), (13, 16))
# A move must lower the mean loss by this much, and by this many standard errors of the mean over
# the crops. Without the second condition the search finds what suits these crops and no others.
THRESHOLD, SIGNIFICANCE = 2e-4, 2.0


@torch.no_grad()
def crop_losses(
    net: CodecNet, loss_fn: CodecLoss, batch: Tensor, packet_bits: float, num_stages: int
) -> Tensor:
    """Return the losses [B] of crops coded with packets of one size.

    Parameters
    ----------
    batch : float Tensor, shape [B, T]   T = (2P - 1) * N
    """
    count = (batch.shape[1] // net.config.hop_length + 1) // 2
    bits = torch.full((len(batch), count), packet_bits, device=batch.device)
    stages = torch.full((len(batch),), num_stages, device=batch.device)
    rate = torch.full((len(batch),), packet_bits * net.config.packet_rate / 1000)
    torch.manual_seed(0)
    out = net(batch, bits, stages, hard=True)
    return loss_fn(batch, out.waveform, rate.to(batch))[0]


def search_offsets(
    net: CodecNet,
    loss_fn: CodecLoss,
    batches: list[Tensor],
    knot: int,
    moves: tuple[float, ...] = (0.5,),
) -> tuple[float, float]:
    """Improve one row of the table of offsets, in place.

    Parameters
    ----------
    batches : list of float Tensors, shape [B, T]
    knot : int               0..NUM_KNOTS - 1
    moves : tuple of float   sizes of the moves to try, octaves, largest first

    Returns
    -------
    before, after : float   mean loss
    """
    from codec.encoder import default_stages

    if not 0 <= knot < NUM_KNOTS:
        raise ValueError(f"knot is {knot}, outside 0..{NUM_KNOTS - 1}")
    training = net.training
    net.eval()
    packet_bits = 2.0 ** (FIRST_KNOT + knot / KNOTS_PER_OCTAVE)
    rate_bps = round(packet_bits * net.config.packet_rate)
    stages = min(default_stages(rate_bps), net.config.num_stages)
    groups = [range(*g) for g in GROUPS] + [range(b, b + 1) for b in range(net.config.num_bands)]

    def score(batch: Tensor) -> Tensor:
        return crop_losses(net, loss_fn, batch, packet_bits, stages)

    best = [score(batch) for batch in batches]
    before = float(torch.cat(best).mean())

    def better() -> list[Tensor] | None:
        """Return the crops' losses if they are lower for certain; most moves fail early."""
        losses: list[Tensor] = []
        for batch in batches:
            losses.append(score(batch))
            gain = torch.cat(best[: len(losses)]) - torch.cat(losses)
            error = gain.std() / len(gain) ** 0.5
            if gain.mean() < THRESHOLD or (
                len(losses) == len(batches) and gain.mean() < SIGNIFICANCE * error
            ):
                return None
        return losses

    row = net.allocation.rate_offsets[knot]
    for move in moves:
        for group in groups:
            for signed in (move, -move):
                moved = False
                while True:
                    old = row.clone()
                    row[list(group)] += signed
                    losses = better()
                    if losses is None:
                        row.copy_(old)
                        break
                    best, moved = losses, True
                if moved:
                    break
    row -= row.mean()
    net.train(training)
    return before, float(torch.cat(best).mean())
