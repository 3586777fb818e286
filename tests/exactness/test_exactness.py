"""The same bytes give the same samples, and the same samples the same bytes, wherever it is done.

Workers code the golden files (``worker.py``) in the environments of ``environments.py``: some of
them in seconds, all of them, and with other machine code, in the slow tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import environments
import pytest
from environments import Environment

AARCH64 = Path(environments.HERE) / "aarch64.sh"
NEEDED = "numpy, numba, safetensors, soundfile, soxr"


def check(found: dict[str, Any]) -> None:
    assert found["stages"] and found["decoded"] and found["encoded"]
    assert environments.differences(found) == []


# --- this interpreter -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", environments.FAST)
def test_some_files(name: str, tmp_path: Path) -> None:
    check(environments.finish(environments.start(environments.FAST[name], tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("name", environments.QUICK)
def test_processes_and_threads(name: str, tmp_path: Path) -> None:
    check(environments.finish(environments.start(environments.QUICK[name], tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("name", environments.RECOMPILED)
def test_other_machine_code(name: str, tmp_path: Path) -> None:
    environment = environments.RECOMPILED[name]
    found = environments.finish(environments.start(environment, tmp_path))
    assert found["environment"]["cpu"] == environment.variables.get("NUMBA_CPU_NAME", "")
    check(found)


# --- others ---------------------------------------------------------------------------------------


def other_python(minor: int) -> str:
    """Return a Python 3.MINOR that can run the codec; skip the test where there is none."""
    named = os.environ.get("CODEC_PYTHONS", "").split(os.pathsep)
    found = f"no Python 3.{minor} in CODEC_PYTHONS or on the path"
    for candidate in [*filter(None, named), shutil.which(f"python3.{minor}")]:
        if candidate is None:
            continue
        code = f"import sys; assert sys.version_info[1] == {minor}; import {NEEDED}"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return candidate
        if "AssertionError" not in done.stderr:
            found = f"{candidate} lacks one of {NEEDED}"
    pytest.skip(found)


@pytest.mark.slow
@pytest.mark.parametrize("minor", [m for m in (11, 12, 13) if m != sys.version_info[1]])
def test_other_versions_of_python(minor: int, tmp_path: Path) -> None:
    python = other_python(minor)
    process = environments.start(Environment(own_cache=True), tmp_path, [python])
    found = environments.finish(process)
    assert found["environment"]["python"].startswith(f"3.{minor}.")
    check(found)


@pytest.mark.slow
def test_aarch64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an emulator; half an hour where nothing is compiled yet.

    CODEC_AARCH64 names a folder that is kept, so that it is filled but once.
    """
    missing = [p for p in ("qemu-aarch64-static", "apt-get", "dpkg-deb") if not shutil.which(p)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = Path(os.environ.get("CODEC_AARCH64") or tmp_path)
    command = ["bash", str(AARCH64), str(folder)]
    monkeypatch.setenv("PYTHON", sys.executable)
    made = subprocess.run([*command, "-c", ""], capture_output=True, text=True, check=False)
    if not (folder / "complete").exists():
        pytest.skip(f"could not be fetched: {made.stderr.strip().splitlines()[-1:]}")
    found = environments.finish(environments.start(Environment(), tmp_path, command), 4 * 3600)
    assert found["environment"]["machine"] == "aarch64"
    check(found)
