"""Training losses: what the similarity of gammatone spectrograms does and does not mind."""

import numpy as np
import torch
from conftest import synthetic_speech
from scipy.signal import butter, sosfiltfilt

from models.training.losses import SimilarityLoss


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
