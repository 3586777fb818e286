"""Training losses: what similarity and levels do and do not mind, and their weights."""

import numpy as np
import torch
from conftest import synthetic_speech
from scipy.signal import butter, sosfiltfilt

from codec.config import BAND_EDGES, NUM_BANDS
from models.training.losses import CodecLoss, LevelLoss, SimilarityLoss


def speech() -> torch.Tensor:
    return torch.from_numpy(synthetic_speech(2.0, 4))[None]


def test_similarity_of_a_signal_with_itself_is_one() -> None:
    loss = SimilarityLoss()
    waveform = speech()
    assert loss(waveform, waveform).shape == (1,)
    assert abs(float(loss(waveform, waveform))) < 0.02
    # The sign and the fine structure do not matter, only levels in bands.
    assert abs(float(loss(waveform, -waveform))) < 0.02


def test_similarity_minds_a_starved_band() -> None:
    loss = SimilarityLoss()
    waveform = speech()
    low = sosfiltfilt(butter(6, 3000, fs=16000, output="sos"), waveform.numpy())
    high = waveform - torch.from_numpy(low.copy()).float()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(waveform.shape, generator=generator)
    # Noise with the level of the high band in every 10 ms, and as good as none at all.
    level = high.view(1, -1, 160).square().mean(-1, keepdim=True).sqrt()
    filled = (noise.view(1, -1, 160) * level).flatten(1)
    starved = waveform - high
    assert float(loss(waveform, starved + 0.5 * filled)) < 0.8 * float(
        loss(waveform, starved + 1e-3 * noise)
    )


def test_similarity_has_a_gradient_in_silence() -> None:
    reference = torch.zeros(1, 8000)
    decoded = torch.zeros(1, 8000, requires_grad=True)
    value = SimilarityLoss()(reference, decoded)
    value.sum().backward()
    assert decoded.grad is not None
    assert np.isfinite(float(value.detach())) and np.isfinite(decoded.grad.numpy()).all()


def test_loss_weights_follow_the_rate() -> None:
    """Weights of 8 kbit/s at 8, of 32 at 32, their geometric mean at 16 kbit/s."""
    reference = torch.from_numpy(np.stack(3 * [synthetic_speech(1.0, 1)]))
    torch.manual_seed(0)
    decoded = reference + 0.02 * torch.randn(1, 16000)
    loss_fn = CodecLoss(0.0, 0.4, 1.0, error_32=0.1, spectral_32=2.0)
    total, terms = loss_fn(reference, decoded, torch.tensor([8.0, 16.0, 32.0]))
    error, spectral = float(terms["error"][0]), float(terms["spectral"][0])
    wanted = [0.4 * error + spectral, 0.2 * error + 2**0.5 * spectral, 0.1 * error + 2 * spectral]
    np.testing.assert_allclose(total.numpy(), wanted, rtol=1e-4)
    plain, _ = CodecLoss(0.0, 0.4, 1.0)(reference, decoded, torch.tensor(3 * [20.0]))
    np.testing.assert_allclose(plain.numpy(), 3 * [0.4 * error + spectral], rtol=1e-4)


# --------------------------------------------------------------------------------------------------
# Levels of bands


def band(low: float, high: float, waveform: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.rfft(waveform)
    frequency = torch.fft.rfftfreq(waveform.shape[-1], 1 / 16000)
    inside = (frequency >= low) & (frequency < high)
    return torch.fft.irfft(spectrum * inside, waveform.shape[-1])


def noise(seconds: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, int(seconds * 16000), generator=generator)


def test_level_loss_is_in_db() -> None:
    """A gain of g dB costs g, louder or quieter, at any level; sign and itself cost nothing."""
    loss = LevelLoss()
    for waveform in (noise(), 1e-3 * noise()):
        assert float(loss(waveform, waveform)) == 0.0
        assert float(loss(waveform, -waveform)) < 1e-5
        for gain_db in (-12.0, -3.0, 6.0):
            value = loss(waveform, waveform * 10 ** (gain_db / 20))
            assert value.shape == (1,)
            np.testing.assert_allclose(float(value), abs(gain_db), atol=0.05)


def test_level_loss_counts_bands_alike() -> None:
    """One band that is 10 dB too quiet costs its share of the bands, wherever it lies."""
    loss, waveform = LevelLoss(), noise(2.0)
    edges = np.array(BAND_EDGES) * 50.0
    costs = []
    for b in (8, 15, 22):  # wide enough that the slopes of the window do not matter
        part = band(edges[b], edges[b + 1], waveform)
        costs.append(float(loss(waveform, waveform - part * (1 - 10**-0.5))))
    np.testing.assert_allclose(costs, 10 / NUM_BANDS, rtol=0.35)


def test_level_loss_minds_the_time() -> None:
    """The right level in the wrong 100 ms costs; the mean level alone would not tell."""
    loss, waveform = LevelLoss(), noise()
    first = (torch.arange(16000) // 1600 % 2).float()
    loud = waveform * (0.1 + 0.9 * first)
    moved = waveform * (1.0 - 0.9 * first)
    assert float(loss(loud, moved)) > 14


def test_level_loss_leaves_silence_out() -> None:
    """What lies more than 60 dB below the loudest band is not judged."""
    loss, waveform = LevelLoss(), noise()
    half = torch.cat([waveform, 1e-5 * noise(seed=1)], 1)
    filled = torch.cat([waveform, 1e-4 * noise(seed=2)], 1)  # 20 dB more, still silent
    assert float(loss(half, filled)) < 0.3
    heard = torch.cat([waveform, 0.1 * noise(seed=1)], 1)
    louder = torch.cat([waveform, 1.0 * noise(seed=1)], 1)
    assert float(loss(heard, louder)) > 8


def test_level_loss_has_a_gradient_towards_the_level() -> None:
    loss, waveform = LevelLoss(), noise(0.5)
    gain = torch.tensor([[0.5]], requires_grad=True)
    loss(waveform, gain * waveform).sum().backward()
    # d|20 log10 g| / dg at 0.5: -20 / (ln 10 * 0.5)
    assert gain.grad is not None
    np.testing.assert_allclose(float(gain.grad), -17.37, rtol=1e-2)
    decoded = torch.zeros(1, 8000, requires_grad=True)
    loss(torch.zeros(1, 8000), decoded).sum().backward()
    assert decoded.grad is not None and np.isfinite(decoded.grad.numpy()).all()


def test_level_weight_is_that_of_the_level_loss() -> None:
    reference = noise()
    decoded = 0.5 * reference
    total, terms = CodecLoss(0.0, 0.0, 0.0, level=0.25)(reference, decoded)
    np.testing.assert_allclose(float(terms["level"]), 6.02, atol=0.05)
    np.testing.assert_allclose(float(total), 0.25 * float(terms["level"]), rtol=1e-3)
