"""Encode and decode files, one or a whole tree on threads.

Nothing is printed here: what there is to say of a file is in its `Outcome`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from codec.errors import CodecError, WeightsError
from codec.io.files import PathLike, atomic_open, is_direct, list_files, named_path
from codec.io.output import output_format
from codec.pieces import (
    DecodeOptions,
    EncodeOptions,
    Outcome,
    Stopped,
    decode_stream,
    encode_blocks,
    until,
)

if TYPE_CHECKING:
    from codec.api import Codec

__all__ = [
    "attempt",
    "choose_target",
    "decode_file",
    "encode_file",
    "is_done",
    "list_files",
    "pair_up",
    "run_pairs",
]

STANDARD = Path("-")


def encode_file(
    codec: Codec,
    source: PathLike,
    target: PathLike | BinaryIO,
    options: EncodeOptions,
    stop: threading.Event | None = None,
) -> Outcome:
    """Encode an audio file; the output appears when it is complete.

    Parameters
    ----------
    codec : Codec
    source : path of any file that libsndfile reads
    target : path, or an open binary file, which need not seek
    options : EncodeOptions
    stop : Event   set by another thread to give the work up

    Raises
    ------
    AudioError   the source cannot be read, or the target not be written
    Stopped      `stop` was set
    """
    from codec.io.audio import AudioReader  # decoding does without libsndfile

    outcome = Outcome(Path(source), _target_path(target))
    with AudioReader(source, options.channel) as reader, tempfile.TemporaryFile() as spool:
        # A device or pipe cannot seek back to the header: it gets all when all is known.
        def code(file: IO[bytes]) -> None:
            outcome.sample_rate = reader.sample_rate
            blocks = until(stop, reader.blocks())
            encode_blocks(codec, blocks, options, outcome, file.write, file.seek)

        if isinstance(target, str | os.PathLike) and not is_direct(target):
            outcome.target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(target) as file:
                code(file)
        else:
            code(spool)
            spool.seek(0)
            _copy(spool, target)
        outcome.notes = reader.notes + outcome.notes
    return outcome


def decode_file(
    codec: Codec,
    source: PathLike,
    target: PathLike | BinaryIO,
    options: DecodeOptions,
    stop: threading.Event | None = None,
) -> Outcome:
    """Decode a stream into an audio file, of the format that its suffix says.

    Parameters
    ----------
    codec : Codec
    source : path of a coded file
    target : path, or an open binary file, which need not seek
    options : DecodeOptions
    stop : Event   set by another thread to give the work up

    Raises
    ------
    BitstreamError   not a file of this codec, damaged, cut off, or other weights
    AudioError       the target cannot be written, or not in this format; nothing was decoded then
    Stopped          `stop` was set
    """
    outcome = Outcome(Path(source), _target_path(target), num_bytes=os.path.getsize(source))
    with open(source, "rb") as file:
        if isinstance(target, str | os.PathLike):
            output_format(target, options.sample_rate, options.format)
            outcome.target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(target) as out:
                decode_stream(codec, file, out, options, outcome, not is_direct(target), stop)
        else:
            decode_stream(codec, file, target, options, outcome, False, stop)
    return outcome


# --- trees ----------------------------------------------------------------------------------------

Work = Callable[[Path, Path, threading.Event], Outcome]


def run_pairs(work: Work, pairs: Sequence[tuple[Path, Path]], jobs: int) -> Generator[Outcome]:
    """Do the work on (source, target) pairs, and yield what became of each, in their order.

    What is wrong with one file is in its outcome and does not stop the others. When the iterator is
    closed, work that has begun is given up.

    Parameters
    ----------
    work : callable   codes a source into a target; looks at the event, which asks it to stop
    pairs : sequence of (Path, Path)
    jobs : int        threads

    Raises
    ------
    WeightsError   that stops every file
    """
    stop = threading.Event()
    if jobs == 1 or len(pairs) < 2:
        yield from (attempt(work, source, target, stop) for source, target in pairs)
        return
    pool = ThreadPoolExecutor(min(jobs, len(pairs)), thread_name_prefix="codec")
    try:
        futures = [pool.submit(attempt, work, *pair, stop) for pair in pairs]
        while futures:
            yield futures.pop(0).result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def attempt(work: Work, source: Path, target: Path, stop: threading.Event) -> Outcome:
    """Do the work on one pair; what is wrong with it becomes an outcome that names the file."""
    try:
        return work(source, target, stop)
    except (WeightsError, Stopped):
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        text = f"{error.filename}: {reason}" if error.filename else reason
    except (ValueError, MemoryError) as error:  # BitstreamError and AudioError are ValueErrors
        text = str(error) or "not enough memory"
    except Exception as error:  # a bug of ours must not stop the other files
        text = f"internal error ({error!r}); please report it"
    named = str(source) in text or str(target) in text or text.startswith(f"{target.parent}:")
    return Outcome(source, target, error=text if named else f"{source}: {text}")


def choose_target(source: Path, target: str | None, suffix: str, force: bool) -> Path:
    """Return where the output for `source` goes.

    Parameters
    ----------
    source : file or directory, or - (standard input)
    target : as the user named it: a file, or for a file a directory, which exists or ends in a
             slash; None: beside the source, with another suffix
    suffix : of outputs, ".bin" say
    force : bool   without a target, replace a file that is there

    Raises
    ------
    CodecError   it is the input, of the wrong kind, or there already and not named
    """
    is_dir = source != STANDARD and source.is_dir()
    if target is None:
        if is_dir:
            raise CodecError(f"{source}: is a directory; name a directory for the outputs as well")
        chosen = source.with_suffix(suffix)
        if chosen.exists() and not force:
            raise CodecError(f"{chosen}: exists; name an output, or replace it with --force")
    else:
        chosen = named_path(target)
        if not is_dir and (target.endswith("/") or chosen.is_dir()):
            if source == STANDARD:
                raise CodecError(f"{target}: is a directory; name the output file")
            chosen = chosen / (source.stem + suffix)
    if chosen.exists():
        if _is_input(source, chosen):
            raise CodecError(f"{chosen}: is the input; name another output")
        if is_dir and not chosen.is_dir():
            raise CodecError(
                f"{chosen}: is a file, but the input is a directory; name a directory as output"
            )
        if not is_dir and chosen.is_dir():
            raise CodecError(f"{chosen}: is a directory; name the output file")
    for parent in chosen.parents:
        if parent.exists():
            if not parent.is_dir():
                raise CodecError(f"{parent}: is not a directory; name another output")
            break
    return chosen


def _is_input(source: Path, target: Path) -> bool:
    """Tell whether a file that is there is the one that is read."""
    try:
        found = os.fstat(0) if source == STANDARD else source.stat()
        return os.path.samestat(found, target.stat())
    except OSError:  # a standard input that is closed
        return False


def pair_up(
    sources: Sequence[Path], source_dir: Path, target_dir: Path, suffix: str
) -> tuple[list[tuple[Path, Path]], list[Outcome]]:
    """Return (source, target) pairs with the tree kept, and the files whose target is taken."""
    taken: dict[Path, Path] = {}
    clashes = []
    for source in sources:
        target = (target_dir / source.relative_to(source_dir)).with_suffix(suffix)
        if target in taken:
            text = f"{source}: {taken[target].name} has the same output name; rename one of them"
            clashes.append(Outcome(source, target, error=text))
        else:
            taken[target] = source
    return [(source, target) for target, source in taken.items()], clashes


def is_done(target: Path) -> bool:
    """Tell whether an output is there: a regular file that is not empty.

    An output is complete or not there, so that nothing more need be asked.
    """
    return target.is_file() and target.stat().st_size > 0 and not is_direct(target)


# --- small help -----------------------------------------------------------------------------------


def _target_path(target: PathLike | BinaryIO) -> Path:
    return Path(target) if isinstance(target, str | os.PathLike) else Path("-")


def _copy(spool: IO[bytes], target: PathLike | BinaryIO) -> None:
    """Copy what is complete into a device, or an open file."""
    if isinstance(target, str | os.PathLike):
        with atomic_open(target) as file:
            shutil.copyfileobj(spool, file)
    else:
        shutil.copyfileobj(spool, target)
        target.flush()
