"""Every experiment is a command: by module, and the measurements by their file, too."""

import importlib
import os
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEASURES = sorted(
    path.stem for path in (ROOT / "experiments" / "measure").glob("*.py") if path.stem != "__init__"
)


@pytest.mark.parametrize("name", MEASURES)
def test_measurements_say_how_they_are_called(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"experiments.measure.{name}")
    assert f"python -m experiments.measure.{name} " in module.__doc__
    with pytest.raises(SystemExit) as caught:
        module.main(["--help"])
    assert caught.value.code == 0
    assert f"python -m experiments.measure.{name}" in capsys.readouterr().out


def test_a_measurement_runs_from_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script it has its own folder on the path, and not the checkout."""
    path = ROOT / "experiments" / "measure" / "buzz.py"
    here = [p for p in sys.path if os.path.abspath(p or ".") != str(ROOT)]
    monkeypatch.setattr(sys, "path", [str(path.parent), *here])
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    assert caught.value.code == 0
