"""Kernels in tests: compiled once for all processes of a run, called without numba's wrappers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from codec import Codec, jit
from codec.coding.context import predict, start_block, update
from codec.coding.frame import put_frame
from codec.coding.range_coder import enc_finish
from codec.coding.rate_control import fill_frame
from codec.config import HOP_LENGTH
from codec.info import stream_info

GOLDEN = Path(__file__).resolve().parent / "golden"


def direct(kernel: Any) -> Any:
    """Return a kernel that is a part of others as one that Python calls.

    It is compiled with all that it calls at once, in a third of the time that numba takes for all
    of them one by one, and cached beside the entries.
    """
    return jit.entry(kernel.function) if isinstance(kernel, jit.Kernel) else kernel


# Entries return integers. The cache does not look at this file: what changes gets another name.


@jit.entry
def frame_was_put(model, state, num_stages, data):
    """Encode a frame, see `codec.coding.frame.put_frame`."""
    return 1 if put_frame(model, state, num_stages, data) else 0


@jit.entry
def frame_was_filled(model, state, coefficients, frame_bits, bits):
    """Use a frame's last bits, see `codec.coding.rate_control.fill_frame`."""
    return 1 if fill_frame(model, state, coefficients, frame_bits, bits) else 0


@jit.entry
def packet_was_finished(state, buffer, num_bytes):
    """End a packet, see `codec.coding.range_coder.enc_finish`."""
    return 1 if enc_finish(state, buffer, num_bytes) else 0


@jit.entry
def block_was_predicted(model, known, context, levels, positions):
    """Predict a frame's second block as the decoder does, see `codec.coding.context.predict`."""
    start_block(model, known, 1, context)
    for k in range(HOP_LENGTH):
        index, row, column = predict(model, known, context, k)
        positions[k, 0], positions[k, 1], positions[k, 2] = index, row, column
        update(model, context, k, np.int64(abs(levels[k])))


def compile_entries(first: int) -> None:
    """Compile what coding begins with, each part in one process at a time, from part `first` on.

    Processes that begin with different parts share the work; those that come to a part later find
    it in the cache.
    """
    folder = jit.cache_folder()
    if folder is None:
        return
    codec, silence = Codec.load(), np.zeros(320, np.float32)
    data = (GOLDEN / "length_1.bin").read_bytes()
    parts: list[Callable[[], Any]] = [
        lambda: codec.encode(silence),
        lambda: codec.decode(data),
        lambda: codec.encode(silence, vbr=True),
        lambda: stream_info(data),
        lambda: codec.decode_integers(data),
    ]
    for number in range(len(parts)):
        index = (first + number) % len(parts)
        with _one_process(folder / f"{index}.lock"):
            parts[index]()


@contextlib.contextmanager
def _one_process(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ModuleNotFoundError:  # not on Windows: then each process compiles
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
