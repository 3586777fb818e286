"""The speech experiment runs in its quick mode, and compares like with like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.weights import load_weights
from experiments.nsvq_paper.speech.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
SPEECH = ROOT / "demo" / "speech"


def start(*arguments: object) -> None:
    main(["--jobs", "1", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    start(SPEECH, SPEECH, "--quick", "--out", folder / "out", "--work", folder / "work")
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "speech.json").read_text())


@pytest.mark.slow
def test_every_estimator_is_scored(folder: Path, result: dict[str, Any]) -> None:
    rows = result["codec"]["summary"]
    assert {(r["estimator"], r["bitrate_kbps"]) for r in rows} == {
        (e, r) for e in ("nsvq", "ste", "diveq") for r in (8.0, 32.0)
    }
    for row in rows:
        assert 1.0 < row["pesq_wb"]["mean"] < 4.65
        assert row["pesq_wb"]["q025"] <= row["pesq_wb"]["mean"] <= row["pesq_wb"]["q975"]
    by_rate = {(r["estimator"], r["bitrate_kbps"]): r["psnr_db"]["mean"] for r in rows}
    assert by_rate["nsvq", 32.0] > by_rate["nsvq", 8.0] + 3
    assert {row["other"] for row in result["codec"]["differences"]} == {"ste", "diveq"}
    assert not any(run["failures"] for run in result["codec"]["runs"])
    assert (folder / "out" / "speech.png").stat().st_size > 20_000


@pytest.mark.slow
def test_all_start_from_the_same(result: dict[str, Any]) -> None:
    """Same crops, rates, networks and codewords: the first step's error is the same."""
    first = {run["estimator"]: run["curve"][0] for run in result["codec"]["runs"]}
    assert len({row["envelope_rms_db"] for row in first.values()}) == 1
    assert len({row["perplexity"] for row in first.values()}) == 1


@pytest.mark.slow
def test_bare_estimators_are_one(result: dict[str, Any]) -> None:
    """Without networks around it, all three give the codebook the gradient of the squared error."""
    runs = [r for r in result["vq"]["runs"] if not r["networks"] and not r["replacement"]]
    assert len({run["seed"] for run in runs}) == 5
    for seed in range(5):
        errors = [run["rms_db"] for run in runs if run["seed"] == seed]
        assert len(errors) == 3
        assert np.ptp(errors) < 0.01
    assert np.ptp([run["rms_db"] for run in runs]) > 0.02  # seeds differ


@pytest.mark.slow
def test_weights_are_of_one_codebook(folder: Path) -> None:
    weights = load_weights(folder / "work" / "nsvq_0.safetensors")
    assert weights.config.num_stages == 1
    predicted, intra = weights.of_kind(False), weights.of_kind(True)
    assert predicted["envelope.codebooks"].shape[:2] == (1, 4096)
    assert not predicted["envelope.predictor"].any()
    steps = np.diff(predicted["envelope.index_cdf"][0])
    assert set(steps.tolist()) == {8}  # of 2^15: each index costs 12 bits
    assert (predicted["envelope.codebooks"] == intra["envelope.codebooks"]).all()


@pytest.mark.slow
def test_what_is_done_is_kept(folder: Path) -> None:
    """A second run with the same work folder does not train again."""
    kept = {path: path.stat().st_mtime_ns for path in (folder / "work").glob("*.json")}
    assert len(kept) == 60 + 3 + 3  # VQ runs, codecs, cards of their weights
    start(SPEECH, SPEECH, "--quick", "--out", folder / "again", "--work", folder / "work")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    first, second = (
        json.loads((folder / name / "speech.json").read_text()) for name in ("out", "again")
    )
    assert first["vq"] == second["vq"] and first["codec"] == second["codec"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("nowhere", SPEECH), "nowhere: no such directory"),
        ((SPEECH, ROOT / "docs"), "no audio files in this directory"),
        ((SPEECH, SPEECH, "--steps", 0), "--steps: 0 is less than 1"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[object, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        start(*arguments, "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
