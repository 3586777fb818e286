"""State of a run: what codebooks begin with, and what is fitted again."""

from pathlib import Path

import pytest
import torch
from small_runs import begin, make_config, write_speech
from torch import Tensor

from models.training.data import CropSampler
from models.training.state import TrainState, freeze_part, refit_detail


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech"))


def spoilt(data_dir: Path) -> tuple[TrainState, CropSampler]:
    """Return a run whose codebooks of detail have been led astray."""
    state, sampler = begin(make_config(data_dir, data_dir))
    for detail in (state.net.detail, state.net.intra_detail):
        with torch.no_grad():
            detail.codebooks += 0.5
            detail.bias += 0.5
    return state, sampler


def detail_error(state: TrainState, sampler: CropSampler, intra: bool) -> float:
    """Return the rms error of detail of crops, octaves."""
    waveform = sampler.batch(0, 8)
    frames = (waveform.shape[1] + 160) // 320
    bits, stages = torch.full((8, frames), 264.0), torch.full((8,), state.net.config.num_stages)
    with torch.no_grad():
        kind = torch.full((8,), intra)
        out = state.net.eval()(waveform, bits, stages, hard=True, intra=kind)
    return float((out.detail.hard - out.wanted_detail).square().mean().sqrt())


@pytest.mark.parametrize("intra", [False, True])
def test_detail_is_fitted_again(data_dir: Path, intra: bool) -> None:
    state, sampler = spoilt(data_dir)
    before = detail_error(state, sampler, intra)
    refit_detail(make_config(data_dir, data_dir), state, sampler, crops=32)
    assert detail_error(state, sampler, intra) < 0.9 * before
    for name, value in state.net.named_parameters():
        if "detail." in name and not name.startswith("enhancer"):
            assert torch.equal(value, state.average.get_parameter(name))


def test_a_fit_is_the_same_each_time_and_leaves_the_rest_alone(data_dir: Path) -> None:
    def fitted(frozen: str | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        state, sampler = spoilt(data_dir)
        if frozen:
            freeze_part(state.net, frozen)
        before = {name: value.clone() for name, value in state.net.state_dict().items()}
        refit_detail(make_config(data_dir, data_dir), state, sampler, crops=32)
        return before, state.net.state_dict()

    before, first = fitted()
    again = fitted()[1]
    for name, value in first.items():
        assert torch.equal(value, again[name])
        changed = name.startswith(("detail.", "intra_detail.")) and name.endswith(
            ("predictor", "bias", "codebooks")
        )
        assert torch.equal(value, before[name]) != changed, name
    before, after = fitted("detail")
    assert torch.equal(before["detail.codebooks"], after["detail.codebooks"])
    assert not torch.equal(before["intra_detail.codebooks"], after["intra_detail.codebooks"])
