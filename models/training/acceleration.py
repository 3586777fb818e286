"""Faster arithmetic where the machine has it: bfloat16 layers, compiled parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.codec_net import CodecNet
from models.training.losses import CodecLoss


def use_bfloat16(net: CodecNet) -> None:
    """Let the linear and convolution layers compute in bfloat16; their outputs are float32.

    The layers, not whole networks: between them lie envelopes in octaves and powers, which the
    8 bits of a bfloat16 would spoil. The GRU stays float32: on CUDA, autocast may give it float16.
    """

    def wrap(layer: nn.Module) -> None:
        inner = layer.forward

        def forward(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16):
                return inner(x).float()

        layer.forward = forward  # type: ignore[method-assign]

    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            wrap(layer)


def use_compiler(net: CodecNet, loss_fn: CodecLoss) -> str | None:
    """Compile the enhancer and the spectral loss; returns why not, if that is impossible here.

    The PESQ loss checks its types at run time, which torch.compile cannot trace.
    """
    device = next(net.parameters()).device
    try:  # a trial: compilation is lazy, and would fail in the midst of the first step
        torch.compile(lambda x: (x * 2).sin())(torch.zeros(8, device=device))
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    net.enhancer.compile(dynamic=False)
    loss_fn.spectral.compile(dynamic=False)
    return None
