"""Write files so that they are complete or not there."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from codec.errors import AudioError

PathLike = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_open(path: PathLike) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete.

    The bytes go to a hidden temporary file beside `path`. When the ``with`` block ends, they are
    brought to the disk and the file takes the place of `path` in one step. When the block raises,
    nothing is left, and a file that was there before stays. A symbolic link stays one; what it
    leads to is replaced. A SIGKILL may leave the temporary file, named ``.codec-*.tmp``.

    A device or pipe (see :func:`is_direct`) is written to directly, and cannot seek.

    Parameters
    ----------
    path : output file; replaced if it exists

    Yields
    ------
    binary file, at its start; may seek and read back

    Raises
    ------
    AudioError   the file cannot be written: no such directory, disk full, ...
    """
    label = os.fspath(path)
    direct = _direct_target(label)
    if direct is not None:
        with _naming(label):
            raw = _Output(os.dup(direct) if isinstance(direct, int) else direct, "wb", label)
        with io.BufferedWriter(raw) as pipe:
            yield pipe
        return
    target = os.path.realpath(label)
    # Short, whatever the target's name: that may be as long as names get.
    temporary = os.path.join(os.path.dirname(target), f".codec-{secrets.token_hex(8)}.tmp")
    try:
        with _naming(label):
            raw = _Output(temporary, "x+b", label)
        with contextlib.suppress(OSError):  # what others may not read stays so
            os.fchmod(raw.fileno(), stat.S_IMODE(os.stat(target).st_mode))
        with io.BufferedRandom(raw) as file:
            yield file
            file.flush()
            with _naming(label):
                os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
        with _naming(label):
            os.replace(temporary, target)
    except BaseException:  # Ctrl-C as well
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def atomic_write(path: PathLike, data: bytes) -> None:
    """Write `data` to `path` by :func:`atomic_open`: all of it, or nothing.

    Raises
    ------
    AudioError   the file cannot be written; nothing is left behind then
    """
    with atomic_open(path) as file:
        file.write(data)


class WriteThrough:
    """Write to an open file without a buffer: the next program has it at once.

    Where a write fails, what was written before is there, and can be kept.

    Parameters
    ----------
    file : binary file   at the place where output begins; nothing else writes to it meanwhile
    """

    def __init__(self, file: IO[bytes]) -> None:
        file.flush()
        self._file: Any = getattr(file, "raw", file)
        self._size = 0  # of what is there

    def write(self, data: bytes) -> None:
        """Write all of the bytes, or as many as can be before the error is raised."""
        left = memoryview(data)
        while left:
            count = self._file.write(left)
            if count is None:  # a pipe that does not wait
                raise BlockingIOError(errno.EAGAIN, "it takes nothing at the moment")
            self._size += count
            left = left[count:]

    def seek(self, position: int) -> None:
        """Move to a place in what was written."""
        self._file.seek(position)

    def cut(self, ends: Sequence[int]) -> int:
        """Cut what was written, from first to last, to the last of these lengths that is there.

        Returns
        -------
        int   how many of them remain; 0: nothing was cut
        """
        count = bisect_right(ends, self._size)
        if count:
            self._file.truncate(ends[count - 1])
        return count


def is_direct(path: PathLike) -> bool:
    """Tell whether `path` is written to directly, instead of being replaced by a new file.

    So are devices, pipes, and open files such as ``/dev/stdout``, even when that was
    redirected to a file: the shell has it open, and goes on writing to it.
    """
    return _direct_target(os.fspath(path)) is not None


def _direct_target(name: str) -> int | str | None:
    """Return the open file or the name to write to directly, None for an ordinary file."""
    for _ in range(40):  # as many links as Linux follows
        name = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if found := re.fullmatch(rf"/proc/{os.getpid()}(?:/task/\d+)?/fd/(\d+)", name):
            return int(found[1])
        if re.match(r"/(proc|dev/fd)/", name):
            return name
        if not os.path.islink(name):
            break
        name = os.path.join(os.path.dirname(name), os.readlink(name))
    if os.path.exists(name) and not stat.S_ISREG(os.stat(name).st_mode):
        return name
    return None


class _Output(io.FileIO):
    """A file whose writes fail with an :class:`AudioError` that names the output."""

    def __init__(self, file: int | str, mode: str, label: str) -> None:
        super().__init__(file, mode)
        self._label = label

    def write(self, data: Any) -> int:
        with _naming(self._label):
            return super().write(data)


@contextlib.contextmanager
def _naming(label: str) -> Iterator[None]:
    """Turn errors of the system into an `AudioError` that names the output."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads our output has enough: no fault of a file
    except OSError as exc:
        raise AudioError(f"{label}: cannot be written ({exc.strerror or exc})") from exc


# --- directories ----------------------------------------------------------------------------------


def printable(text: object) -> str:
    """Return text for one line: names of files may hold newlines, and bytes that are no text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def named_path(text: str) -> Path:
    """Return the path of a name; ``./-`` is a file, and not standard input or output."""
    path = Path(text)
    return Path.cwd() / path if path == Path("-") and text != "-" else path
