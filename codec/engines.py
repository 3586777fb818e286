"""What works at a place: this process, several processes of this machine, a Dask cluster.

Each is an executor (``concurrent.futures``) of batches, and knows what it is to lose a worker.
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
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any, Protocol

from codec.errors import CodecError
from codec.places import Place, Setup, Work

DEATHS = 3  # of its worker that an item may cause

# Numerical libraries read these when a worker starts; more threads than cores slow all workers.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
POLL_SECONDS = 5.0
_CONNECT_SECONDS = 10.0
_PATIENCE_SECONDS = 120.0  # with a cluster that has no workers
GONE = (
    "the Dask scheduler is gone; what is done is kept: start it again, and go on with "
    "--skip-existing (codec eval: --resume)"
)


class ClusterError(CodecError):
    """A Dask cluster cannot be reached, or cannot do the work; the message is one line."""


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


# --- engines --------------------------------------------------------------------------------------


class Engine(Protocol):
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


def open_place(place: Place) -> Engine:
    """Make ready to work there; `close` ends it.

    Raises
    ------
    ClusterError   no scheduler answers, or what is needed to talk to it is not installed
    """
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
        self._end()
        self._pool = self._make()
        return True

    def close(self) -> None:
        self._stop.set()
        self._end()

    def _end(self) -> None:
        if self._pool._broken:
            # Those that are left may wait for a lock that the dead one held; the pool would wait
            # for them, having sent a SIGTERM that workers ignore.
            for process in list((self._pool._processes or {}).values()):
                process.kill()
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
        # What they say is told here in one line, or is none of the user's concern: a slow event
        # loop, a connection that closed. Children have levels of their own.
        for name in ("distributed", "distributed.client", "tornado", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
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
        if now - self._looked < POLL_SECONDS:
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
        return ClusterError(GONE)

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
