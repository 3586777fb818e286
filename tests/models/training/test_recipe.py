"""Recipes: stages one after the other, exact resumption, mistakes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import FULL, start_fast, write_speech

from models.training import trainer
from models.training.config import PARTS, TrainConfig
from models.training.recipe import load_recipe, stage_configs, train_recipe

OPTIONS = "batch_size = 2\ncrop_seconds = 0.4\ncontext_steps = 2\ncontext_minutes = 0.05\n"
RECIPE = f"""
[[stage]]
name = "first"
steps = 3
seed = 5
{OPTIONS}
[[stage]]
name = "second"
steps = 2
freeze = "msvq,detail"
{OPTIONS}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    start_fast(monkeypatch)
    torch.set_num_threads(1)
    (tmp_path / "small.toml").write_text(RECIPE)
    (tmp_path / "speech").mkdir()
    speech, out = write_speech(tmp_path / "speech"), tmp_path / "run"
    return TrainConfig(str(speech), str(out), recipe=str(tmp_path / "small.toml"), num_threads=1)


def test_stages_follow_each_other_also_after_a_stop(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = train_recipe(config, FULL, quiet=True)
    assert path == tmp_path / "run" / "codec.safetensors"
    run = tmp_path / "run"
    first, second = (load_file(run / f / "codec.safetensors") for f in ("1-first", "2-second"))
    weights = load_file(path)
    assert all(torch.equal(weights[name], second[name]) for name in second)
    # The second stage went on from the first one, and left alone what it was told to.
    books = [name for name in first if "codebooks" in name and not name.startswith("intra")]
    assert books and all(torch.equal(first[name], second[name]) for name in books)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["training"]["steps"] == 2 and card["training"]["init_from"] == "codec.safetensors"

    # Stopped in the second stage, at its second step.
    other = dataclasses.replace(config, out_dir=str(tmp_path / "other"))
    original, calls = trainer.train_step, []

    def stop_at_five(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("killed")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", stop_at_five)
        with pytest.raises(RuntimeError, match="killed"):
            train_recipe(dataclasses.replace(other, checkpoint_every=1), FULL, quiet=True)
    assert not (tmp_path / "other" / "codec.safetensors").exists()
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", lambda *a: (calls.append(1), original(*a))[1])
        resumed = load_file(train_recipe(dataclasses.replace(other, resume=True), FULL, quiet=True))
    assert len(calls) == 1
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_the_shipped_recipe_is_one() -> None:
    stages = load_recipe("shipped")
    config = TrainConfig("speech", "run", recipe="shipped", device="cuda", validate_every=7)
    configs = stage_configs(config, stages)
    assert [c.out_dir for c in configs] == [f"run/{i}-{s.name}" for i, s in enumerate(stages, 1)]
    starts = [None, *(f"{c.out_dir}/codec.safetensors" for c in configs[:-1])]
    assert [c.init_from for c in configs] == starts
    for made, stage in zip(configs, stages, strict=True):
        assert made.device == "cuda" and made.validate_every == 7
        assert all(getattr(made, name) == value for name, value in stage.options.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no stages"),
        ("[[stage]", "recipe"),
        ("[[stage]]\nsteps = 3", "needs a name"),
        ('[[stage]]\nname = "../x"', "needs a name"),
        ("stage = [1, 2]", "no stages"),
        ('steps = 3\n[[stage]]\nname = "a"', "steps stands before the first"),
        ('[[stage]]\nname = "a"\nestimator = "best"', "estimator = 'best' is no value"),
        ('[[stage]]\nname = "a"\nstep = 3', "unknown option 'step'"),
        ('[[stage]]\nname = "a"\ndevice = "cuda"', "unknown option 'device'"),
        ('[[stage]]\nname = "a"\nsteps = 0', "steps = 0 is no value"),
        ('[[stage]]\nname = "a"\nsteps = "many"', "is no value"),
        ('[[stage]]\nname = "a"\nsteps = true', "is no value"),
    ],
)
def test_mistakes_in_recipes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('freeze = "enhancr"', "stage 'b': cannot freeze 'enhancr'"),
        (f'freeze = "{",".join(PARTS)}"', "stage 'b': every part is frozen"),
        ("coded = true", "stage 'b': --coded trains the decoder alone"),
    ],
)
def test_mistakes_of_late_stages_are_found_before_the_first(
    config: TrainConfig, tmp_path: Path, line: str, message: str
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[[stage]]\nname = "a"\n[[stage]]\nname = "b"\n{line}')
    with pytest.raises(ValueError, match=message):
        train_recipe(dataclasses.replace(config, recipe=str(recipe)), FULL, quiet=True)
    assert not (tmp_path / "run").exists()


def test_mistakes_with_recipes(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no recipe 'best': use shipped"):
        load_recipe("best")
    with pytest.raises(ValueError, match="recipe sets --steps"):
        train_recipe(dataclasses.replace(config, steps=5))
    with pytest.raises(ValueError, match="to resume: start without"):
        train_recipe(dataclasses.replace(config, resume=True))
    (Path(config.out_dir) / "1-first").mkdir(parents=True)
    with pytest.raises(ValueError, match="already holds a run"):
        train_recipe(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        train_recipe(config)
