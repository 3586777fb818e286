"""Search of the step offsets by rate: coordinate descent on the true loss.

The gradient of a step has to guess what happens when bins begin to be coded, and gets stuck: a band
far above its envelope feels nothing, and one octave less may be better on every measure at
once. So the offsets that depend on the rate alone (``StepAllocation.rate_offsets``) are found
without a gradient: move a group of bands up or down, code the same crops at the same rate, keep what
lowers the loss. Quantization is hard, the rate is met, and noise is the same in all trials.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.allocation import FIRST_KNOT, KNOTS_PER_OCTAVE, NUM_KNOTS
from models.codec_net import CodecNet
from models.losses import CodecLoss

# Neighbouring bands that move together first; then each band by itself.
GROUPS = ((0, 7), (7, 13), (13, 17), (17, 20), (9, 13), (13, 16))
# Improvement of the loss that is worth a move.
THRESHOLD = 2e-4


@torch.no_grad()
def score_rate(
    net: CodecNet, loss_fn: CodecLoss, batches: list[Tensor], packet_bits: float, num_stages: int
) -> float:
    """Return the mean loss of crops coded with packets of one size.

    Parameters
    ----------
    batches : list of float Tensors, shape [B, T]   T = (2P - 1) * N
    """
    total = 0.0
    for i, waveform in enumerate(batches):
        count = (waveform.shape[1] // net.config.hop_length + 1) // 2
        bits = torch.full((len(waveform), count), packet_bits, device=waveform.device)
        stages = torch.full((len(waveform),), num_stages, device=waveform.device)
        rate = torch.full((len(waveform),), packet_bits * net.config.packet_rate / 1000)
        torch.manual_seed(i)
        out = net(waveform, bits, stages, hard=True)
        loss, _ = loss_fn(waveform, out.waveform, rate.to(waveform))
        total += float(loss.mean())
    return total / len(batches)


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
    row = net.allocation.rate_offsets[knot]
    bands = net.config.num_bands
    groups = [range(*g) for g in GROUPS] + [range(b, b + 1) for b in range(bands)]
    best = before = score_rate(net, loss_fn, batches, packet_bits, stages)
    for move in moves:
        for group in groups:
            for signed in (move, -move):
                moved = False
                while True:
                    old = row.clone()
                    row[list(group)] += signed
                    score = score_rate(net, loss_fn, batches, packet_bits, stages)
                    if score < best - THRESHOLD:
                        best, moved = score, True
                    else:
                        row.copy_(old)
                        break
                if moved:
                    break
    row -= row.mean()
    net.train(training)
    return before, best
