"""Image compression with a VQ-VAE: NSVQ against STE, EMA and DiVeQ (the NSVQ paper's Figures 2-3).

    python -m experiments.nsvq_paper.images [--quick] [--data DIR] [--out DIR] [--jobs 2]

A small convolutional VQ-VAE codes 32 x 32 colour patches as 8 x 8 indices of one codebook of 2**8
to 2**12 codewords; only what stands in for the quantizer in training differs. Measured on patches
from parts of the pictures that training never sees: SSIM and peak SNR, for several seeds; and the
error and the perplexity of the codebook while training. Writes `images*.png` and `images.json`.

Pictures are those inside scikit-image and scikit-learn, nothing is downloaded; ``--data DIR`` takes
a folder of any others (PNG, JPEG, ...), such as CIFAR-10 written as PNG files. Runs that are done
are kept under ``--work``: the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from codec.io.files import atomic_write
from experiments.nsvq_paper.images.figures import draw_examples, draw_quality, draw_training
from experiments.nsvq_paper.images.pictures import (
    Patches,
    bundled_paths,
    cut_patches,
    list_pictures,
)
from experiments.nsvq_paper.images.runs import Run, do_all, fingerprint, result_path
from experiments.nsvq_paper.images.settings import BITS, ROWS, Row, Settings
from experiments.nsvq_paper.images.tables import all_tables, summarise, update_page

HERE = Path(__file__).resolve().parent
COMMAND = "python -m experiments.nsvq_paper.images"


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    summary, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        description=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: a check")
    parser.add_argument("--data", type=Path, help="folder of pictures instead of the bundled ones")
    parser.add_argument("--out", type=Path, help="this folder, with --quick runs/quick")
    parser.add_argument("--work", type=Path, default=Path("runs/images"), help="keeps done runs")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--seeds", type=int, help="runs of each kind (3, with --quick 1)")
    parser.add_argument("--steps", type=int, help="training steps (1200, with --quick 100)")
    parser.add_argument("--bits", help="codebook sizes, as in 8,10,12")
    options = parser.parse_args(arguments)
    options.out = options.out or (Path("runs/quick") if options.quick else HERE)
    options.seeds = (1 if options.quick else 3) if options.seeds is None else options.seeds
    for name, least in (("jobs", 1), ("seeds", 1), ("steps", 50)):
        value = getattr(options, name)
        if value is not None and value < least:
            fail(f"--{name} must be at least {least}, not {value}")
    if options.bits is not None:
        try:
            options.bits = tuple(sorted({int(bits) for bits in options.bits.split(",")}))
        except ValueError:
            fail(f"--bits must be whole numbers with commas between them, not '{options.bits}'")
        if not 1 <= options.bits[0] <= options.bits[-1] <= 16:
            fail("--bits must be between 1 and 16")
    return options


def without_paths(arguments: Sequence[str]) -> list[str]:
    """Return the options that say what was done, without the folders of one machine."""
    kept: list[str] = []
    hidden = False
    for argument in arguments:
        name = argument.split("=")[0]
        if name in ("--out", "--work", "--jobs"):
            hidden = "=" not in argument
        elif name == "--data":
            kept += ["--data", "DIR"]
            hidden = "=" not in argument
        elif hidden:
            hidden = False
        else:
            kept.append(argument)
    return kept


def chosen(options: argparse.Namespace) -> tuple[Settings, Sequence[int], Sequence[Row], int]:
    """Return settings, codebook sizes in bits, rows, and the most patches to test on."""
    settings, max_test = Settings(), 512
    sizes: Sequence[int] = BITS
    rows: Sequence[Row] = ROWS
    if options.quick:
        settings = replace(
            settings, steps=100, batch=16, log_every=10, check_every=50, replace_every=10
        )
        sizes, rows, max_test = (8, 10), ROWS[:3], 128
    if options.steps:
        settings = replace(settings, steps=options.steps)
    return settings, options.bits or sizes, rows, max_test


def make_folders(*folders: Path) -> None:
    """Make the folders, or leave with one line."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"cannot make the folder '{folder}' ({error.strerror})")


def as_json(header: dict[str, Any], summary: Sequence[dict[str, Any]]) -> str:
    """Return the results as JSON, with one line for each row."""
    text = json.dumps(header, indent=1)[:-2] + ',\n "results": [\n'
    return text + ",\n".join("  " + json.dumps(entry) for entry in summary) + "\n ]\n}\n"


def write_all(
    out: Path, header: dict[str, Any], patches: Patches, runs: Sequence[Run],
    results: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Write figures and JSON, print the tables."""
    summary = summarise(runs, results)
    sizes = sorted({run.bits for run in runs})
    middle = sizes[len(sizes) // 2]
    decoded = {
        run.row.name: np.array(result["examples"], np.uint8)
        for run, result in zip(runs, results, strict=True)
        if run.bits == middle and run.seed == 0
    }
    draw_quality(summary, out / "images.png")
    draw_training(summary, out / "images_training.png")
    draw_examples(patches.examples, decoded, middle, out / "images_examples.png")
    atomic_write(out / "images.json", as_json(header, summary).encode())
    tables = all_tables(summary, header["seeds"])
    print("\n" + tables)
    update_page(out / "images.md", tables)


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut the pictures, do the runs, write figures and JSON, print the tables."""
    options = parse(arguments)
    settings, sizes, rows, max_test = chosen(options)
    started = time.monotonic()
    try:
        paths = list_pictures(options.data) if options.data else bundled_paths()
        patches = cut_patches(paths, max_test=max_test)
    except ValueError as error:
        fail(str(error))
    work = options.work / fingerprint(settings, patches)
    make_folders(options.out, work)
    about = patches.about
    print(
        f"{about['pictures']} pictures, split {about['split']}: {about['train_patches']} patches "
        f"for training, {about['test_patches']} for testing"
    )
    # By seed first: what an interruption leaves is complete for the seeds before.
    runs = [Run(row, b, seed) for seed in range(options.seeds) for b in sizes for row in rows]
    try:
        do_all(runs, settings, patches, work, options.jobs)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    results = [json.loads(result_path(work, run).read_text()) for run in runs]
    given = sys.argv[1:] if arguments is None else list(arguments)
    header = {
        "command": " ".join([COMMAND, *without_paths(given)]),
        "quick": options.quick,
        "settings": asdict(settings),
        "seeds": options.seeds,
        "data": about,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-image": version("scikit-image"),
        },
        "cpu_seconds": round(sum(result["cpu_seconds"] for result in results)),
    }
    write_all(options.out, header, patches, runs, results)
    print(
        f"\n{(time.monotonic() - started) / 60:.1f} minutes; the runs took "
        f"{header['cpu_seconds'] / 60:.1f} minutes of CPU time in all; written to '{options.out}'"
    )


if __name__ == "__main__":
    main()
