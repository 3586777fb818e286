"""Options of `codec train` are the fields of TrainConfig."""

import dataclasses
import inspect
from pathlib import Path

import cli
from models.training.config import TrainConfig, options_table


def test_every_field_is_an_option_with_its_default() -> None:
    parameters = inspect.signature(cli.train).parameters
    assert list(parameters) == [field.name for field in dataclasses.fields(TrainConfig)]
    for field in dataclasses.fields(TrainConfig):
        default = parameters[field.name].default
        missing = field.default is dataclasses.MISSING
        assert default is inspect.Parameter.empty if missing else default == field.default
        assert field.metadata["help"].endswith(".")
        low, high = field.metadata["min"], field.metadata["max"]
        assert low is None or missing or low <= field.default
        assert high is None or missing or field.default <= high


def test_the_document_has_all_options() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "training.md"
    assert options_table() in page.read_text(encoding="utf-8")
