"""Code tar shards in the layout of WebDataset: the way large speech corpora travel.

A shard ``corpus-000.tar`` has files ``NAME.flac``, with further files of the same name beside them
(``NAME.json``, ``NAME.txt``). Audio becomes ``NAME.bin`` (or back), all else is copied, and order
and names stay. A shard is read from its start to its end, and is complete or not there; what is
wrong with one of its files does not stop the others.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import tarfile
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from codec.api import Codec
from codec.errors import AudioError, CodecError, WeightsError
from codec.io.files import atomic_open
from codec.io.storage import (
    Location,
    Member,
    check_writable,
    exists,
    fetched,
    file_system,
    is_shards,
    join,
    location,
    naming,
    stored,
)
from codec.pieces import EncodeOptions, Outcome
from codec.places import Setup, Work
from codec.transcode import Coder, decode_file, encode_file, is_done
from codec.trees import Pair, Run

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(pattern: str) -> list[Location]:
    """Return the places that a name with ranges such as {000..099} stands for, in order.

    Raises
    ------
    CodecError   a range that ends before it begins
    """
    names = [pattern]
    while found := _RANGE.search(names[0]):
        first, last = int(found[1]), int(found[2])
        if last < first:
            raise CodecError(f"{pattern}: the range {found[0]} ends before it begins")
        numbers = [f"{number:0{len(found[1])}}" for number in range(first, last + 1)]
        names = [_RANGE.sub(number, name, count=1) for name in names for number in numbers]
    return [location(name) for name in names]


def find_shards(pattern: str) -> list[Location]:
    """Return the shards that a name stands for, all of which are there.

    Raises
    ------
    CodecError   one is missing
    """
    places = expand(pattern)
    if missing := next((place for place in places if not exists(place)), None):
        raise CodecError(f"{missing}: no such file; check the path")
    return places


def members(shard: Location, suffixes: Collection[str]) -> Iterator[Member]:
    """Yield the files in a shard that have one of these suffixes, in order; only heads are read.

    Raises
    ------
    AudioError   it is no tar file, cut off, or cannot be read
    """
    try:
        with _opened(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all remain in memory
                if member.isreg() and Path(member.name).suffix.lower() in suffixes:
                    # A name that leads out of the shard would lead out of the output as well.
                    name = posixpath.normpath(f"/{member.name}").lstrip("/")
                    yield Member(shard, name, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise AudioError(f"{shard}: is no tar file, or cut off ({error})") from error


@contextlib.contextmanager
def _opened(place: Location) -> Iterator[IO[bytes]]:
    if isinstance(place, Path):
        with place.open("rb") as file:
            yield file
        return
    fs, path = file_system(place)
    with naming(place, "read"), fs.open(path, "rb") as file:
        yield file


def pair_shards(source: str, target: str | None) -> list[tuple[Location, Location]]:
    """Return which shard becomes which.

    Parameters
    ----------
    source : as the user named them; they are there
    target : names for as many shards, or a directory, which gets the same names

    Raises
    ------
    CodecError   a shard is missing, or their numbers differ
    """
    sources = find_shards(source)
    if target is None:
        raise CodecError(f"{source}: is a shard; name shards (.tar), or a directory, as output")
    if is_shards(target):
        targets = expand(target)
    else:
        targets = [join(location(target), posixpath.basename(str(place))) for place in sources]
    check_writable(targets[0])
    if len(sources) != len(set(targets)) or len(sources) != len(targets):
        raise CodecError(
            f"{target}: {len(set(targets))} shards, but the input has {len(sources)}; name as many"
        )
    if both := next((one for one in sources if one in set(targets)), None):
        raise CodecError(f"{both}: is the input; name another output")
    return list(zip(sources, targets, strict=True))


@dataclass
class ShardOutcome:
    """What became of a shard.

    Attributes
    ----------
    outcomes : list of Outcome     of its audio, one each
    error : str                    one line if the shard could not be read or written at all
    """

    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""


def code_shard(
    coder: Coder,
    codec: Codec,
    pair: Pair,
    suffixes: Collection[str],
    stop: threading.Event | None = None,
) -> ShardOutcome:
    """Code the audio of a shard.

    Parameters
    ----------
    coder : Coder          with the options
    codec : Codec
    pair : Pair            of shards
    suffixes : of files in it that are coded, in small letters
    stop : Event           set to give the work up

    Raises
    ------
    AudioError   the shard cannot be read or written; there is no output then
    """
    outcomes = []
    names: set[str] = set()  # of all that was written
    coded: set[str] = set()
    try:
        with fetched(pair.source) as here, stored(pair.target) as there:
            there.parent.mkdir(parents=True, exist_ok=True)
            with (
                tarfile.open(here, "r|") as shard,
                atomic_open(there) as file,
                tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as out,
            ):
                for member in shard:
                    data = shard.extractfile(member) if member.isreg() else None
                    is_audio = data and Path(member.name).suffix.lower() in suffixes
                    name = _coded_name(coder, member.name) if is_audio else member.name
                    if name in (names if is_audio else coded):
                        label = f"{pair.source}/{member.name}"
                        text = f"{label}: another file has the same output name; rename one of them"
                        outcomes.append(Outcome(label, label, error=text))
                        continue
                    names.add(name)
                    if data is None or not is_audio:
                        out.addfile(member, data)
                        continue
                    coded.add(name)
                    outcomes.append(_code_member(coder, codec, pair, member, data, out, stop))
    except tarfile.TarError as error:
        raise AudioError(f"{pair.source}: is no tar file, or cut off ({error})") from error
    return ShardOutcome(outcomes)


def _coded_name(coder: Coder, name: str) -> str:
    """Return what a file is called when it is coded."""
    options = coder.options
    suffix = "bin" if isinstance(options, EncodeOptions) else options.format or "wav"
    return f"{os.path.splitext(name)[0]}.{suffix}"


def _code_member(
    coder: Coder,
    codec: Codec,
    pair: Pair,
    member: tarfile.TarInfo,
    data: IO[bytes],
    out: tarfile.TarFile,
    stop: threading.Event | None,
) -> Outcome:
    """Code one file from shard to shard; what is wrong with it is in its outcome."""
    name = f"{pair.source}/{member.name}"
    coded = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="codec-") as folder:
        here = Path(folder) / f"in{Path(member.name).suffix}"
        here.write_bytes(data.read())
        try:
            if isinstance(coder.options, EncodeOptions):
                outcome = encode_file(codec, here, coded, coder.options, stop)
            else:
                options = replace(coder.options, format=coder.options.format or "wav")
                outcome = decode_file(codec, here, coded, options, stop)
        except WeightsError:
            raise
        except (CodecError, MemoryError) as error:
            text = str(error).replace(str(here), name) or "not enough memory"
            text = text if text.startswith(f"{name}:") else f"{name}: {text}"
            return Outcome(name, name, error=text)
    info = tarfile.TarInfo(_coded_name(coder, member.name))
    info.size, info.mtime, info.mode = coded.tell(), member.mtime, member.mode
    coded.seek(0)
    out.addfile(info, coded)
    outcome.source, outcome.target = name, f"{pair.target}/{info.name}"
    return outcome


@dataclass(frozen=True)
class ShardWork:
    """The work of a `Coder` on shards; a `runner.Setup`."""

    coder: Coder
    suffixes: frozenset[str]

    def __call__(self) -> Work:
        """Load the codec."""
        codec = self.coder.load()

        def work(pair: Pair, stop: threading.Event | None) -> ShardOutcome:
            try:
                return code_shard(self.coder, codec, pair, self.suffixes, stop)
            except WeightsError:
                raise
            except (CodecError, OSError, MemoryError) as error:
                text = str(error) or "not enough memory"
                named = text.startswith((f"{pair.source}:", f"{pair.target}:"))
                return ShardOutcome(error=text if named else f"{pair.source}: {text}")

        return work


@dataclass(kw_only=True)
class ShardRun(Run):
    """One run over shards; `found` and `done` count the audio in them.

    Attributes
    ----------
    shards : pairs of shards, what is and what becomes of it
    suffixes : of files in them that are coded
    ... and those of `trees.Run`
    """

    shards: Sequence[tuple[Location, Location]]
    suffixes: frozenset[str]

    def setup(self) -> Setup:
        """Return what does a pair of shards."""
        return ShardWork(self.coder, self.suffixes)

    def pairs(self) -> Iterator[Pair]:
        """Yield the shards that are to be coded."""
        for source, target in self.shards:
            if self.skip_existing and is_done(target):
                self.skipped += 1
            else:
                yield Pair(source, target, 1 << 30)  # long enough to be a batch of its own

    def stays_lost(self, source: str) -> bool:
        """Tell whether a file is missing in a shard that is left out because it is there."""
        return self.skip_existing and any(
            source.startswith(f"{shard}/") and is_done(target) for shard, target in self.shards
        )

    def take(self, pair: Pair, outcome: ShardOutcome) -> None:
        """Enter what came of a shard."""
        if outcome.error:
            self.failures.add(pair.source, outcome.error)
        for one in outcome.outcomes:
            self.found += 1
            super().take(Pair(one.source, one.target, 0), one)
