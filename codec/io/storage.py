"""Files on this machine or behind a URL (s3://, gs://, hdfs://, sftp://, https://, memory://).

URLs are read and written through fsspec. A file that is read is fetched whole into a temporary
file: libsndfile seeks. What is written is made in a temporary file, and put in its place when it is
complete: object stores show an object when its last byte is there, elsewhere the file is put beside
its place and renamed.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from codec.errors import AudioError, CodecError
from codec.io.files import named_path

Location = Path | str  # a str is a URL, or a `Member`

SHARD_SUFFIX = ".tar"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# In these an object is complete or not there; a rename would be a copy.
_OBJECT_STORES = frozenset("s3 s3a gs gcs az abfs abfss adl oci oss memory".split())
# What fsspec needs for URLs of a kind.
_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
    "hdfs": "pyarrow", "sftp": "paramiko", "ssh": "paramiko", "http": "aiohttp",
    "https": "aiohttp", "smb": "smbprotocol",
}  # fmt: skip


class Member(str):
    """A file in a tar shard. As text it is the shard's place with the file's name behind it.

    Parameters
    ----------
    shard : path or URL
    name : str       in the shard
    offset : int     of its first byte in the shard
    size : int       bytes
    """

    shard: Location
    name: str
    offset: int
    size: int

    def __new__(cls, shard: Location, name: str, offset: int, size: int) -> Self:
        """Make the text."""
        self = super().__new__(cls, f"{shard}/{name}")
        self.shard, self.name, self.offset, self.size = shard, name, offset, size
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all of it."""
        return Member, (self.shard, self.name, self.offset, self.size)

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises
        ------
        AudioError   it cannot be read
        """
        if isinstance(self.shard, Path):
            with self.shard.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        else:
            fs, path = file_system(self.shard)
            with naming(self.shard, "read"):
                data = bytes(fs.cat_file(path, self.offset, self.offset + self.size))
        if len(data) > self.size:
            raise AudioError(f"{self}: the server gives whole files only; fetch the shard first")
        if len(data) < self.size:
            raise AudioError(f"{self}: the shard is cut off")
        return data


def is_shards(name: object) -> bool:
    """Tell whether a name is that of a shard, or of several: "corpus-{000..099}.tar"."""
    return str(name).endswith(SHARD_SUFFIX)


def is_url(name: object) -> bool:
    """Tell whether a name is a URL."""
    return isinstance(name, str) and _URL.match(name) is not None


def location(name: str | os.PathLike[str]) -> Location:
    """Return what a user named: a URL as a string, anything else as a path.

    Raises
    ------
    CodecError   an empty name, which would be this folder: often a variable that is not set
    """
    text = os.fspath(name)
    if not text:
        raise CodecError("an empty name; name a file or a folder (. is this one)")
    if text.lower().startswith("file://"):
        from urllib.parse import unquote

        return Path(unquote(text[len("file://") :].removeprefix("localhost")))
    return text if is_url(text) else named_path(text)


def absolute(place: Location) -> Location:
    """Return a place that means the same in any working directory."""
    if isinstance(place, Member):
        return Member(absolute(place.shard), place.name, place.offset, place.size)
    return place.absolute() if isinstance(place, Path) else place


def join(root: Location, name: str) -> Location:
    """Return what `name`, relative and with forward slashes, is called below `root`."""
    return root / name if isinstance(root, Path) else f"{root.rstrip('/')}/{name}"


def parent(place: Location) -> Location:
    """Return the directory that a place is in."""
    return place.parent if isinstance(place, Path) else posixpath.dirname(place)


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises
    ------
    CodecError   fsspec, or what it needs for this kind of URL, is not installed; or no such kind
    AudioError   the server cannot be reached
    """
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise CodecError(
            f"{url}: needs fsspec, which is not installed: pip install '.[cluster]'"
        ) from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(url.partition("://")[0].lower(), "")
        if not package:
            raise CodecError(f"{url}: {' '.join(str(error).split())}") from error
        raise CodecError(
            f"{url}: needs {package}, which is not installed: pip install {package}"
        ) from error
    except ValueError as error:
        raise CodecError(f"{url}: {error}") from error
    except Exception as error:  # paramiko connects at once
        raise AudioError(f"{url}: cannot be reached ({_reason(error)})") from error
    # Listings are not kept: they would grow with the number of files, and get old.
    fs.dircache.use_listings_cache = False
    return fs, path


