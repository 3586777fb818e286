"""A Dask scheduler and worker processes on 127.0.0.1, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PATH = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])


@dataclass
class Cluster:
    """A scheduler with its workers, each a process under a nanny that starts it anew."""

    folder: Path
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def worker_pids(self) -> list[int]:
        """Return the processes that work now."""
        from distributed import Client

        with Client(self.address, timeout=10, set_as_default=False) as client:
            return sorted(client.run(os.getpid).values())

    def stop_scheduler(self) -> None:
        """Kill the scheduler, as a machine that goes down does."""
        self.processes[0].send_signal(signal.SIGKILL)
        self.processes[0].wait()


def _start(*arguments: str, log: Path, **variables: str) -> subprocess.Popen[bytes]:
    environment = dict(
        os.environ,
        PYTHONPATH=_PATH,
        OMP_NUM_THREADS="1",
        DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="2",  # the third death is the last
        **variables,
    )
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2, **variables: str) -> Iterator[Cluster]:
    """Start a scheduler and workers; end them all afterwards."""
    about = folder / "scheduler.json"
    processes = [
        _start(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", "--scheduler-file", str(about), log=folder / "scheduler.log",
        )
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        # The file is there before it is written.
        while not (about.exists() and about.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        address = json.loads(about.read_text())["address"]
        for number in range(workers):
            processes.append(
                _start(
                    "distributed.cli.dask_worker", address, "--host", "127.0.0.1", "--nthreads",
                    "1", "--no-dashboard", "--local-directory", str(folder),
                    log=folder / f"worker{number}.log", **variables,
                )
            )  # fmt: skip
        here = Cluster(folder, address, processes)
        while len(here.worker_pids()) < workers and time.monotonic() < deadline:
            time.sleep(0.1)
        yield here
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
