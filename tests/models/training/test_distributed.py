"""Training in several processes: the same as in one, one export, one voice.

This file is also the program of the two processes, see `work`.
"""

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs
import torch
from small_runs import TINY, write_speech

from models import rate_model
from models.training import step as step_module
from models.training import trainer
from models.training.config import TrainConfig
from models.training.distributed import ALONE, process_group
from models.training.losses import CodecLoss
from models.training.trainer import train

TESTS = Path(__file__).resolve().parents[2]
ROOT = TESTS.parent
INTERRUPT_AT, NAN_AT, REPLACE_AT, STEPS = 2, 1, 3, 5
# Some codewords stay without a hit, so that there is something to replace.
WASTEFUL = dataclasses.replace(TINY, codebook_bits=8)


def make_config(data_dir: Path, out_dir: Path, **changes: object) -> TrainConfig:
    return small_runs.make_config(
        data_dir, out_dir, steps=STEPS, replace_every=REPLACE_AT, learning_rate=1e-4, **changes
    )


def spy_on_steps(
    patch: pytest.MonkeyPatch, records: list[dict[str, float]], rank: int
) -> dict[str, torch.Tensor]:
    """Record what steps log; without noise, and with one NaN: on rank 0 in step NAN_AT.

    Returns the gradients of step 0, once it is done. Each rank draws its own noise: only without it
    is the loss that of one process.
    """
    original, loss_forward = step_module.train_step, CodecLoss.forward

    def no_randint(low, high, size, device=None, **_):
        return torch.full(size, low, dtype=torch.int64, device=device)

    state_now: list = []
    gradients: dict[str, torch.Tensor] = {}

    def train_step(state, *arguments):
        state_now[:] = [state]
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(torch, "randint", no_randint)
            inner.setattr(torch, "randn_like", torch.ones_like)
            inner.setattr(rate_model, "MOVED_STEPS", 0.0)
            values = original(state, *arguments)
        if state.step == 1:
            named = state.net.named_parameters()
            gradients.update({k: p.grad.clone() for k, p in named if p.grad is not None})
        records.append(values | {"step": state.step, "seed": torch.initial_seed()})
        if os.environ.get("INTERRUPT") == str(rank) and state.step == INTERRUPT_AT:
            os.kill(os.getpid(), signal.SIGINT)
        return values

    def forward(self, *arguments):
        total, terms = loss_forward(self, *arguments)
        if rank == 0 and state_now[0].step == NAN_AT:
            total = total * math.nan
        return total, terms

    patch.setattr(trainer, "train_step", train_step)
    patch.setattr(CodecLoss, "forward", forward)
    return gradients


def work(data_dir: Path, out_dir: Path, resume: bool) -> None:
    """Train as one of several processes and write what this rank saw to out_dir/../rank*."""
    rank = int(os.environ["RANK"])
    records: list[dict[str, float]] = []
    saw = out_dir.parent / f"rank{rank}-{'resumed' if resume else 'first'}"
    states = []
    with pytest.MonkeyPatch.context() as patch:
        gradients = spy_on_steps(patch, records, rank)
        train_graph = trainer.train_graph

        def keep_state(config, state, *arguments):
            states.append(state)
            train_graph(config, state, *arguments)

        def export(config, state, sampler, valid, quiet, processes):
            (out_dir / "exported.json").write_text(json.dumps({"processes": processes}))

        small_runs.start_fast(patch)
        patch.setattr(trainer, "train_graph", keep_state)
        patch.setattr(trainer, "finish", export)  # test_trainer sees to the export itself
        interrupted = False
        try:
            train(make_config(data_dir, out_dir, resume=resume), WASTEFUL, quiet=True)
        except KeyboardInterrupt:
            interrupted = True
    saw.with_suffix(".json").write_text(json.dumps({"steps": records, "interrupted": interrupted}))
    state = states[0]
    torch.save(
        {
            "net": state.net.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "gradients": gradients,
        },
        saw.with_suffix(".pt"),
    )


