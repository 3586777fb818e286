"""Every example of the API reference runs, and prints what it says that it prints."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
NAMES = re.findall(r"^::: (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
MODULES = sorted({re.sub(r"\.[A-Z]\w*$", "", name) for name in NAMES} | {"codec"})


def load(name: str) -> object:
    """Return what a dotted name stands for."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: object = import_module(".".join(parts[:cut]))
            for part in parts[cut:]:
                found = getattr(found, part)
            return found
    raise AssertionError(f"{name}: no such module")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_what_there_is(name: str) -> None:
    assert (getattr(load(name), "__doc__", None) or "").strip()


def test_members_on_the_page_exist() -> None:
    found = re.findall(r"^::: (\S+)\n    options:\n      members: \[(.*)\]", PAGE.read_text(), re.M)
    assert len(found) >= 5
    for name, members in found:
        for member in members.split(", "):
            assert getattr(load(name), member).__doc__, f"{name}.{member}"


@pytest.mark.parametrize("name", ["codec", "codec.api", "codec.stream"])
def test_docstrings(name: str) -> None:
    module = import_module(name)
    wave = np.zeros(1600, np.float32)
    result = doctest.testmod(module, extraglobs={"wave": wave, "np": np})
    assert result.attempted >= 3 and result.failed == 0


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its examples in their order, each as if it stood below the one before."""
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {"folder": tmp_path}
    for block in blocks:
        said = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert said or "print" not in block
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, str(PAGE), "exec"), names)
        assert out.getvalue().splitlines() == said
    assert (tmp_path / "slt.wav").exists()


def test_the_readme() -> None:
    """Its Python block, which names what a user has: a waveform, samples."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    wave = np.zeros(3200, np.float32)
    names = {"wave": wave, "samples": wave}
    exec(compile(block, "README.md", "exec"), names)
    assert len(names["wave"]) == 3200 and len(names["samples_out"]) == 320
