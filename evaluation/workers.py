"""Run tasks in worker processes that each load what they need once and compute on one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from codec.errors import CodecError

# Numerical libraries read these when a worker starts; more threads than cores slow all workers.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Setup = Callable[[], Callable[[Any], Any]]

_work: Callable[[Any], Any] | None = None


class WorkerError(CodecError):
    """A worker process died; the message is one line for the user."""


def run_tasks(
    setup: Setup, tasks: Sequence[Any], jobs: int
) -> Generator[tuple[int, Any], None, None]:
    """Yield the index of each task and what came of it, in the order in which they finish.

    Parameters
    ----------
    setup : called once in each process, returns the function that does a task; it, the tasks and
        their results are picklable if jobs > 1
    tasks : what to do
    jobs : processes; 1 works in this one

    Raises
    ------
    WorkerError   a process died
    """
    if jobs == 1:
        work = setup()
        for index, task in enumerate(tasks):
            yield index, work(task)
        return
    with _single_threaded_children():
        pool = ProcessPoolExecutor(
            max_workers=min(jobs, len(tasks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(setup,),
        )
        try:
            futures = {pool.submit(_do, task): index for index, task in enumerate(tasks)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as exc:
            raise WorkerError("a worker process died, perhaps for memory; use fewer jobs") from exc
        finally:
            pool.shutdown(cancel_futures=True)


def _start(setup: Setup) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = setup()


def _end_with_parent() -> None:
    """End this process when its parent was killed: it would wait for tasks for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _do(task: Any) -> Any:
    assert _work is not None
    return _work(task)


@contextlib.contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Let processes started inside compute on one thread each."""
    former = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
