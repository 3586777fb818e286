"""Do many pieces of work: in this process, in several, or on a Dask cluster, and lose none.

::

    items ─► batches ─► executor (concurrent.futures) ─► results, as they are done

A batch is about five minutes of audio: long enough that sending it costs nothing, short enough that
all workers end together. So many batches are under way as keep the workers busy, and no more:
memory does not grow with the number of items.

A worker that dies (killed, out of memory, a crash in a library) takes nothing with it. What was
under way is done again, item by item; an item that is alone with its worker when that dies, three
times, is set aside and named, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from codec.engines import GONE, POLL_SECONDS, ClusterError, Engine, open_place
from codec.places import Place, Setup

BATCH_SECONDS = 300.0  # of audio
BATCH_ITEMS = 64
_FIRST_SECONDS = 4.0  # of the first batches


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
    engine = open_place(place)
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
    engine: Engine, setup: Setup, batches: Iterator[list[Any]], suspects: list[Any]
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
        ready, _ = wait(under_way, POLL_SECONDS, FIRST_COMPLETED)
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


def _alone(engine: Engine, setup: Setup, item: Any) -> Done:
    """Do one item with nothing beside it, as often as it may kill its worker."""
    deaths = 0
    for _ in range(engine.chances):
        try:
            future = engine.submit(setup, [item])
            while not wait([future], POLL_SECONDS).done:
                engine.look_after()
            return Done(item, _result(engine, future)[0])
        except engine.died as error:
            deaths += getattr(error, "allowed_failures", 0) + 1  # Dask's has tried as often
            engine.restart()
    text = f"its worker process died {deaths} times, perhaps for memory; it is set aside"
    return Done(item, error=text)


def _result(engine: Engine, future: Future[Any]) -> list[Any]:
    try:
        return future.result()
    except CancelledError:  # not by us
        engine.look_after()
        raise ClusterError(GONE) from None
