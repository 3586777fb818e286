"""MDCT: perfect reconstruction with the edges, orthonormality, refusals."""

import pytest
import torch

from codec.mdct import inverse_mdct, mdct, mdct_matrix, num_blocks

HOP = 160
LENGTHS = (0, 1, 159, 160, 161, 319, 320, 321, 479, 480, 481, 16000)


@pytest.mark.parametrize("length", LENGTHS)
def test_perfect_reconstruction(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    waveform = torch.rand(2, length, generator=generator) * 2 - 1
    blocks = num_blocks(length, HOP, 2)
    spectrum = mdct(waveform, max(blocks, 1), HOP)
    assert spectrum.shape == (2, max(blocks, 1), HOP)
    decoded = inverse_mdct(spectrum, length)
    assert decoded.shape == waveform.shape
    if length:  # every sample, those of the first and of the last block too
        assert (decoded - waveform).abs().max() < 1e-5


def test_reconstruction_without_slack() -> None:
    """The signal may fill the blocks to the last sample."""
    waveform = torch.ones(1, 3 * HOP)
    decoded = inverse_mdct(mdct(waveform, 4, HOP), 3 * HOP)
    assert (decoded - waveform).abs().max() < 1e-5


@pytest.mark.parametrize("length", LENGTHS)
def test_num_blocks_covers_the_signal_in_whole_packets(length: int) -> None:
    blocks = num_blocks(length, HOP, 2)
    assert blocks % 2 == 0
    if length == 0:
        assert blocks == 0
    else:
        assert length <= (blocks - 1) * HOP < length + 2 * HOP


@pytest.mark.parametrize("hop", [4, 160])
def test_orthonormal(hop: int) -> None:
    """The lapped basis is orthonormal: T T' = I for all blocks of a signal together."""
    basis = mdct_matrix(hop).double()
    head, tail = basis[:hop], basis[hop:]
    identity = torch.eye(hop, dtype=torch.float64)
    assert torch.allclose(basis.T @ basis, identity, atol=1e-6)
    assert torch.allclose(tail.T @ head, torch.zeros(hop, hop).double(), atol=1e-6)


def test_energy_is_kept() -> None:
    waveform = torch.randn(1, 20 * HOP, generator=torch.Generator().manual_seed(0))
    # Zeros around it, so that no block is cut in half.
    padded = torch.nn.functional.pad(waveform, (HOP, HOP))
    spectrum = mdct(padded, 23, HOP)
    assert torch.isclose(spectrum.square().sum(), waveform.square().sum(), rtol=1e-5)


def test_sine_falls_into_its_bin() -> None:
    k = 40
    n = torch.arange(16000)
    waveform = torch.sin(torch.pi * (k + 0.5) * n / HOP)[None]
    power = mdct(waveform, 101, HOP)[0, 5:95].square().mean(0)
    assert int(power.argmax()) == k
    assert power[k - 2 : k + 3].sum() > 0.99 * power.sum()


def test_too_few_blocks() -> None:
    with pytest.raises(ValueError, match="cover 160 samples, not 161"):
        mdct(torch.zeros(1, 161), 2, HOP)
    with pytest.raises(ValueError, match="cover"):
        mdct(torch.zeros(1, 1), 1, HOP)


def test_gradient_passes() -> None:
    waveform = torch.randn(1, 320, requires_grad=True)
    inverse_mdct(mdct(waveform, 3, HOP), 320).sum().backward()
    assert waveform.grad is not None
    assert torch.allclose(waveform.grad, torch.ones(1, 320), atol=1e-5)
