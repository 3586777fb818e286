"""Torch twins of the runtime's signal processing: what training needs of them beside parity."""

import math

import numpy as np
import pytest
import torch

from codec.config import BLOCKS_PER_FRAME, HOP_LENGTH, NUM_LOSS_FEATURES, NUM_LTPF_BANDS
from codec.dsp.noise import STEADY, fill
from codec.plc import LONGEST_GAP, RECOVERY, SILENCE
from models.dsp import (
    HISTORY,
    MIN_LAG,
    PITCH_FRAME,
    comb_filter,
    inverse_mdct,
    lpc_envelope,
    mdct,
    random_noise,
    track_pitch,
)
from models.plc import Concealed, conceal, repeat_period

HOP = HOP_LENGTH


@pytest.mark.parametrize("length", [1, 159, 160, 161, 319, 320, 16000])
def test_perfect_reconstruction(length: int) -> None:
    waveform = torch.rand(2, length, generator=torch.Generator().manual_seed(length)) * 2 - 1
    blocks = -(-length // HOP) + 1
    decoded = inverse_mdct(mdct(waveform, blocks), length)
    assert decoded.shape == waveform.shape
    assert (decoded - waveform).abs().max() < 1e-5  # first and last block too


def test_too_few_blocks() -> None:
    with pytest.raises(ValueError, match="cover 160 samples, not 161"):
        mdct(torch.zeros(1, 161), 2)


def test_gradient_of_the_transform() -> None:
    waveform = torch.randn(1, 320, requires_grad=True)
    inverse_mdct(mdct(waveform, 3), 320).sum().backward()
    assert torch.allclose(waveform.grad, torch.ones(1, 320), atol=1e-5)


@pytest.mark.parametrize("signal", ["speech", "silence", "sine", "square"])
def test_envelope_and_its_gradient_are_finite(signal: str, speech: np.ndarray) -> None:
    n = torch.arange(480)
    frames = {
        "speech": torch.from_numpy(speech[: 480 * 60]).view(60, 480).clone(),
        "silence": torch.zeros(1, 480),
        "sine": torch.sin(0.3 * n)[None],
        "square": torch.where(n // 40 % 2 == 0, 1.0, -1.0)[None],
    }[signal]
    frames.requires_grad_(True)
    envelope = lpc_envelope(frames)
    assert torch.isfinite(envelope).all()
    envelope.sum().backward()
    assert torch.isfinite(frames.grad).all()


def test_envelope_of_white_noise_is_flat() -> None:
    frames = 0.3 * torch.randn(200, 480, generator=torch.Generator().manual_seed(0))
    # A single frame ripples; the mean over frames is flat at log2 of the level.
    assert (lpc_envelope(frames).mean(0) - math.log2(0.3)).abs().max() < 0.2


def test_noise_is_of_the_decoders_kind() -> None:
    """Signs, and magnitudes of the runtime's distribution, shared in voiced frames."""
    torch.manual_seed(0)
    for periodicity in (0.0, 0.45, 1.0):
        got = random_noise(torch.full((500, BLOCKS_PER_FRAME), periodicity))
        wanted = np.empty((500, BLOCKS_PER_FRAME, HOP), np.float32)
        for number, out in enumerate(wanted):
            fill(number, np.full(BLOCKS_PER_FRAME, periodicity, np.float32), out)
        assert set(got[..., :STEADY].unique().tolist()) == {-1.0, 1.0}
        sizes, own = got[..., STEADY:].abs(), np.abs(wanted[..., STEADY:])
        shares = np.linspace(0.02, 0.98, 20)
        np.testing.assert_allclose(
            np.quantile(sizes.numpy(), shares), np.quantile(own, shares), atol=0.02
        )
        likeness = [np.corrcoef(x[:, 0].ravel(), x[:, 1].ravel())[0, 1] for x in (sizes, own)]
        assert likeness[0] == pytest.approx(likeness[1], abs=0.02)
        correlation = got[:50].flatten(0, 1) @ got[:50].flatten(0, 1).T / HOP
        assert correlation.fill_diagonal_(0).abs().mean() < 0.15


def test_pitch_and_comb_filter_have_gradients_where_they_should() -> None:
    waveform = torch.randn(1, HISTORY + 2 * HOP, requires_grad=True)
    gain = torch.full((1, 3, NUM_LTPF_BANDS), 0.3, requires_grad=True)
    comb_filter(waveform, torch.full((1, 3), 90), gain).square().sum().backward()
    assert torch.isfinite(waveform.grad).all()
    assert gain.grad.abs().min() > 0
    lag, periodicity = track_pitch(torch.randn(1, PITCH_FRAME + 4 * HOP, requires_grad=True))
    assert lag.shape == (1, 5) and not periodicity.requires_grad


# --------------------------------------------------------------------------------------------------
# Concealment


@pytest.mark.parametrize("lag", [MIN_LAG, 57, 100, 160, 159, 300])
def test_a_period_goes_on(lag: int) -> None:
    """A periodic signal is continued without an error, whatever the lag."""
    signal = np.tile(np.random.default_rng(lag).standard_normal(lag), 50)[:1600]
    history, coming = torch.from_numpy(signal[:-480])[None], signal[-480:]
    blocks = repeat_period(history, torch.tensor([lag]))
    out = inverse_mdct(blocks, HOP)[0].numpy()
    np.testing.assert_allclose(out, coming[HOP : 2 * HOP], atol=1e-6)


def concealed(lost: list[list[bool]]) -> tuple[Concealed, torch.Tensor, torch.Tensor]:
    """Conceal frames of noise; returns what came out, the coefficients and the envelopes."""
    gone = torch.tensor(lost)
    batch, frames = gone.shape
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(batch, 2 * frames, HOP, generator=generator)
    envelope = torch.randn(batch, frames, 20, generator=generator)
    log_bits = torch.rand(batch, frames, generator=generator) + 8.0
    return conceal(coefficients, gone, envelope, envelope + 1, log_bits), coefficients, envelope


def test_received_frames_stay_and_rows_are_independent() -> None:
    lost = [[False] * 20, [f in (4, 5, 12) for f in range(20)]]
    both, coefficients, envelope = concealed(lost)
    gone = torch.tensor(lost)
    received = ~gone.repeat_interleave(2, 1)
    assert torch.equal(both.coefficients[received], coefficients[received])
    assert torch.equal(both.envelope[~gone], envelope[~gone])
    assert not both.features[0].any()
    alone = conceal(
        coefficients[1:], gone[1:], envelope[1:], envelope[1:] + 1, torch.full((1, 20), 8.0)
    )
    torch.testing.assert_close(alone.coefficients[0], both.coefficients[1])
    assert torch.equal(alone.features[0], both.features[1])


def test_a_gap_is_described_and_fades() -> None:
    length = 12
    lost = [[3 <= f < 3 + length for f in range(30)]]
    out, _, envelope = concealed(lost)
    features = out.features[0]
    assert features.shape == (30, NUM_LOSS_FEATURES)
    assert features[:, 0].bool().tolist() == lost[0]
    wanted = [min(i, LONGEST_GAP) / LONGEST_GAP for i in range(length)]
    assert features[3 : 3 + length, 1].tolist() == pytest.approx(wanted)
    after = features[3 + length : 3 + length + RECOVERY + 2, 2].tolist()
    assert after == [0.5**i for i in range(RECOVERY)] + [0.0, 0.0]
    assert torch.equal(out.envelope[0, 3], envelope[0, 2])  # held, then fading to the floor
    assert torch.equal(out.envelope[0, 4], envelope[0, 2] - 0.5)
    assert (out.envelope >= SILENCE).all()
    power = out.coefficients[0].unflatten(0, (-1, 2)).square().sum((1, 2))
    assert power[3 + length - 1] < 0.02 * power[3]
    assert len(out.lag[0, 3 : 3 + length].unique()) == 1  # found once
