"""The enhancer's recurrent layer, whose memory leaks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.config import GRU_LEAK


class LeakyGRU(nn.Module):
    """Gated recurrent unit whose memory is multiplied by ``GRU_LEAK`` before each frame.

    What it knows fades with a time constant of a second, so that it cannot drift in long signals.
    Parameters have the names, shapes and initial values of ``nn.GRU``'s.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        bound = size**-0.5

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.weight_ih_l0, self.weight_hh_l0 = (parameter(3 * size, size) for _ in range(2))
        self.bias_ih_l0, self.bias_hh_l0 = (parameter(3 * size) for _ in range(2))

    @torch.compiler.disable  # a loop over all frames is not worth unrolling
    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs [B, F, H] of inputs [B, F, H], and the memory [B, H] after them."""
        gates = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        outputs = []
        for gate in gates.unbind(1):
            memory = memory * GRU_LEAK
            own = nn.functional.linear(memory, self.weight_hh_l0, self.bias_hh_l0)
            reset, update, new = gate.chunk(3, -1)
            own_reset, own_update, own_new = own.chunk(3, -1)
            new = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
            memory = new + torch.sigmoid(update + own_update) * (memory - new)
            outputs.append(memory)
        return torch.stack(outputs, 1), memory
