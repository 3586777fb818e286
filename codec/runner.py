"""Do many pieces of work: in this process, in several, or on a Dask cluster, and lose none.

::

    items ─► batches ─► executor (concurrent.futures) ─► results, as they are done

A batch is about a minute of audio: long enough that sending it costs nothing, short enough that all
workers end together. So many batches are under way as keep the workers busy, and no more: memory
does not grow with the number of items.

A worker that dies (killed, out of memory, a crash in a library) takes nothing with it. What was
under way is done again, item by item; an item that is alone with its worker when that dies, three
times, is set aside and named, and the others go on.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from codec.errors import CodecError

BATCH_SECONDS = 60.0  # of audio
BATCH_ITEMS = 64
_FIRST_SECONDS = 4.0  # of the first batches
DEATHS = 3  # of its worker that an item may cause

# Numerical libraries read these when a worker starts; more threads than cores slow all workers.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_POLL_SECONDS = 5.0
_CONNECT_SECONDS = 10.0
_PATIENCE_SECONDS = 120.0  # with a cluster that has no workers
_GONE = (
    "the Dask scheduler is gone; what is done is kept: start it again, and go on with "
    "--skip-existing (codec eval: --resume)"
)

Work = Callable[[Any, Any], Any]  # of an item and an event that asks to stop (or None)
Setup = Callable[[], Work]


class ClusterError(CodecError):
    """A Dask cluster cannot be reached, or cannot do the work; the message is one line."""


@dataclass(frozen=True)
class Place:
    """Where work is done.

    Attributes
    ----------
    jobs : int                processes; 1 works in this one
    scheduler : str or None   address of a Dask scheduler, in place of processes: "tcp://host:8786"
    """

    jobs: int = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class Done:
    """What came of an item: a result, or the reason why it was set aside."""

    item: Any
    result: Any = None
    error: str = ""


def run(
    setup: Setup,
    items: Iterable[Any],
    place: Place,
    cost: Callable[[Any], float] = lambda item: BATCH_SECONDS,
) -> Generator[Done, None, None]:
    """Do the work on all items, and yield what came of each as soon as it is there.

    Parameters
    ----------
    setup : callable   called once in each process; returns the function that does an item. It, the
                       items and their results are picklable unless the place is this process
    items : iterable   read as it is needed
    place : Place
    cost : callable    seconds of audio that an item is about

    Yields
    ------
    Done, in any order. When the iterator is closed, work that has begun is given up.

    Raises
    ------
    ClusterError   the scheduler or its workers cannot do the work
    whatever `setup` or the work raises: that is meant to stop all
    """
    engine = _open(place)
    try:
        suspects: list[Any] = []
        yield from _stream(engine, setup, in_batches(items, cost), suspects)
        for item in suspects:
            yield _alone(engine, setup, item)
    finally:
        engine.close()


def in_batches(items: Iterable[Any], cost: Callable[[Any], float]) -> Iterator[list[Any]]:
    """Yield lists of items that cost about `BATCH_SECONDS` together.

    The first ones are smaller: few items are for all workers, too.
    """
    batch: list[Any] = []
    total = 0.0
    number = 0
    for item in items:
        limit = min(BATCH_SECONDS, _FIRST_SECONDS * 2 ** min(number // 4, 8))
        seconds = cost(item)
        if batch and (total + seconds > limit or len(batch) == BATCH_ITEMS):
            yield batch
            batch, total = [], 0.0
            number += 1
        batch.append(item)
        total += seconds
    if batch:
        yield batch


def _stream(
    engine: _Engine, setup: Setup, batches: Iterator[list[Any]], suspects: list[Any]
) -> Generator[Done, None, None]:
    """Do batches, and yield their results; what was with a worker that died becomes suspect."""
    under_way: dict[Future[Any], list[Any]] = {}
    while True:
        while len(under_way) < engine.width():
            if (batch := next(batches, None)) is None:
                break
            under_way[engine.submit(setup, batch)] = batch
        if not under_way:
            return
        ready, _ = wait(under_way, _POLL_SECONDS, FIRST_COMPLETED)
        engine.look_after()
        died = False
        for future in ready:
            batch = under_way.pop(future)
            try:
                results = _result(engine, future)
            except engine.died:
                suspects += batch
                died = True
                continue
            yield from map(Done, batch, results)
        if died and engine.restart():
            for future, batch in under_way.items():  # a broken pool ends them all
                try:
                    yield from map(Done, batch, _result(engine, future))
                except engine.died:
                    suspects += batch
            under_way.clear()


def _alone(engine: _Engine, setup: Setup, item: Any) -> Done:
    """Do one item with nothing beside it, as often as it may kill its worker."""
    deaths = 0
    for _ in range(engine.chances):
        try:
            future = engine.submit(setup, [item])
            while not wait([future], _POLL_SECONDS).done:
                engine.look_after()
            return Done(item, _result(engine, future)[0])
        except engine.died as error:
            deaths += getattr(error, "allowed_failures", 0) + 1  # Dask's has tried as often
            engine.restart()
    text = f"its worker process died {deaths} times, perhaps for memory; it is set aside"
    return Done(item, error=text)


def _result(engine: _Engine, future: Future[Any]) -> list[Any]:
    try:
        return future.result()
    except CancelledError:  # not by us
        engine.look_after()
        raise ClusterError(_GONE) from None


# --- in a worker ----------------------------------------------------------------------------------

_prepared: dict[bytes, Work] = {}
_lock = threading.Lock()
_stop: Any = None  # an event of the parent's


def do_batch(pickled_setup: bytes, batch: list[Any]) -> list[Any]:
    """Do the items of a batch; what they need is loaded with the first batch of a process."""
    with _lock:
        if pickled_setup not in _prepared:
            if len(_prepared) > 3:
                _prepared.clear()
            _prepared[pickled_setup] = pickle.loads(pickled_setup)()
        work = _prepared[pickled_setup]
    return [work(item, _stop) for item in batch]


def _start(stop: Any) -> None:
    global _stop
    _stop = stop
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the parent ends the workers
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent was killed: it would wait for tasks for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


# --- places ---------------------------------------------------------------------------------------


class _Engine(Protocol):
    """An executor, and what is to be known of it."""

    chances: int  # that an item gets alone

    @property
    def died(self) -> type[BaseException] | tuple[type[BaseException], ...]:
        """Return what futures raise when their worker died."""

    def width(self) -> int:
        """Return how many batches are to be under way."""

    def submit(self, setup: Setup, batch: list[Any]) -> Future[Any]:
        """Begin a batch."""

    def look_after(self) -> None:
        """Raise if nothing will come any more."""

    def restart(self) -> bool:
        """Get over a dead worker; tell whether that ended all that was under way."""

    def close(self) -> None:
        """Give up what has begun, and end the workers."""


def _open(place: Place) -> _Engine:
    if place.scheduler is not None:
        return _Cluster(place.scheduler)
    return _Here() if place.jobs == 1 else _Processes(place.jobs)


class _Here:
    """In this process: a batch is done when it is submitted."""

    died: tuple[type[BaseException], ...] = ()
    chances = 1

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._setup: Setup | None = None
        self._work: Work | None = None

    def width(self) -> int:
        return 1

    def submit(self, setup: Setup, batch: list[Any]) -> Future[Any]:
        if self._work is None or self._setup is not setup:
            self._setup, self._work = setup, setup()
        future: Future[Any] = Future()
        future.set_result([self._work(item, self._stop) for item in batch])
        return future

    def look_after(self) -> None:
        pass

    def restart(self) -> bool:
        return False

    def close(self) -> None:
        self._stop.set()


class _Processes:
    """Processes of this machine, each computing on one thread."""

    died = BrokenProcessPool
    chances = DEATHS

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._pool = self._make()
        self._pickled: tuple[Setup, bytes] | None = None

    def _make(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._jobs, self._context, _start, (self._stop,))

    def width(self) -> int:
        return self._jobs + 1

    def submit(self, setup: Setup, batch: list[Any]) -> Future[Any]:
        if self._pickled is None or self._pickled[0] is not setup:
            self._pickled = setup, pickle.dumps(setup)
        with _single_threaded_children():  # the pool starts processes when it is given work
            try:
                return self._pool.submit(do_batch, self._pickled[1], batch)
            except BrokenProcessPool as error:  # seen here before any future could say so
                future: Future[Any] = Future()
                future.set_exception(error)
                return future

    def look_after(self) -> None:
        pass

    def restart(self) -> bool:
        self._pool.shutdown()
        self._pool = self._make()
        return True

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


class _Cluster:
    """Workers of a Dask scheduler, which starts anew what was with a worker that died."""

    chances = 1  # the scheduler has given it several

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client, KilledWorker
            from distributed.comm.addressing import parse_host_port, unparse_host_port
        except ModuleNotFoundError as error:
            what = error.name or "dask"
            raise ClusterError(
                f"--scheduler: {what} is not installed: pip install '.[cluster]'"
            ) from error
        self._address = address
        self.died = KilledWorker
        # What it warns of is told here in one line, or is none of the user's concern.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            # Dask itself would try for long, and print what it thinks of it.
            host, port = parse_host_port(address.split("://")[-1], 8786)
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
            protocol = address.split("://")[0] if "://" in address else "tcp"
            full = f"{protocol}://{unparse_host_port(host, port)}"
            self._client = Client(full, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterError(
                f"--scheduler {address}: no Dask scheduler answers there; check the address, or "
                "start one with `dask scheduler`"
            ) from error
        self._executor: Executor = self._client.get_executor(pure=False)
        self._pickled: tuple[Setup, bytes] | None = None
        self._looked = self._seen = time.monotonic()
        self._threads = self._count()

    def _count(self) -> int:
        """Return how many threads the workers have together."""
        return sum(self._client.nthreads().values())

    def width(self) -> int:
        return max(2, 2 * self._threads)

    def submit(self, setup: Setup, batch: list[Any]) -> Future[Any]:
        if self._pickled is None or self._pickled[0] is not setup:
            self._pickled = setup, pickle.dumps(setup)
        return self._executor.submit(do_batch, self._pickled[1], batch)

    def look_after(self) -> None:
        now = time.monotonic()
        if now - self._looked < _POLL_SECONDS:
            return
        self._looked = now
        if self._client.status != "running":
            raise self._gone()
        try:
            self._threads = self._count()
        except (OSError, CancelledError) as error:
            raise self._gone() from error
        if self._threads:
            self._seen = now
        elif now - self._seen > _PATIENCE_SECONDS:
            raise ClusterError(
                f"--scheduler {self._address}: has had no workers for {_PATIENCE_SECONDS:.0f} s; "
                f"start some with `dask worker {self._address}`"
            )

    def _gone(self) -> ClusterError:
        return ClusterError(_GONE)

    def restart(self) -> bool:
        return False

    def close(self) -> None:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._executor.shutdown(wait=False)
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)


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
