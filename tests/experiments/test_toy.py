"""The comparison of quantizers on 2-D toy distributions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

for package in ("sklearn", "matplotlib"):
    pytest.importorskip(package, reason="pip install '.[experiments]' brings it")

from experiments.nsvq_paper.toy import report as tables  # noqa: E402
from experiments.nsvq_paper.toy import training as toy  # noqa: E402
from experiments.nsvq_paper.toy.__main__ import HERE, main  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def test_distributions_are_normalised_and_held_out() -> None:
    for distribution in toy.DISTRIBUTIONS:
        train, test = toy.data(distribution, 3000, 2000)
        assert train.shape == (3000, 2) and test.shape == (2000, 2)
        torch.testing.assert_close(train.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(train.std(0), torch.ones(2), atol=1e-3, rtol=0)
        assert test.std(0).sub(1).abs().max() < 0.1
        assert torch.cdist(test[:200], train).min(1).values.median() > 0  # other points
        again = toy.draw(distribution, 100, 7)
        np.testing.assert_array_equal(again, toy.draw(distribution, 100, 7))
        assert not np.array_equal(again, toy.draw(distribution, 100, 8))
    with pytest.raises(ValueError, match="unknown distribution 'ring'"):
        toy.draw("ring", 10, 0)


def test_edge_is_a_tiny_region_at_the_border() -> None:
    train, _ = toy.data("blobs", 3000, 2000)
    edge = toy.initial_codebook("edge", train, 64, 0.01, 3)
    assert edge.std(0).max() < 0.02
    assert edge.mean(0).norm() > train.norm(dim=1).quantile(0.999)
    spread = toy.initial_codebook("random", train, 64, 0.01, 3)
    assert spread.std(0).min() > 0.7
    assert torch.equal(edge, toy.initial_codebook("edge", train, 64, 0.01, 3))


def test_assessment_of_a_known_codebook() -> None:
    points = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 0.0], [4.0, 0.0]])
    codebook = torch.tensor([[0.0, 0.0], [4.0, 0.0], [50.0, 50.0]])
    mse, dead, used = toy.assess(points, codebook)
    assert mse == pytest.approx(2 / 8) and dead == 1 and used == pytest.approx(2)


def test_runs_repeat_and_seeds_matter() -> None:
    settings = replace(toy.QUICK, steps=20, replace_every=5)
    for method in toy.METHODS:
        run = toy.Run("blobs", "random", method, True, 0, 1e-2, 0.99)
        first, curve = toy.train_quantizer(run, settings)
        again, _ = toy.train_quantizer(run, settings)
        assert torch.equal(first, again)
        assert not torch.equal(first, toy.train_quantizer(replace(run, seed=1), settings)[0])
        assert [point[0] for point in curve] == toy.curve_steps(settings)
        assert curve[-1][1] < curve[0][1]  # it learns


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command fills with --quick."""
    out = tmp_path_factory.mktemp("toy") / "out"
    main(["--quick", "--out", str(out)])
    return out


@pytest.mark.slow
def test_quick_command_writes_all_files(quick: Path) -> None:
    from matplotlib.image import imread

    images = ["toy_blobs.png", "toy_curves.png", "toy_pinwheel.png", "toy_swiss_roll.png"]
    assert sorted(path.name for path in quick.iterdir()) == ["toy.json", *images]
    for name in images:
        image = imread(quick / name)
        assert min(image.shape[:2]) > 800
        assert 0.01 < np.mean(image[..., :3].min(axis=-1) < 0.9) < 0.5
    report = json.loads((quick / "toy.json").read_text())
    assert report["settings"]["steps"] == toy.QUICK.steps
    assert len(report["runs"]) == 3 * 2 * 5 * 2 * 2
    assert len(report["curves"]) == 3 * 2 * 5 * 2
    assert tables.main_table(report).count("\n") == 1 + 3 * 2 * 5 * 2
    assert json.loads(tables.as_json(report)) == report
    for run in report["runs"]:
        reference = report["kmeans_mse"][run["distribution"]]
        assert run["db"] == pytest.approx(10 * np.log10(run["mse"] / reference), abs=1e-3)
        assert 0 <= run["dead"] < 256 and 1 <= run["perplexity"] <= 256 - run["dead"]


@pytest.mark.slow
def test_quick_command_finds_what_it_must(quick: Path) -> None:
    report = json.loads((quick / "toy.json").read_text())
    found = defaultdict(list)
    for run in report["runs"]:
        key = run["distribution"], run["init"], run["method"], run["replacement"]
        found[key].append(run)
    for (distribution, init, method, replacement), runs in found.items():
        if method in ("ste", "diveq") and not replacement:
            same = found[distribution, init, "nsvq", False]
            errors = [[r["mse"] for r in rows] for rows in (runs, same)]
            np.testing.assert_allclose(*errors, rtol=1e-3)
        if replacement:
            without = found[distribution, init, method, False]
            assert sum(r["dead"] for r in runs) < sum(r["dead"] for r in without)


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit_:
        main(["--quick", "--out", str(tmp_path / "file")])
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*file.*\n", said)
    with pytest.raises(SystemExit) as exit_:
        main(["--steps", "0"])
    assert exit_.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_missing_package_is_named_with_the_extra(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'sklearn'\", name='sklearn')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "experiments.nsvq_paper.toy", "--quick"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: sklearn is missing: pip install '.[experiments]' brings it\n"


def test_document_holds_the_figures_of_its_json() -> None:
    text = (HERE / "toy.md").read_text(encoding="utf-8")
    report = json.loads((HERE / "toy.json").read_text())
    assert report["settings"]["seeds"] >= 5
    assert tables.main_table(report) in text
    assert tables.sweep_table(report) in text
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    for name in pictures:
        assert (HERE / name).is_file()
