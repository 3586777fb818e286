"""Install a wheel into an empty environment, and use it from an empty directory.

    python tests/package/check_wheel.py build/dist/*.whl

Nothing of the checkout is on the path there. Exits with 1 and says what is wrong, or prints "ok".
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command as a user does; return what it prints, or leave with its errors."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MYPY"))}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {result.stdout}{result.stderr}")
    return result.stdout


def check(wheel: Path, folder: Path) -> None:
    """Check everything that the package promises without its checkout."""
    home, elsewhere = folder / "venv", folder / "elsewhere"
    elsewhere.mkdir()
    venv.create(home, with_pip=True)
    python, command = home / "bin" / "python", home / "bin" / "codec"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=elsewhere)
    where = run(
        python, "-c", "import codec, cli; print(codec.__file__, cli.__file__)", cwd=elsewhere
    )
    assert all(path.startswith(str(home)) for path in where.split()), where
    missing = "import importlib.util as u; print([n for n in ('torch', 'distributed', 'fsspec') "
    assert run(python, "-c", f"{missing} if u.find_spec(n)])", cwd=elsewhere).strip() == "[]"

    version = run(command, "--version", cwd=elsewhere).strip()
    assert version == run(python, "-m", "codec", "--version", cwd=elsewhere).strip()
    assert version in wheel.name, (version, wheel.name)
    assert "--install-completion" in run(command, "--help", cwd=elsewhere)
    shutil.copytree(ROOT / "demo" / "speech", elsewhere / "speech")
    said = run(command, "encode", "speech", "coded", "--jobs", "2", cwd=elsewhere)
    assert "encoded 4 of 4 files" in said, said
    assert "4 of 4 streams" in run(command, "info", "coded", cwd=elsewhere)
    run(python, "-m", "codec", "decode", "coded/slt.bin", "slt.wav", cwd=elsewhere)
    assert (elsewhere / "slt.wav").stat().st_size > 100_000
    options = ["--rates", "13.2", "--sample", "1", "--jobs", "1", "--out", "scores"]
    said = run(command, "eval", "speech", *options, cwd=elsewhere)
    assert "listen.html" in said and (elsewhere / "scores" / "listen.html").exists(), said

    example = ROOT / "tests" / "package" / "user_example.py"
    shutil.copy(example, elsewhere)
    run(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, example.name,
        cwd=elsewhere)  # fmt: skip
    assert "bytes, weights" in run(python, example.name, cwd=elsewhere)
    for name, asked in (
        ("--scheduler", ["encode", "speech", "x", "--scheduler", "tcp://127.0.0.1:8786"]),
        ("s3://bucket/a.wav", ["encode", "s3://bucket/a.wav", "a.bin"]),
    ):
        result = subprocess.run(
            [command, *asked], cwd=elsewhere, capture_output=True, text=True, check=False
        )
        (line,) = result.stderr.splitlines()
        assert result.returncode == 2 and name in line and "pip install" in line, line


def main() -> None:
    """Check the wheel that the command line names."""
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        check(wheel, Path(folder).resolve())
    print(f"{wheel.name}: ok")


if __name__ == "__main__":
    main()