def check_writable(place: Location) -> None:
    """Raise a `CodecError` if nothing can be written behind URLs of this kind."""
    if is_url(place) and str(place).lower().startswith(("http://", "https://")):
        raise CodecError(f"{place}: a web server is only read from; name another output")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def naming(place: str, what: str) -> Iterator[None]:
    """Turn whatever a file system raises into an `AudioError` that names the place."""
    try:
        yield
    except CodecError:
        raise
    except FileNotFoundError as error:
        raise AudioError(f"{place}: no such file") from error
    except Exception as error:  # botocore's, paramiko's, aiohttp's, ...
        raise AudioError(f"{place}: cannot be {what} ({_reason(error)})") from error


def exists(place: Location) -> bool:
    """Tell whether there is a file or a directory."""
    if isinstance(place, Path):
        return place.exists()
    fs, path = file_system(place)
    with naming(place, "read"):
        return bool(fs.exists(path))


def is_directory(place: Location) -> bool:
    """Tell whether it is a directory."""
    if isinstance(place, Path):
        return place.is_dir()
    fs, path = file_system(place)
    with naming(place, "read"):
        return bool(fs.isdir(path))


def has_bytes(place: Location) -> bool:
    """Tell whether it is a regular file that is not empty."""
    if isinstance(place, Path):
        return place.is_file() and place.stat().st_size > 0
    fs, path = file_system(place)
    with naming(place, "read"):
        try:
            found = fs.info(path)
        except FileNotFoundError:
            return False
        return found["type"] == "file" and bool(found.get("size") or 0)


class Entry(NamedTuple):
    """What is in a directory.

    kind is "file", "directory", "link" (to a directory) or "other" (a pipe, a device).
    """

    name: str
    kind: str
    size: int = 0


def list_directory(root: Location, folder: str = "") -> list[Entry]:
    """Return what is in a directory below `root`, by name; hidden names are left out.

    Parameters
    ----------
    root : directory
    folder : relative to it, with forward slashes; "" for itself

    Raises
    ------
    AudioError   it cannot be listed
    """
    if isinstance(root, Path):
        with naming(str(root / folder), "listed"), os.scandir(root / folder) as entries:
            found = [_entry(entry) for entry in entries]
    else:
        fs, path = file_system(root)
        base = posixpath.join(path, folder).rstrip("/")
        with naming(root, "listed"):
            found = [
                Entry(
                    posixpath.basename(one["name"].rstrip("/")),
                    one["type"] if one["type"] in ("file", "directory") else "other",
                    one.get("size") or 0,
                )
                for one in fs.ls(base, detail=True)
                if one["name"].strip("/") != base.strip("/")
            ]
    return sorted(entry for entry in found if entry.name and not entry.name.startswith("."))


def _entry(entry: os.DirEntry[str]) -> Entry:
    if not os.path.exists(entry.path):  # a link to nowhere, or to itself: an error when it is read
        return Entry(entry.name, "file")
    if entry.is_dir():
        return Entry(entry.name, "link" if entry.is_symlink() else "directory")
    if entry.is_file():
        return Entry(entry.name, "file", entry.stat().st_size)
    return Entry(entry.name, "other")


@contextlib.contextmanager
def fetched(place: Location) -> Iterator[Path]:
    """Yield a file of this machine with the bytes of `place`: itself, or a temporary copy.

    `place` may be a file in a shard.

    Raises
    ------
    AudioError   it cannot be read
    """
    if isinstance(place, Path):
        yield place
        return
    if isinstance(place, Member):
        with tempfile.TemporaryDirectory(prefix="codec-") as folder:
            local = Path(folder) / posixpath.basename(place.name)
            local.write_bytes(place.read())
            yield local
        return
    fs, path = file_system(place)
    with tempfile.TemporaryDirectory(prefix="codec-") as folder:
        local = Path(folder) / (posixpath.basename(path) or "file")
        with naming(place, "read"):
            fs.get_file(path, str(local))
        yield local


@contextlib.contextmanager
def stored(place: Location) -> Iterator[Path]:
    """Yield a file of this machine to write to, which is put in its place if all goes well.

    Raises
    ------
    AudioError   it cannot be put there
    """
    if isinstance(place, Path):
        yield place
        return
    check_writable(place)
    fs, path = file_system(place)
    with tempfile.TemporaryDirectory(prefix="codec-") as folder:
        local = Path(folder) / (posixpath.basename(path) or "file")
        yield local
        with naming(place, "written"):
            _put(fs, str(local), path)


def _put(fs: Any, local: str, path: str) -> None:
    """Put a file in its place in one step."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if protocols & _OBJECT_STORES:
        fs.put_file(local, path)
        return
    parent = posixpath.dirname(path)
    fs.makedirs(parent, exist_ok=True)
    temporary = posixpath.join(parent, f".codec-{secrets.token_hex(8)}.tmp")
    try:
        fs.put_file(local, temporary)
        fs.mv(temporary, path)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm_file(temporary)
        raise
