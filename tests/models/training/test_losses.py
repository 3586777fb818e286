"""Training losses: what the similarity of gammatone spectrograms does and does not mind."""

import numpy as np
import torch
from conftest import synthetic_speech
from scipy.signal import butter, sosfiltfilt

from models.training.losses import CodecLoss, SimilarityLoss


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
