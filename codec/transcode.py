"""Encode and decode files, on this machine or behind URLs.

Nothing is printed here: what there is to say of a file is in its `Outcome`.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from codec import __version__
from codec.api import Codec
from codec.errors import CodecError, WeightsError
from codec.info import check_same
from codec.io.files import PathLike, atomic_open, is_direct
from codec.io.output import output_format
from codec.io.storage import (
    Location,
    check_writable,
    exists,
    fetched,
    has_bytes,
    is_directory,
    join,
    location,
    stored,
)
from codec.pieces import (
    DecodeOptions,
    EncodeOptions,
    Outcome,
    Stopped,
    decode_stream,
    encode_blocks,
    until,
)
from codec.two_pass import IN_MEMORY_BYTES

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
    source : path of an audio file of any kind that `AudioReader` reads
    target : path, or an open binary file, which need not seek
    options : EncodeOptions
    stop : Event   set by another thread to give the work up

    Raises
    ------
    AudioError   the source cannot be read, or the target not be written
    Stopped      `stop` was set
    """
    from codec.io.audio import AudioReader  # decoding does without libsndfile

    path = _target_path(target)
    outcome = Outcome(Path(source), path)
    with AudioReader(source, options.channel) as reader:

        def put(file: IO[bytes]) -> None:
            outcome.sample_rate = reader.sample_rate
            blocks = until(stop, reader.blocks())
            encode_blocks(codec, blocks, options, outcome, file.write, file.seek)

        if isinstance(target, str | os.PathLike) and not is_direct(target):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(target) as file:
                put(file)
        else:
            # A device or pipe cannot seek back to the header: it gets all when all is known.
            with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as spool:
                put(spool)
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
    path = _target_path(target)
    outcome = Outcome(Path(source), path, num_bytes=os.path.getsize(source))
    with open(source, "rb") as file:
        if isinstance(target, str | os.PathLike):
            output_format(target, options.sample_rate, options.format)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_open(target) as out:
                decode_stream(codec, file, out, options, outcome, not is_direct(target), stop)
        else:
            decode_stream(codec, file, target, options, outcome, False, stop)
    return outcome


# --- whatever the user named --------------------------------------------------------------------

Work = Callable[[Location, Location, "threading.Event | None"], Outcome]


@dataclass(frozen=True)
class Coder:
    """What every worker needs to know to encode or decode files; travels to it by pickle.

    Attributes
    ----------
    options : EncodeOptions or DecodeOptions
    weights : path or None     as the user named them; None for the shipped ones
    fingerprint : str or None  hex; a worker whose weights have another one refuses the work
    version : str              of this package, likewise
    """

    options: EncodeOptions | DecodeOptions
    weights: Path | None = None
    fingerprint: str | None = None
    version: str = __version__

    def load(self) -> Codec:
        """Load the codec.

        Raises
        ------
        WeightsError   the weights cannot be read, or are not those that this was made for
        """
        codec = Codec.load(self.weights)
        check_same(codec.fingerprint, self.fingerprint, self.version)
        return codec

    def __call__(self) -> Work:
        """Load the codec, and return the function that codes a source into a target.

        Raises
        ------
        WeightsError   see `load`
        """
        return partial(code, self.load(), self.options)


def code(
    codec: Codec,
    options: EncodeOptions | DecodeOptions,
    source: Location,
    target: Location,
    stop: threading.Event | None = None,
) -> Outcome:
    """Encode or decode from one place to another, each a path or a URL.

    Raises
    ------
    AudioError, BitstreamError, Stopped   see `encode_file`, `decode_file`
    """
    with fetched(source) as here, stored(target) as there:
        try:
            if isinstance(options, EncodeOptions):
                outcome = encode_file(codec, here, there, options, stop)
            else:
                outcome = decode_file(codec, here, there, options, stop)
        except CodecError as error:  # the user knows the place, not our copy
            text = str(error).replace(str(here), str(source)).replace(str(there), str(target))
            raise type(error)(text) from error
    outcome.source, outcome.target = source, target
    return outcome


def attempt(
    work: Work, source: Location, target: Location, stop: threading.Event | None = None
) -> Outcome:
    """Do the work on one pair; what is wrong with it becomes an outcome that names the file.

    Raises
    ------
    WeightsError, Stopped   they concern all files
    """
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
    folder = posixpath.dirname(str(target))
    named = text.startswith((f"{source}:", f"{target}:", f"{folder}:"))
    return Outcome(source, target, error=text if named else f"{source}: {text}")


def choose_target(source: Location, target: str | None, suffix: str, force: bool) -> Location:
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
    many = source != STANDARD and is_directory(source)
    if target is None:
        if many:
            raise CodecError(f"{source}: is a directory; name a directory for the outputs as well")
        chosen = with_suffix(source, suffix)
        check_writable(chosen)
        if exists(chosen) and not force:
            raise CodecError(f"{chosen}: exists; name an output, or replace it with --force")
    else:
        chosen = location(target)
        if not many and (target.endswith("/") or is_directory(chosen)):
            if source == STANDARD:
                raise CodecError(f"{target}: is a directory; name the output file")
            chosen = join(chosen, Path(str(source)).stem + suffix)
    check_writable(chosen)
    if exists(chosen):
        if is_same(source, chosen):
            raise CodecError(f"{chosen}: is the input; name another output")
        if many and not is_directory(chosen):
            raise CodecError(
                f"{chosen}: is a file, but the input is a directory; name a directory as output"
            )
        if not many and is_directory(chosen):
            raise CodecError(f"{chosen}: is a directory; name the output file")
    for parent in chosen.parents if isinstance(chosen, Path) else ():
        if parent.exists():
            if not parent.is_dir():
                raise CodecError(f"{parent}: is not a directory; name another output")
            break
    return chosen


def with_suffix(place: Location, suffix: str) -> Location:
    """Return a place whose last suffix is another one."""
    if isinstance(place, Path):
        return place.with_suffix(suffix)
    return posixpath.splitext(place)[0] + suffix


def is_same(source: Location, target: Location) -> bool:
    """Tell whether an output that is there is what is read; either may be - (standard)."""
    if isinstance(source, Path) and isinstance(target, Path):
        try:
            found = os.fstat(0) if source == STANDARD else source.stat()
            other = os.fstat(1) if target == STANDARD else target.stat()
        except OSError:  # no such input, or a standard stream that is closed
            return False
        # A device, a terminal say, may be both.
        file_or_folder = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
        return file_or_folder and os.path.samestat(found, other)
    return str(source).rstrip("/") == str(target).rstrip("/")


def is_done(target: Location) -> bool:
    """Tell whether an output is there: a regular file that is not empty.

    An output is complete or not there, so that nothing more need be asked.
    """
    return has_bytes(target) and not (isinstance(target, Path) and is_direct(target))


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
