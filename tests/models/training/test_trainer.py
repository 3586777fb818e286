"""Training runs: exact resumption, interrupts, logs, export, refusals."""

import csv
import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import synthetic_speech
from safetensors.torch import load_file
from small_runs import FULL, TINY, make_config, start_fast, write_speech

from codec import Codec
from codec.config import CodecConfig
from codec.errors import AudioError
from models.training import step as step_module
from models.training import trainer
from models.training.log import RunLog
from models.training.trainer import train


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module", autouse=True)
def fast_start() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        start_fast(patch)
        yield


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Let this process receive a signal at the end of a training step."""
    original = trainer.train_step

    def train_step(state, *arguments):
        values = original(state, *arguments)
        if state.step == step:
            os.kill(os.getpid(), number)
        return values

    monkeypatch.setattr(trainer, "train_step", train_step)


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.fixture(scope="module")
def whole_run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps without a break."""
    torch.set_num_threads(1)
    out_dir = tmp_path_factory.mktemp("whole") / "run"
    train(make_config(data_dir, out_dir), FULL, quiet=True)
    return out_dir


def test_resuming_is_exact(
    data_dir: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps, Ctrl-C, a restart and four more are the same as eight, bit for bit."""
    out_dir = tmp_path / "run"
    config = make_config(data_dir, out_dir)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(config, FULL, quiet=True)
    half = torch.load(out_dir / "latest.pt", weights_only=True)
    assert half["step"] == 4
    assert not (out_dir / "codec.safetensors").exists()
    torch.manual_seed(12345)  # whatever the new process's generators hold
    np.random.seed(54321)
    path = train(dataclasses.replace(config, resume=True), quiet=True)

    resumed = torch.load(out_dir / "latest.pt", weights_only=True)
    wanted = torch.load(whole_run / "latest.pt", weights_only=True)
    assert resumed["step"] == wanted["step"] == 8
    for part in ("codec", "net", "average", "optimizer"):
        assert equal(resumed[part], wanted[part]), part
    assert equal(load_file(path), load_file(whole_run / "codec.safetensors"))
    assert not equal(half["net"], resumed["net"])


def test_replacement_after_resuming_is_exact(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replacement just after a restart has the hits from before it."""
    wasteful = dataclasses.replace(TINY, codebook_bits=9)  # so that some are not used
    finals, replaced = [], []
    reset = step_module.reset_moments

    def spy(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, mask: torch.Tensor) -> None:
        replaced.append(int(mask.sum()))
        reset(optimizer, parameter, mask)

    monkeypatch.setattr(trainer, "finish", lambda *_: None)
    monkeypatch.setattr(step_module, "reset_moments", spy)
    for name in ("whole", "resumed"):
        out_dir = tmp_path / name
        config = make_config(data_dir, out_dir, steps=7, replace_every=4)
        if name == "resumed":
            with monkeypatch.context() as patch:
                interrupt_after(patch, 3, signal.SIGTERM)
                with pytest.raises(KeyboardInterrupt):
                    train(config, wasteful, quiet=True)
            saved = torch.load(out_dir / "latest.pt", weights_only=True)
            for part in ("msvq", "intra_msvq", "detail", "intra_detail"):
                assert saved["net"][f"{part}.usage.total"].max() > 0
            config = dataclasses.replace(config, resume=True)
        train(config, wasteful, quiet=True)
        finals.append(torch.load(out_dir / "latest.pt", weights_only=True))
    assert len(replaced) == 8 and replaced[:4] == replaced[4:] and min(replaced) > 0
    for part in ("net", "average", "optimizer"):
        assert equal(finals[0][part], finals[1][part]), part


def test_exported_weights_work(whole_run: Path) -> None:
    codec = Codec.load(whole_run / "codec.safetensors")
    assert dataclasses.asdict(codec.config) == dataclasses.asdict(FULL)
    wave = synthetic_speech(0.5, 3)
    for bitrate in (8.0, 32.0):
        for vbr in (False, True):
            data = codec.encode(wave, 16000, bitrate, vbr)
            decoded = codec.decode(data)
            assert len(decoded) == len(wave) and np.isfinite(decoded).all()
    card = json.loads((whole_run / "codec.json").read_text())
    assert card["fingerprint"] == codec.fingerprint
    assert card["training"]["steps"] == 8 and card["training"]["seed"] == 0
    assert str(whole_run) not in json.dumps(card)  # no paths of this machine
    assert codec.weights.card == card


def test_starting_from_weights_keeps_their_entropy_coder(
    data_dir: Path, whole_run: Path, tmp_path: Path
) -> None:
    start = whole_run / "codec.safetensors"
    config = make_config(data_dir, tmp_path / "run", steps=2, init_from=str(start), context_steps=0)
    path = train(config, FULL, quiet=True)
    before, after = load_file(start), load_file(path)
    assert before.keys() == after.keys()
    kept = [name for name in before if "context" in name or "cdf" in name]
    assert len(kept) > 10 and all(torch.equal(before[name], after[name]) for name in kept)
    assert json.loads(path.with_suffix(".json").read_text())["training"]["init_from"] == start.name


def test_run_directory(whole_run: Path, data_dir: Path) -> None:
    settings = json.loads((whole_run / "config.json").read_text())
    assert settings["train"]["data_dir"] == str(data_dir)
    assert CodecConfig.from_dict(settings["codec"]) == FULL
    assert list((whole_run / "tensorboard").glob("events*"))


def test_log_and_validation(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(data_dir, tmp_path / "run", steps=4, valid_dir=str(data_dir))
    monkeypatch.setattr(trainer, "finish", lambda *_: None)
    monkeypatch.setattr(trainer, "LOG_EVERY", 4)
    score_clips = partial(trainer.score_clips, rates=(8.0, 32.0))
    monkeypatch.setattr(trainer, "score_clips", score_clips)
    train(config, TINY, quiet=True)
    with (tmp_path / "run" / "train.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["step"] for row in rows] == ["4"]
    assert {"loss", "pesq", "error", "spectral", "perplexity_1", "perplexity_3"} <= rows[0].keys()
    assert all(np.isfinite(float(value)) for value in rows[0].values())
    history = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)["history"]
    assert [entry["step"] for entry in history] == [4]
    scores = history[0]["valid"]
    assert [row["bitrate_kbps"] for row in scores] == [8.0, 32.0]
    assert scores[1]["psnr_db"] > scores[0]["psnr_db"]


def test_refusals(data_dir: Path, whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="already holds a run: continue it with --resume"):
        train(make_config(data_dir, whole_run), TINY, quiet=True)
    with pytest.raises(ValueError, match="no checkpoint .* to resume from: start without"):
        train(make_config(data_dir, tmp_path / "none", resume=True), TINY, quiet=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="--estimator nsvq"):
        train(make_config(data_dir, whole_run, resume=True, estimator="ste"), TINY, quiet=True)
    with pytest.raises(ValueError, match="trained with --freeze : give the same"):
        train(make_config(data_dir, whole_run, resume=True, freeze="enhancer"), TINY, quiet=True)
    with pytest.raises(AudioError, match="no audio files"):
        (tmp_path / "empty").mkdir()
        train(make_config(tmp_path / "empty", tmp_path / "run"), TINY, quiet=True)
    with pytest.raises(ValueError, match="unknown estimator"):
        train(make_config(data_dir, tmp_path / "run2", estimator="vq"), TINY, quiet=True)
    with pytest.raises(ValueError, match="unknown precision 'float16'"):
        train(make_config(data_dir, tmp_path / "run2", precision="float16"), TINY, quiet=True)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            train(make_config(data_dir, tmp_path / "run3", device="cuda"), TINY, quiet=True)


def test_compiler_missing_is_one_line(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++\ncompiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(trainer, "finish", lambda *_: None)
    config = make_config(data_dir, tmp_path / "run", steps=1, compile=True)
    train(config, TINY, quiet=True)
    assert capsys.readouterr().err.splitlines() == [
        "codec: note: trained without --compile: RuntimeError: No working C++ compiler"
    ]


@pytest.mark.parametrize("data", [b"hello", None])
def test_a_damaged_checkpoint(
    data_dir: Path, whole_run: Path, tmp_path: Path, data: bytes | None
) -> None:
    whole = (whole_run / "latest.pt").read_bytes()
    (tmp_path / "latest.pt").write_bytes(whole[: len(whole) // 2] if data is None else data)
    with pytest.raises(ValueError, match=r"latest\.pt' is damaged"):
        train(make_config(data_dir, tmp_path, resume=True), TINY, quiet=True)


def test_clips_too_short_to_validate_on(data_dir: Path, tmp_path: Path) -> None:
    valid = tmp_path / "valid"
    valid.mkdir()
    soundfile.write(valid / "a.wav", np.zeros(100), 16000)
    config = make_config(data_dir, tmp_path / "run", valid_dir=str(valid))
    with pytest.raises(ValueError, match="no clip of half a second or more"):
        train(config, TINY, quiet=True)
    assert not (tmp_path / "run").exists()


def test_rows_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    for step in (50, 100, 150):
        log.scalars(step, {"loss": 1.0})
    RunLog(tmp_path, 100).scalars(150, {"loss": 2.0})
    rows = (tmp_path / "train.csv").read_text().split()
    assert rows == ["step,loss", "50,1", "100,1", "150,2"]
