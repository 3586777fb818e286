"""The EMA quantizer, and the comparison of quantizers on 2-D toy distributions."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.vq_methods import METHODS, EMAQuantizer, make_quantizer
from models.quantizers import COMMITMENT_WEIGHT, perplexity, reset_moments

ROOT = Path(__file__).resolve().parent.parent

# --------------------------------------------------------------------------------------------------
# Moving averages


def two_codewords(decay: float = 0.9) -> EMAQuantizer:
    ema = EMAQuantizer(3, 2, decay)
    ema.set_codebook(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 100.0]]))
    return ema


def test_cluster_sizes_and_codewords_are_moving_averages() -> None:
    ema = two_codewords()
    x = torch.tensor([[1.0, 1.0], [3.0, -1.0], [9.0, 2.0]])
    out = ema(x)
    assert out.indices[:, 0].tolist() == [0, 0, 1]
    torch.testing.assert_close(out.hard, torch.tensor([[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]))
    torch.testing.assert_close(ema.cluster_size, torch.tensor([0.9 + 0.2, 0.9 + 0.1, 0.9]))
    torch.testing.assert_close(ema.cluster_sum[0], torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(ema.cluster_sum[1], torch.tensor([9.9, 0.2]))
    torch.testing.assert_close(
        ema.codebook[:2], torch.tensor([[0.4 / 1.1, 0.0], [9.9, 0.2]]), rtol=1e-4, atol=1e-6
    )


def test_codewords_converge_to_the_means_of_their_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    ema = two_codewords(0.95)
    for _ in range(300):
        left = torch.randn(64, 2, generator=generator) + torch.tensor([-1.0, 2.0])
        right = torch.randn(64, 2, generator=generator) + torch.tensor([14.0, 1.0])
        ema(torch.cat([left, right]))
    torch.testing.assert_close(
        ema.codebook[:2], torch.tensor([[-1.0, 2.0], [14.0, 1.0]]), rtol=0, atol=0.1
    )
    torch.testing.assert_close(ema.cluster_size[:2], torch.full((2,), 64.0), rtol=1e-3, atol=0)


def test_codeword_without_hits_stays_in_place() -> None:
    """Also when its cluster size has decayed to nothing, and it is alive at the first hit."""
    ema = two_codewords(0.5)
    for _ in range(300):
        ema(torch.tensor([[1.0, 1.0]]))
    assert ema.cluster_size[2] < 1e-30
    torch.testing.assert_close(ema.codebook[2], torch.tensor([0.0, 100.0]))
    ema(torch.tensor([[4.0, 90.0]]))
    torch.testing.assert_close(ema.codebook[2], torch.tensor([4.0, 90.0]), rtol=1e-3, atol=0)


def test_gradient_passes_straight_through_and_commits_the_input() -> None:
    ema = two_codewords()
    assert not list(ema.parameters())
    x = torch.tensor([[1.0, 1.0], [8.0, 0.0]], requires_grad=True)
    out = ema(x)
    torch.testing.assert_close(out.quantized, out.hard)
    torch.testing.assert_close(
        out.auxiliary_loss, COMMITMENT_WEIGHT * (out.hard - x).square().mean()
    )
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (gradient,) = torch.autograd.grad((out.quantized * weights).sum(), x, retain_graph=True)
    assert torch.equal(gradient, weights)
    (gradient,) = torch.autograd.grad(out.auxiliary_loss, x)
    torch.testing.assert_close(gradient, COMMITMENT_WEIGHT * (x - out.hard).detach() / 2)


def test_shapes_and_perplexity_are_those_of_the_interface() -> None:
    torch.manual_seed(0)
    ema = EMAQuantizer(16, 3)
    x = torch.randn(4, 5, 3)
    out = ema(x)
    assert out.quantized.shape == out.hard.shape == x.shape
    assert out.indices.shape == (4, 5, 1) and out.indices.dtype == torch.int64
    torch.testing.assert_close(
        out.perplexity[0], perplexity(torch.bincount(out.indices.flatten(), minlength=16))
    )
    assert ema(torch.randn(3)).indices.shape == (1,)
    state = ema.state_dict()
    other = EMAQuantizer(16, 3)
    other.load_state_dict(state)
    assert torch.equal(other.encode(x), ema.encode(x))


def test_eval_moves_nothing() -> None:
    ema = two_codewords().eval()
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    out = ema(torch.tensor([[1.0, 1.0]]))
    assert torch.equal(out.quantized, out.hard) and out.auxiliary_loss == 0
    assert all(torch.equal(value, before[name]) for name, value in ema.state_dict().items())


def test_dead_codewords_restart_on_used_ones_or_on_vectors() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 1.0], [9.0, 2.0]]).repeat(20, 1)
    ema = two_codewords()
    ema(x)
    used = ema.codebook[:2].clone()
    dead = ema.replace_dead()
    assert dead.tolist() == [False, False, True]
    distance = (ema.codebook[2] - used).norm(dim=1).min()
    assert 0 < distance < 0.5  # beside a used one, not on it
    torch.testing.assert_close(ema.cluster_sum[2], ema.cluster_size[2] * ema.codebook[2])
    assert torch.equal(ema.codebook[:2], used)
    assert ema.usage.total.item() == 0

    ema = two_codewords()
    ema(x)
    assert ema.replace_dead(vectors=torch.tensor([[[50.0, 60.0]]])).tolist() == [False, False, True]
    assert ema.codebook[2].tolist() == [50.0, 60.0]
    assert not ema.replace_dead(vectors=x).any()  # nothing was counted since


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1, not 1.0"):
        EMAQuantizer(4, 2, decay=1.0)
    with pytest.raises(ValueError, match="epsilon must be positive, not 0"):
        EMAQuantizer(4, 2, epsilon=0)
    with pytest.raises(ValueError, match="unknown method 'lbg': choose one of nsvq, ste, ema"):
        make_quantizer("lbg", 4, 2)


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_start_from_the_given_codebook(method: str) -> None:
    codebook = torch.arange(8.0).view(4, 2)
    quantizer = make_quantizer(method, 4, 2, codebook)
    assert torch.equal(quantizer.decode(torch.arange(4)), codebook)
    quantizer(torch.randn(10, 2))
    assert torch.equal(codebook, torch.arange(8.0).view(4, 2))  # a copy was trained


def test_moments_of_replaced_codewords_are_zeroed() -> None:
    quantizer = make_quantizer("nsvq", 4, 2)
    optimizer = torch.optim.Adam(quantizer.parameters())
    quantizer.codebook.square().sum().backward()
    optimizer.step()
    dead = torch.tensor([True, False, True, False])
    reset_moments(optimizer, quantizer.codebook, dead)
    moments = optimizer.state[quantizer.codebook]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal((moments[key] == 0).all(1), dead)
    reset_moments(optimizer, make_quantizer("ema", 4, 2).codebook, dead)  # no moments, no error


# --------------------------------------------------------------------------------------------------
# The comparison


@pytest.fixture(scope="module")
def toy() -> Any:
    for package in ("sklearn", "matplotlib"):
        pytest.importorskip(package, reason="pip install '.[experiments]' brings it")
    return importlib.import_module("experiments.toy")


def test_gradients_of_the_error_are_the_same_with_three_estimators() -> None:
    """The finding of docs/experiments/toy.md: |x + |e| v/|v| - x|**2 is |e|**2 whatever v is."""
    torch.manual_seed(0)
    codebook, x = torch.randn(16, 2), torch.randn(300, 2)
    gradients = {}
    for method in ("nsvq", "ste", "diveq"):
        quantizer = make_quantizer(method, 16, 2, codebook)
        out = quantizer(x)
        ((out.quantized - x).square().mean() + out.auxiliary_loss).backward()
        gradients[method] = next(iter(quantizer.parameters())).grad
    assert gradients["ste"].abs().max() > 0.01
    for method in ("nsvq", "diveq"):
        torch.testing.assert_close(gradients[method], gradients["ste"], rtol=1e-4, atol=1e-7)


def test_distributions_are_normalised_and_held_out(toy: Any) -> None:
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


def test_edge_is_a_tiny_region_at_the_border(toy: Any) -> None:
    train, _ = toy.data("blobs", 3000, 2000)
    edge = toy.initial_codebook("edge", train, 64, 0.01, 3)
    assert edge.std(0).max() < 0.02
    assert edge.mean(0).norm() > train.norm(dim=1).quantile(0.999)
    spread = toy.initial_codebook("random", train, 64, 0.01, 3)
    assert spread.std(0).min() > 0.7
    assert torch.equal(edge, toy.initial_codebook("edge", train, 64, 0.01, 3))


def test_assessment_of_a_known_codebook(toy: Any) -> None:
    points = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 0.0], [4.0, 0.0]])
    codebook = torch.tensor([[0.0, 0.0], [4.0, 0.0], [50.0, 50.0]])
    mse, dead, used = toy.assess(points, codebook)
    assert mse == pytest.approx(2 / 8) and dead == 1 and used == pytest.approx(2)


def test_runs_repeat_and_seeds_matter(toy: Any) -> None:
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
def quick(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command fills with --quick."""
    out = tmp_path_factory.mktemp("toy") / "out"
    toy.main(["--quick", "--out", str(out)])
    return out


