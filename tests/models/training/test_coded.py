"""Batches that the runtime codes: they are the crops, and the enhancer alone learns of them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file
from small_runs import make_config

from codec.weights import load_weights
from models.codec_net import CodecNet
from models.enhancer import DecodedFrames
from models.training.coded import ENCODER, CodedBatches
from models.training.config import TrainConfig
from models.training.data import CropSampler, load_directory
from models.training.distributed import ALONE
from models.training.export import load_net
from models.training.sampling import frames_per_crop, num_samples
from models.training.trainer import train

SHIPPED = Path(__file__).resolve().parents[3] / "codec" / "data" / "codec.safetensors"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("coded")
    (folder / "sound").mkdir()
    phase = np.cumsum(2 * np.pi * np.linspace(120, 260, 6 * 16000) / 16000)
    voice = sum(np.sin(n * phase) / n for n in range(1, 12)) / 8
    soundfile.write(folder / "sound" / "voice.wav", voice, 16000)
    return make_config(
        folder / "sound", folder / "run", coded=True, freeze=",".join(ENCODER),
        init_from=str(SHIPPED), steps=3, crop_seconds=1.0, loss_share=0.5, search_every=0,
        context_steps=0, learning_rate=1e-3, warmup_steps=1,
    )  # fmt: skip


def batches(config: TrainConfig) -> CodedBatches:
    recordings = load_directory(Path(config.data_dir))
    length = num_samples(frames_per_crop(config))
    sampler = CropSampler(recordings, length, config.seed, augment=False)
    return CodedBatches(config, sampler, load_weights(None), ALONE)


def same(a: DecodedFrames, b: DecodedFrames) -> bool:
    for x, y in zip(a, b, strict=True):
        if x is None or y is None:
            if x is not y:
                return False
        elif not torch.equal(x, y):
            return False
    return True


def test_a_step_does_not_depend_on_those_before(config: TrainConfig) -> None:
    coded = batches(config)
    first, second = coded.draw(0)[1], coded.draw(1)[1]
    assert not same(first, second)
    assert same(batches(config).draw(1)[1], second) and same(coded.draw(0)[1], first)


def test_the_crops_come_back(config: TrainConfig) -> None:
    """At the rates that were drawn, through the graph's enhancer: the signal is the crop's."""
    net = CodecNet(load_weights(None).config).eval()
    load_net(net, load_weights(None))
    coded, ratios = batches(config), []
    for step in range(4):
        batch, frames = coded.draw(step)
        assert frames.coefficients.shape[:2] == batch.lost.shape
        if frames.loss is not None:
            assert torch.equal(frames.loss[..., 0] > 0.5, batch.lost)
        with torch.no_grad():
            noise = torch.ones_like(frames.coefficients)
            spectrum, comb = net.enhance(frames, noise)
            out = net.synthesize(spectrum, frames, comb, batch.waveform.shape[1])
        error = (out - batch.waveform).square().mean(-1)
        ratios += (batch.waveform.square().mean(-1) / error)[~batch.lost.any(-1)].tolist()
    assert len(ratios) > 1 and np.median(ratios) > 10 ** (6.0 / 10)


def test_only_the_enhancer_changes(config: TrainConfig) -> None:
    before, after = load_file(str(SHIPPED)), load_file(str(train(config, quiet=True)))
    changed = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert changed and all(name.startswith("enhancer.") for name in changed)
    assert "enhancer.conv.weight" in changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": None}, "give --init-from"),
        ({"freeze": "msvq"}, "give --freeze analysis,msvq"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, changes: dict, message: str) -> None:
    fitting = {"coded": True, "freeze": ",".join(ENCODER), "init_from": "w.safetensors"}
    with pytest.raises(ValueError, match=message):
        train(make_config(tmp_path, tmp_path / "run", **(fitting | changes)))
