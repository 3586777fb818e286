"""One step: it lowers the loss, leaves alone what is frozen, and survives NaN."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import synthetic_speech
from small_runs import TINY, begin, make_config, write_speech

from models.codec_net import CodecNet
from models.quantizers import reset_moments
from models.training import sampling
from models.training.acceleration import use_bfloat16
from models.training.allocation_search import Crops, crop_losses
from models.training.losses import CodecLoss
from models.training.state import TrainState, freeze_part
from models.training.step import learning_rate_at, train_step

ALL_BUT_CONCEALMENT = "analysis,msvq,intra_msvq,detail,intra_detail,allocation,enhancer"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech"))


def test_training_reduces_the_loss(data_dir: Path) -> None:
    config = make_config(data_dir, data_dir, steps=1000, warmup_steps=1, learning_rate=1e-3)
    state, sampler = begin(config)
    loss_fn = CodecLoss.from_config(config)
    sampler.augment = False
    batch = Crops(sampler.batch(1 << 30, 4), torch.ones(4, dtype=torch.bool))  # as it is,
    sampler.augment = True  # trained on what arrives in the field
    before = crop_losses(state.net.eval(), loss_fn, batch, 264.0, 3).mean()
    losses = [train_step(state, config, loss_fn, sampler)["loss"] for _ in range(160)]
    assert np.isfinite(losses).all()
    after = crop_losses(state.average.eval(), loss_fn, batch, 264.0, 3).mean()
    assert after < before - 0.05


def train_some(
    data_dir: Path, steps: int = 3, **changes: object
) -> tuple[TrainState, dict[str, torch.Tensor]]:
    config = make_config(data_dir, data_dir, learning_rate=1e-2, warmup_steps=1, **changes)
    state, sampler = begin(config)
    before = {name: value.clone() for name, value in state.net.state_dict().items()}
    for _ in range(steps):
        train_step(state, config, CodecLoss.from_config(config), sampler)
    return state, before


def changed_parts(state: TrainState, before: dict[str, torch.Tensor]) -> set[str]:
    after = state.net.state_dict()
    return {
        name.removesuffix(".weight").removesuffix(".bias")
        for name, value in before.items()
        if not torch.equal(after[name], value) and ".usage." not in name
    }


def test_training_the_concealment_alone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file without losses decodes to stays the same, bit for bit."""
    monkeypatch.setattr(sampling, "LOSS_RATES", (0.2, 0.4))  # crops are short here
    state, before = train_some(data_dir, freeze=ALL_BUT_CONCEALMENT, loss_share=1.0)
    changed = changed_parts(state, before)
    assert changed == {"enhancer.loss_inputs", "enhancer.lost_outputs"}
    net, old = state.net.eval(), CodecNet(TINY).eval()
    old.load_state_dict(before)
    waveform = torch.from_numpy(synthetic_speech(1.0, 3))[None, : 49 * 160]
    outputs = []
    for lost in (None, torch.arange(25)[None] == 10):
        for each in (net, old):
            torch.manual_seed(0)
            with torch.no_grad():
                bits = torch.full((1, 25), 264.0)
                intra = torch.tensor([True])
                outputs.append(each(waveform, bits, torch.tensor([3]), True, intra, lost).waveform)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[2], outputs[3])


def test_a_step_without_losses_trains_no_concealment(data_dir: Path) -> None:
    state, before = train_some(data_dir, 1, freeze=ALL_BUT_CONCEALMENT, loss_share=0.0)
    assert state.step == 1 and not changed_parts(state, before)


def test_freezing_the_concealment(data_dir: Path) -> None:
    state, before = train_some(data_dir, freeze="concealment", loss_share=1.0, preroll_seconds=1.0)
    changed = changed_parts(state, before)
    assert not {"enhancer.loss_inputs", "enhancer.lost_outputs"} & changed
    assert {"enhancer.outputs", "intra_msvq.codebooks"} <= changed
    with pytest.raises(ValueError, match="cannot freeze 'conceal': use analysis, msvq, intra_msvq"):
        freeze_part(state.net, "conceal")
    everything = f"{ALL_BUT_CONCEALMENT},concealment"
    with pytest.raises(ValueError, match="every part is frozen"):
        begin(make_config(data_dir, data_dir, freeze=everything))


def test_a_nan_is_skipped(data_dir: Path) -> None:
    config = make_config(data_dir, data_dir)
    state, sampler = begin(config)
    before = [p.detach().clone() for p in state.net.parameters()]

    class NaN(CodecLoss):
        def forward(self, *arguments: torch.Tensor):
            total, terms = super().forward(*arguments)
            return total * math.nan, terms

    values = train_step(state, config, NaN.from_config(config), sampler)
    assert values["skipped"] == 1.0 and state.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, state.net.parameters(), strict=True))


def test_moments_of_replaced_codewords_are_reset() -> None:
    parameter = torch.nn.Parameter(torch.randn(2, 4, 3))
    optimizer = torch.optim.Adam([parameter])
    parameter.square().sum().backward()
    optimizer.step()
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[1, 2] = True
    reset_moments(optimizer, parameter, mask)
    moments = optimizer.state[parameter]
    for key in ("exp_avg", "exp_avg_sq"):
        assert (moments[key][1, 2] == 0).all()
        assert (moments[key][~mask] != 0).all()


def test_learning_rate_rises_stays_and_falls(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path, steps=100, warmup_steps=10, decay_fraction=0.3)
    rates = [learning_rate_at(config, step) / config.learning_rate for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:71] == pytest.approx(62 * [1.0])
    assert all(b < a for a, b in zip(rates[71:], rates[72:], strict=False))
    assert rates[-1] == pytest.approx(0.02, abs=0.01)


def test_bfloat16_in_layers_only(data_dir: Path) -> None:
    """Half the bits in the layers change the loss little, and the exported network not at all."""
    losses = []
    for precision in ("float32", "bfloat16"):
        config = make_config(data_dir, data_dir, precision=precision)
        state, sampler = begin(config)
        before = set(state.net.state_dict())
        if precision == "bfloat16":
            use_bfloat16(state.net)
        loss_fn = CodecLoss.from_config(config)
        losses.append([train_step(state, config, loss_fn, sampler)["loss"] for _ in range(2)])
        assert set(state.net.state_dict()) == before
        assert all(p.dtype == torch.float32 for p in state.net.parameters())
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