def environment(rank: int, port: int) -> dict[str, str]:
    """Return what ``torchrun`` tells one of two processes."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


HERE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{TESTS}"}


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run two processes of a program of this repository by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT, env=os.environ | HERE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def runs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, Ctrl-C on rank 1, a restart, and the steps that are left."""
    directory = tmp_path_factory.mktemp("two")
    ports = free_ports()
    command = [sys.executable, __file__, data_dir, directory / "run", ports[1]]
    ranks = [
        subprocess.Popen(
            list(map(str, command)), env=os.environ | HERE | environment(rank, ports[0]),
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for process in ranks:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return directory


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_ctrl_c_on_one_rank_ends_all(runs: Path) -> None:
    for rank in (0, 1):
        first = read(runs / f"rank{rank}-first.json")
        assert first["interrupted"]
        assert [step["step"] for step in first["steps"]] == list(range(1, INTERRUPT_AT + 1))
        resumed = read(runs / f"rank{rank}-resumed.json")
        assert not resumed["interrupted"]
        assert resumed["steps"][0]["step"] == INTERRUPT_AT + 1


def test_ranks_stay_equal(runs: Path) -> None:
    for when in ("first", "resumed"):
        nets = [torch.load(runs / f"rank{r}-{when}.pt", weights_only=True) for r in (0, 1)]
        for name, value in nets[0]["net"].items():
            assert torch.equal(value, nets[1]["net"][name]), name
        for i, moments in nets[0]["optimizer"]["state"].items():
            for key, value in moments.items():
                assert torch.equal(value, nets[1]["optimizer"]["state"][i][key]), (i, key)
        ranks = [read(runs / f"rank{r}-{when}.json")["steps"] for r in (0, 1)]
        for a, b in zip(*ranks, strict=True):
            assert a.pop("seed") != b.pop("seed")  # noise differs, all that is logged does not
            assert a.keys() == b.keys()
            assert all(a[k] == b[k] or math.isnan(a[k]) for k in a)


def test_same_as_one_process_with_the_doubled_batch(
    runs: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[str, float]] = []
    gradients = spy_on_steps(monkeypatch, steps, 0)
    small_runs.start_fast(monkeypatch)
    monkeypatch.setattr(trainer, "finish", lambda *_: None)
    train(make_config(data_dir, tmp_path / "run", batch_size=4), WASTEFUL, quiet=True)
    two = [
        step
        for when in ("first", "resumed")
        for step in read(runs / f"rank0-{when}.json")["steps"]
    ]  # fmt: skip
    assert [step["skipped"] for step in two] == [float(n == NAN_AT) for n in range(STEPS)]
    assert len(steps) == len(two) == STEPS
    shared = torch.load(runs / "rank0-first.pt", weights_only=True)["gradients"]
    assert shared.keys() == gradients.keys()
    for name, value in gradients.items():
        difference = torch.linalg.vector_norm(shared[name] - value)
        assert difference <= 5e-3 * torch.linalg.vector_norm(value) + 1e-7, name
    # Two different runs from REPLACE_AT on: each replaces unused codewords by a random choice.
    for n, (one, both) in enumerate(zip(steps[:REPLACE_AT], two, strict=False)):
        if n == NAN_AT:
            continue
        # Equal weights: the PESQ loss has thresholds, a level changed by 1e-7 moves it by 1e-4.
        # Then Adam turns rounding errors of tiny gradients into steps of full size.
        tolerance = 5e-4 if n < NAN_AT else 0.005
        assert both["loss"] == pytest.approx(one["loss"], rel=tolerance), n
        assert both["pesq"] == pytest.approx(one["pesq"], rel=tolerance), n
        if n == 0:
            for s in (1, 2, 3):  # hits of the whole batch
                for name in (f"perplexity_{s}", f"unused_{s}"):
                    assert both[name] == pytest.approx(one[name], rel=1e-5), name


def test_one_export(runs: Path) -> None:
    files = sorted(str(path.relative_to(runs / "run")) for path in (runs / "run").iterdir())
    assert files == ["config.json", "exported.json", "latest.pt", "tensorboard"]
    assert len(list((runs / "run" / "tensorboard").iterdir())) == 2  # before and after Ctrl-C
    assert read(runs / "run" / "exported.json") == {"processes": 2}
    saved = torch.load(runs / "run" / "latest.pt", weights_only=True)
    assert saved["speech_seconds"] == pytest.approx(STEPS * 4 * 0.39)
    assert saved["step_seconds"] > 0


@pytest.mark.slow
def test_command_line_speaks_once(runs: Path, data_dir: Path) -> None:
    """A mistake is one line, although two processes make it."""
    result = launch("-m", "cli", "train", data_dir, "--out", runs / "run")
    assert result.returncode != 0
    assert result.stderr.count("codec: error: ") == 1
    assert "already holds a run: continue it with --resume" in result.stderr


@pytest.mark.slow
def test_command_line_trains(data_dir: Path, tmp_path: Path) -> None:
    options = (
        "--steps 2 --batch-size 1 --crop-seconds 0.4 --context-steps 1 --context-minutes 0.1 "
        "--num-threads 1"
    )
    result = launch("-m", "cli", "train", data_dir, "--out", tmp_path / "run", *options.split())
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("weights exported to ") == 1
    assert [path.parent.name for path in tmp_path.rglob("*.safetensors")] == ["run"]


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with process_group("cpu") as group:
        assert group == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start the processes with torchrun"):
        with process_group("cpu"):
            pass
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if torch.distributed.is_backend_available("nccl"):
        with pytest.raises(ValueError, match="no GPU is left for process 1"):
            with process_group("cuda"):
                pass


if __name__ == "__main__":
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["INTERRUPT"] = "1"  # the rank that gets the signal
    work(data, out, False)
    assert not (out / "exported.json").exists()
    # A restart, as far as it matters: another group, and other states of the generators.
    del os.environ["INTERRUPT"]
    os.environ["MASTER_PORT"] = sys.argv[3]
    torch.manual_seed(12345)
    work(data, out, True)
