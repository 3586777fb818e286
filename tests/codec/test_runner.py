"""Work in this process and in several: batches, workers that die, memory, giving up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from pieces_of_work import SLEEP_SECONDS, Sleeper, Squares, tries

from codec.engines import DEATHS, open_place
from codec.errors import WeightsError
from codec.places import Place
from codec.runner import BATCH_ITEMS, in_batches, run

ROOT = Path(__file__).resolve().parents[2]


def test_batches_are_about_five_minutes() -> None:
    sizes = [len(batch) for batch in in_batches(range(2000), lambda _: 6.0)]
    assert sizes[:28] == [1] * 8 + [2] * 4 + [5] * 4 + [10] * 4 + [21] * 4 + [42] * 4
    assert set(sizes[28:-1]) == {50} and sum(sizes) == 2000
    sizes = [len(batch) for batch in in_batches(range(2 * BATCH_ITEMS + 1), lambda _: 0.0)]
    assert sizes == [BATCH_ITEMS, BATCH_ITEMS, 1]
    assert list(in_batches([900.0, 301.0, 1.0, 1.0], float)) == [[900.0], [301.0], [1.0, 1.0]]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_item_is_done_once(tmp_path: Path, jobs: int) -> None:
    done = list(run(Squares(tmp_path), iter(range(40)), Place(jobs), lambda _: 10.0))
    assert sorted((came.item, came.result) for came in done) == [(n, n * n) for n in range(40)]
    assert not any(came.error for came in done)
    assert all(tries(tmp_path, number) == 1 for number in range(40))
    loaded = list(tmp_path.glob("loaded.*"))
    assert 1 <= len(loaded) <= jobs  # once in each process, and not in this one if there are others
    assert (tmp_path / f"loaded.{os.getpid()}" in loaded) == (jobs == 1)


def test_items_are_read_as_they_are_needed(tmp_path: Path) -> None:
    read = []

    def items():
        for number in range(1000):
            read.append(number)
            yield number

    results = run(Squares(tmp_path), items(), Place(1), lambda _: 60.0)
    next(results)
    assert len(read) <= 3  # one is done, one is looked at to end the batch
    results.close()


def test_what_kills_its_worker_is_set_aside_and_the_rest_is_done(tmp_path: Path) -> None:
    setup = Squares(tmp_path, deadly=(7, 30))
    done = {came.item: came for came in run(setup, range(40), Place(2), lambda _: 12.0)}
    assert sorted(done) == list(range(40))
    assert {n for n, came in done.items() if came.error} == {7, 30}
    assert "died 3 times" in done[7].error
    assert all(done[n].result == n * n for n in done if n not in (7, 30))
    # In a batch first, perhaps more than once when another killed the pool; then alone.
    assert DEATHS <= tries(tmp_path, 7) <= DEATHS + 2


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    results = run(Squares(tmp_path, seconds=0.02), range(60), Place(2), lambda _: 6.0)
    done = [next(results)]
    pids = [int(path.suffix[1:]) for path in tmp_path.glob("loaded.*")]
    os.kill(pids[0], signal.SIGKILL)
    done += results
    assert sorted(came.result for came in done) == [n * n for n in range(60)]


def test_a_dead_worker_takes_the_waiting_ones_along(tmp_path: Path) -> None:
    """They may wait for a lock that it held, and would do so for ever."""
    engine = open_place(Place(2))
    setup = Sleeper(tmp_path)
    # The third one makes the pool look after the second one's worker, which it has started since.
    futures = [engine.submit(setup, [item]) for item in ("sleep", "die", "sleep")]
    with pytest.raises(BrokenProcessPool):
        futures[1].result(SLEEP_SECONDS / 2)
    begun = time.monotonic()
    assert engine.restart()
    engine.close()
    assert time.monotonic() - begun < SLEEP_SECONDS / 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_stops_all_is_raised(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(WeightsError, match="other weights here"):
        list(run(Squares(tmp_path, refuses=True), range(3), Place(jobs)))


def test_closing_gives_up_what_has_begun() -> None:
    stopped = []

    def work(item: int, stop: threading.Event) -> int:
        stopped.append(stop)
        return item

    results = run(lambda: work, range(9), Place(1))
    next(results)
    assert not stopped[0].is_set()
    results.close()
    assert stopped[0].is_set()


_MEASURE = """
import sys
from pathlib import Path
from codec.runner import Place, run

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def setup():
    return lambda item, stop: {"file": item, "notes": []}

peaks = []
for count in (10_000, int(sys.argv[1])):
    items = (f"folder/{number}.wav" for number in range(count))
    assert sum(1 for _ in run(setup, items, Place(1), lambda _: 5.0)) == count
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.parametrize("count", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_items(count: int) -> None:
    command = [sys.executable, "-c", _MEASURE, str(count)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    few, many = map(int, result.stdout.split())
    assert many - few < 2000  # kB, for twenty or a hundred times as many


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Also when that is killed, and can tell nobody."""
    code = (
        "import sys; from pathlib import Path; from pieces_of_work import Squares\n"
        "from codec.runner import Place, run\n"
        "if __name__ == '__main__':\n"
        "    list(run(Squares(Path(sys.argv[1]), seconds=0.05), range(10**6), Place(2)))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=dict(os.environ, PYTHONPATH=path)
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("loaded.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(found.suffix[1:]) for found in tmp_path.glob("loaded.*")]
    assert len(pids) == 2
    process.kill()
    process.wait()
    while any(map(_is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_is_alive, pids))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