def test_quick_command_writes_all_files(toy: Any, quick: Path) -> None:
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
    assert toy.main_table(report).count("\n") == 1 + 3 * 2 * 5 * 2
    assert json.loads(toy.as_json(report)) == report
    for run in report["runs"]:
        reference = report["kmeans_mse"][run["distribution"]]
        assert run["db"] == pytest.approx(10 * np.log10(run["mse"] / reference), abs=1e-3)
        assert 0 <= run["dead"] < 256 and 1 <= run["perplexity"] <= 256 - run["dead"]


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


def test_command_says_what_is_wrong(
    toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit_:
        toy.main(["--quick", "--out", str(tmp_path / "file")])
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*file.*\n", said)
    with pytest.raises(SystemExit) as exit_:
        toy.main(["--steps", "0"])
    assert exit_.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_missing_package_is_named_with_the_extra(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'sklearn'\", name='sklearn')\n"
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "toy.py"), "--quick"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: sklearn is missing: pip install '.[experiments]' brings it\n"


def test_document_holds_the_figures_of_its_json(toy: Any) -> None:
    folder = ROOT / "docs" / "experiments"
    text = (folder / "toy.md").read_text(encoding="utf-8")
    report = json.loads((folder / "toy.json").read_text())
    assert report["settings"]["seeds"] >= 5
    assert toy.main_table(report) in text
    assert toy.sweep_table(report) in text
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    for name in pictures:
        assert (folder / name).is_file()
