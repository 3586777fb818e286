"""What a step codes: rates, stages and losses of the codec, and each rank has its part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import begin, make_config, write_speech

from models.training import sampling
from models.training.distributed import ALONE, ProcessGroup


def test_rates_and_stages_are_those_of_the_codec() -> None:
    for seed in range(20):
        bits, stages = sampling.draw_rates(np.random.default_rng(seed), 8, 5, 4)
        assert bits.shape == (8, 5) and (bits % 8 == 0).all()
        assert (bits >= 64).all() and (bits <= 2040).all()
        steady = bits[(bits == bits[:, :1]).all(1)]
        assert len(steady) > 2 and (steady >= 160).all() and (steady <= 640).all()
        assert (stages >= 1).all() and (stages <= 4).all()
        few = sampling.draw_rates(np.random.default_rng(seed), 8, 5, 2)[1]
        assert (few >= 1).all() and (few <= 2).all()
        middle = bits.median(1).values
        assert middle.min() < 280 < 400 < middle.max()  # all of the range in every batch


def test_drawn_losses() -> None:
    """As many crops as asked for lose frames, in bursts; only intra frames get lost."""
    rng = np.random.default_rng(0)
    draws = [sampling.draw_losses(rng, 16, 100, 0.3) for _ in range(60)]
    intra, lost = (torch.cat(parts) for parts in zip(*draws, strict=True))
    assert intra[lost.any(1)].all()
    assert not lost[:, : sampling.LOSS_FREE].any()
    assert 0.25 < lost.any(1).double().mean() < 0.32  # hardly any crop escapes by chance
    assert 0.3 + 0.1 < intra.double().mean() < 0.3 + 0.18
    hit = lost[lost.any(1)].double()
    assert 0.07 < hit.mean() < 0.16
    # A loss is likelier after a loss.
    after = hit[:, 1:][lost[lost.any(1)][:, :-1]].mean()
    assert after > 1.4 * hit.mean()
    intra, lost = sampling.draw_losses(rng, 64, 100, 0.0)
    assert not lost.any() and 0 < intra.sum() < 32


@pytest.mark.parametrize("rate, size", [(8.0, 20), (9.6, 24), (13.2, 33), (32.0, 80)])
def test_bytes_of_a_frame(rate: float, size: int) -> None:
    assert sampling.frame_bytes(rate) == size


@pytest.mark.parametrize("frames", [1, 4, 100])
def test_samples_of_frames(frames: int) -> None:
    assert sampling.num_frames(sampling.num_samples(frames)) == frames


def test_processes_share_the_batch(tmp_path: Path) -> None:
    config = make_config(write_speech(tmp_path), tmp_path, loss_share=1.0)
    _, sampler = begin(config)
    parts = [sampling.draw_batch(config, sampler, 5, 3, ProcessGroup(r, 2)) for r in (0, 1)]
    doubled = make_config(tmp_path, tmp_path, loss_share=1.0, batch_size=4)
    whole = sampling.draw_batch(doubled, sampler, 5, 3, ALONE)
    for name, value in whole._asdict().items():
        if name == "preroll":
            assert value == parts[0].preroll == parts[1].preroll == 0
            continue
        together = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(together, value), name
    assert whole.rate_kbps.shape == (4,)
    assert ((whole.rate_kbps > 3) & (whole.rate_kbps < 60)).all()


def test_prerolls_vary_and_fit(tmp_path: Path) -> None:
    config = make_config(write_speech(tmp_path), tmp_path, preroll_seconds=2.0)
    _, sampler = begin(config)
    drawn = [sampling.draw_preroll(config, sampler, step) for step in range(100)]
    assert 5 < drawn.count(0) < 40
    assert all(n == 0 or sampling.MIN_PREROLL <= n <= 100 for n in drawn)
    assert len(set(drawn)) > 20
    batch = sampling.draw_batch(config, sampler, drawn.index(max(drawn)), 3, ALONE)
    assert batch.preroll == max(drawn)
    assert (
        batch.frame_bits.shape[1]
        == 20 + batch.preroll
        == sampling.num_frames(batch.waveform.shape[1])
    )
