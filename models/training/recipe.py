"""Recipes: a run in stages, each with settings of its own, each from the weights before.

A recipe is a TOML file with a table ``[[stage]]`` for each stage: its ``name``, and options of
``codec train``. Stage i runs in a folder of its own, ``OUT/i-name``, as `codec train --init-from`
would; the last one's weights are those of the run.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tqdm import tqdm

from codec.config import CodecConfig
from models.training.coded import check_coded
from models.training.config import TrainConfig
from models.training.state import frozen_parts
from models.training.trainer import CHECKPOINT, EXPORT, train

RECIPES = Path(__file__).with_name("recipes")
# Options that are given to the whole run; all others are the recipe's.
OF_THE_RUN = (
    "data_dir", "out_dir", "valid_dir", "dataset", "device", "num_threads", "precision", "compile",
    "resume", "checkpoint_every", "validate_every", "recipe",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One run of a recipe; ``options`` are fields of TrainConfig."""

    name: str
    options: dict[str, Any]


def load_recipe(recipe: str) -> list[Stage]:
    """Read the stages of a recipe.

    Parameters
    ----------
    recipe : str   a name of ``recipes/``, or a path that ends in .toml

    Raises
    ------
    ValueError   no such recipe, or one with unknown options or values out of range
    """
    path = Path(recipe) if recipe.endswith(".toml") else RECIPES / f"{recipe}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ValueError(f"no recipe '{recipe}': use {known}, or a file that ends in .toml")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe '{recipe}': {error}") from error
    stages = table.pop("stage", None)
    if table:
        raise ValueError(
            f"recipe '{recipe}': {next(iter(table))} stands before the first [[stage]]"
        )
    if not isinstance(stages, list) or not stages or not all(isinstance(s, dict) for s in stages):
        raise ValueError(f"recipe '{recipe}' has no stages: begin each with [[stage]]")
    return [_stage(recipe, number, table) for number, table in enumerate(stages, 1)]


def _stage(recipe: str, number: int, table: dict[str, Any]) -> Stage:
    options = dict(table)
    name = options.pop("name", None)
    if not isinstance(name, str) or not name.replace("-", "").isalnum():
        raise ValueError(f"recipe '{recipe}': stage {number} needs a name of letters and digits")
    known = {f.name: f for f in fields(TrainConfig) if f.name not in (*OF_THE_RUN, "init_from")}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"recipe '{recipe}': stage '{name}': unknown option '{key}'")
        if not _fits(known[key], value):
            raise ValueError(f"recipe '{recipe}': stage '{name}': {key} = {value!r} is no value")
    return Stage(name, options)


def _fits(field: Field[Any], value: Any) -> bool:
    """Return whether a value has the type and the range of an option."""
    kind = type(field.default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        return False
    low, high = field.metadata["min"], field.metadata["max"]
    choices = get_args(get_type_hints(TrainConfig)[field.name])
    if kind is str and choices and value not in choices:
        return False
    return (low is None or value >= low) and (high is None or value <= high)


def stage_configs(config: TrainConfig, stages: list[Stage]) -> list[TrainConfig]:
    """Return the options of each stage's run.

    Raises
    ------
    ValueError   ``config`` has options that are the recipe's
    """
    for field in fields(config):
        own = field.name not in OF_THE_RUN and field.default is not MISSING
        if own and getattr(config, field.name) != field.default:
            name = (field.metadata["name"] or field.name).replace("_", "-")
            raise ValueError(f"the recipe sets --{name}: leave it out, or write a recipe with it")
    configs: list[TrainConfig] = []
    for number, stage in enumerate(stages, 1):
        start = str(Path(configs[-1].out_dir) / EXPORT) if configs else None
        folder = Path(config.out_dir) / f"{number}-{stage.name}"
        options = {"out_dir": str(folder), "init_from": start, "recipe": None} | stage.options
        configs.append(replace(config, **options))
        try:
            # Or it would be found when its turn comes.
            frozen_parts(configs[-1])
            if configs[-1].coded:
                check_coded(configs[-1])
        except ValueError as error:
            raise ValueError(f"stage '{stage.name}': {error}") from error
    return configs


def train_recipe(
    config: TrainConfig, codec: CodecConfig | None = None, quiet: bool = False
) -> Path:
    """Run the stages of ``config.recipe``, one after the other; arguments as of ``train``.

    With ``config.resume``, stages that are done are left out, and the one that was stopped goes on
    where it was.

    Returns
    -------
    Path   the exported weights, ``out_dir/codec.safetensors`` (the card lies beside it)

    Raises
    ------
    ValueError, AudioError   bad recipe, options or data
    KeyboardInterrupt        after Ctrl-C, once the checkpoint is saved
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("a recipe runs in one process: start it without torchrun")
    configs = stage_configs(config, load_recipe(config.recipe or ""))
    begun = Path(configs[0].out_dir).exists()
    if begun and not config.resume:
        raise ValueError(f"'{config.out_dir}' already holds a run: continue it with --resume")
    if config.resume and not begun:
        raise ValueError(f"no run in '{config.out_dir}' to resume: start without --resume")
    for number, stage in enumerate(configs, 1):
        folder = Path(stage.out_dir)
        if (folder / EXPORT).is_file():
            continue
        if not quiet:
            tqdm.write(f"stage {number} of {len(configs)}: {folder.name}", file=sys.stderr)
        train(replace(stage, resume=(folder / CHECKPOINT).is_file()), codec, quiet)
    return _publish(Path(configs[-1].out_dir), Path(config.out_dir))


def _publish(source: Path, target: Path) -> Path:
    """Copy weights and card of the last stage to the run's folder."""
    for name in (EXPORT, str(Path(EXPORT).with_suffix(".json"))):
        temporary = target / f"{name}.tmp"
        shutil.copyfile(source / name, temporary)
        temporary.replace(target / name)
    return target / EXPORT
