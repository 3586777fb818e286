"""Where compiled kernels are kept: never stale, never in the way, never needed.

All but the slow test use a package of its own with a few tiny kernels and copies of what compiles
and calls them.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = {
    "inner.py": """
from codec.config import OFFSET
from codec.jit import kernel

@kernel
def inner(x):
    return x + OFFSET
""",
    "outer.py": """
import numpy as np
from codec.inner import inner
from codec.jit import entry

@entry
def outer(x):
    return 2 * inner(x)

@entry
def total(values, pair, out):
    for i in range(values.size):
        out.sum += pair[0][i] * values[i]
    out.count += pair[1]

@entry
def room(count):
    return np.empty(count, np.int64).size

@entry
def half(x):
    return x / 2
""",
}
COPIED = ("jit.py", "compiler.py", "machine_code.py")
# What is printed: a result, whether machine code came out of the cache, and where that lies.
CALL = """
import sys
from codec import jit
from codec.outer import outer
result, cached = outer(1), int("codec.compiler" not in sys.modules)
print(result, cached, jit.cache_folder(), jit.is_cached("outer"))
"""
# Variables that say where a cache may lie.
PLACES = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "TMPDIR", "TEMP", "TMP")

# A process that has numba loaded and runs each job in a forked child of its own: importing numba
# takes much longer than all else here. Without privileges, root must obey permissions as others do.
SERVER = """
import ctypes, json, os, sys, tempfile, traceback
import numba

numba.njit(lambda x: x + 1)(1)


def run(job):
    os.dup2(os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(os.open(job["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    for name in job["unset"]:
        os.environ.pop(name, None)
    os.environ.update(job["variables"])
    tempfile.tempdir = None
    os.chdir("/")
    if not job["privileges"] and os.getuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
            raise OSError("privileges cannot be given up")
    sys.path.insert(0, job["folder"])
    sys.dont_write_bytecode = True
    exec(job["code"], {})


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(json.loads(line))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
unprivileged = pytest.mark.skipif(
    not sys.platform.startswith("linux") and getattr(os, "getuid", int)() == 0,
    reason="whoever runs this may write everywhere",
)


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True)
    yield process
    process.communicate()


class Package:
    """A package ``codec`` with two kernels, and a way to call them in a fresh process."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.folder, self.codec = server, folder, folder / "place" / "codec"
        self.codec.mkdir(parents=True)
        for name in COPIED:
            shutil.copy(ROOT / "codec" / name, self.codec)
        files = {"__init__.py": "", "config.py": "OFFSET = 3\n", "model.py": "", "other.py": ""}
        for name, text in (files | KERNELS).items():
            (self.codec / name).write_text(text)

    def call(self, code: str = CALL, privileges: bool = True, **variables: str) -> list[str]:
        """Return the words that some code prints; it must say nothing else."""
        out, err = self.folder / "out", self.folder / "err"
        job: dict[str, Any] = {
            "folder": str(self.codec.parent), "code": code, "out": str(out), "err": str(err),
            "unset": PLACES, "variables": variables, "privileges": privileges,
        }  # fmt: skip
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        assert (status, err.read_text()) == (0, "")
        return out.read_text().split()

    def replace(self, name: str, old: str, new: str) -> None:
        """Change a source file."""
        text = (self.codec / name).read_text()
        assert old in text
        (self.codec / name).write_text(text.replace(old, new))

    def caches(self) -> list[Path]:
        """Return the folders of compiled kernels beside the package."""
        return sorted(self.codec.rglob("kernels-*"))

    def make_read_only(self) -> None:
        self.codec.chmod(0o555)


@pytest.fixture
def package(server: subprocess.Popen[str], tmp_path: Path) -> Iterator[Package]:
    made = Package(server, tmp_path)
    yield made
    made.codec.chmod(0o755)


# --- sources --------------------------------------------------------------------------------------


def test_second_process_finds_the_code(package: Package) -> None:
    cache = Path(package.call()[2])
    assert cache.parent == package.codec / "__pycache__"
    assert package.call() == ["8", "1", str(cache), "True"]
    assert package.caches() == [cache]


@pytest.mark.parametrize(
    ("name", "old", "new", "result"),
    [
        # numba's own cache would miss these two: the file of the called kernel is what it was.
        ("config.py", "3", "4", "10"),
        ("inner.py", "x + OFFSET", "x + OFFSET + 2", "12"),
        ("outer.py", "2 * inner", "3 * inner", "12"),
    ],
)
def test_changed_source(package: Package, name: str, old: str, new: str, result: str) -> None:
    before = package.call()
    assert before[0] == "8"
    package.replace(name, old, new)
    after = package.call()
    assert after[:2] == [result, "0"]
    assert after[2] != before[2]
    assert package.caches() == sorted([Path(before[2]), Path(after[2])])


def test_old_folders_go(package: Package) -> None:
    """All but the last used ones: these may be another installation's, which shares the place."""
    first = Path(package.call()[2])
    for n in range(5):
        folder = first.parent / f"kernels-{n}"
        folder.mkdir()
        os.utime(folder, (1_700_000_000 + n, 1_700_000_000 + n))
    package.call()
    names = [path.name for path in package.caches()]
    assert names == sorted([first.name, "kernels-2", "kernels-3", "kernels-4"])


def test_sources_without_kernels_do_not_matter(package: Package) -> None:
    before = package.call()
    (package.codec / "other.py").write_text("UNUSED = 2\n")
    assert package.call() == [before[0], "1", *before[2:]]


def test_all_kernels_of_the_codec_are_hashed() -> None:
    from codec import jit

    sources = {path: path.read_text() for path in jit.PACKAGE.rglob("*.py")}
    decorated = {p for p, text in sources.items() if "\n@kernel\n" in text or "\n@entry\n" in text}
    assert len(decorated) > 10
    for path in decorated:
        assert "from codec.jit import" in sources[path], path
    assert {jit.PACKAGE / name for name in jit.HASHED} <= set(sources)


@pytest.mark.parametrize(
    "damage", [lambda code: code[:-9], lambda code: b"", lambda code: b"x" * 99]
)
def test_damaged_file_is_made_anew(package: Package, damage: Callable[[bytes], bytes]) -> None:
    cache = Path(package.call()[2])
    (file,) = cache.glob("outer-*.o")
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    assert package.call()[:2] == ["8", "0"]
    assert file.read_bytes() == sound
    assert sorted(cache.glob("*.o")) == [file]


# --- calls ----------------------------------------------------------------------------------------

ARGUMENTS = """
import numpy as np
from codec.outer import total
ones = np.ones(6)
def record():
    kind = np.dtype({"names": ["sum", "count"], "formats": ["f8", "i8"]}, align=True)
    return np.zeros(1, kind)[0]
"""


def test_arrays_records_and_tuples(package: Package) -> None:
    """... reach machine code as they are, and those it is not made for go through numba."""
    code = ARGUMENTS + (
        "for values in (np.arange(6.0), np.arange(12.0)[::2], np.arange(6)):\n"
        "    out = record()\n"
        "    result = total(values, (ones, 3), out)\n"
        "    print(result, out['sum'], out['count'], len(total.loaded))\n"
    )
    for _ in range(2):  # compiled, and from the cache
        words = package.call(code)
        assert words == [
            "None",
            "15.0",
            "3",
            "1",
            "None",
            "30.0",
            "3",
            "1",
            "None",
            "15.0",
            "3",
            "2",
        ]


def test_no_memory(package: Package) -> None:
    code = (
        "from codec.outer import room\n"
        "try: room(1 << 58)\n"
        "except MemoryError: print(room(5), len(room.loaded))\n"
    )
    for _ in range(2):
        assert package.call(code) == ["5", "1"]


def test_what_no_entry_can_be(package: Package) -> None:
    code = "from codec.outer import half\ntry: half(3)\nexcept TypeError as error: print(error)\n"
    assert " ".join(package.call(code)).startswith("half cannot be an entry: returns float64")


@pytest.mark.parametrize("variable", ["NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"])
def test_through_numba_or_python_alone(package: Package, variable: str) -> None:
    assert package.call(**{variable: "1"})[0] == "8"
    assert list(package.codec.rglob("*.o")) == []


def test_other_options_are_other_code(package: Package) -> None:
    cache = Path(package.call()[2])
    assert package.call(NUMBA_LOOP_VECTORIZE="0")[:2] == ["8", "0"]
    assert package.call(NUMBA_NUM_THREADS="1")[:2] == ["8", "1"]
    assert len(list(cache.glob("outer-*.o"))) == 2


def test_announced_once(package: Package) -> None:
    code = f"from codec import jit\njit.announce = lambda: print('slow')\n{CALL}outer(2)"
    assert package.call(code)[:3] == ["slow", "8", "0"]
    assert package.call(code)[:2] == ["8", "1"]


# --- places ---------------------------------------------------------------------------------------


def test_named_folder(package: Package, tmp_path: Path) -> None:
    named = str(tmp_path / "named")
    cache = Path(package.call(NUMBA_CACHE_DIR=named)[2])
    assert cache.parent == tmp_path / "named" / "codec"
    assert package.caches() == []
    assert package.call(NUMBA_CACHE_DIR=named)[1] == "1"


@unprivileged
def test_home_folder(package: Package, tmp_path: Path) -> None:
    package.make_read_only()
    cache = Path(package.call(privileges=False, HOME=str(tmp_path / "home"))[2])
    assert tmp_path / "home" / ".cache" in cache.parents
    assert package.call(privileges=False, HOME=str(tmp_path / "home"))[1] == "1"


@unprivileged
def test_temporary_folder_where_nothing_else_can_be_written(
    package: Package, tmp_path: Path
) -> None:
    package.make_read_only()
    (tmp_path / "locked").mkdir(mode=0o555)
    (tmp_path / "tmp").mkdir()
    variables = {"HOME": str(tmp_path / "locked" / "nobody"), "TMPDIR": str(tmp_path / "tmp")}
    first = package.call(privileges=False, **variables)
    assert first[0] == "8" and Path(first[2]).parent.parent == tmp_path / "tmp"
    assert stat.S_IMODE(Path(first[2]).parent.stat().st_mode) == 0o700
    assert package.call(privileges=False, **variables)[1] == "1"


@unprivileged
@pytest.mark.parametrize(
    "setting",
    [
        "tempdir = {!r}",
        "_candidate_tempdir_list = lambda: [{!r}]",
    ],
    ids=["temporary folder cannot be written", "no temporary folder"],
)
def test_no_cache_at_all(package: Package, tmp_path: Path, setting: str) -> None:
    """Nothing can be written anywhere: a read-only file system."""
    package.make_read_only()
    (tmp_path / "locked").mkdir(mode=0o555)
    locked = str(tmp_path / "locked")
    code = f"import tempfile; tempfile.{setting.format(locked)}\n{CALL}"
    for _ in range(2):
        found = package.call(code, False, HOME=f"{locked}/nobody")
        assert found == ["8", "0", "None", "False"]


@unprivileged
@pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() != 0, reason="needs two users")
def test_folder_of_somebody_else_is_not_trusted(package: Package, tmp_path: Path) -> None:
    """Whoever can write into the cache decides what is executed."""
    package.make_read_only()
    (tmp_path / "locked").mkdir(mode=0o555)
    theirs = tmp_path / "tmp" / "nsvq-speech-codec-0"
    theirs.mkdir(parents=True)
    theirs.chmod(0o777)
    os.chown(theirs, 1234, 1234)
    variables = {"HOME": str(tmp_path / "locked" / "nobody"), "TMPDIR": str(tmp_path / "tmp")}
    assert package.call(privileges=False, **variables) == ["8", "0", "None", "False"]
    assert list(theirs.iterdir()) == []


# --- processes at once ----------------------------------------------------------------------------


def test_processes_at_once(package: Package) -> None:
    """Four processes compile into one empty folder."""
    code = (
        "import os\n"
        "children = [os.fork(), os.fork()]\n"  # four processes, each with its own list
        f"{CALL}"
        "import sys\n"
        "sys.stdout.flush()\n"
        "for child in filter(None, children[::-1]):\n"
        "    try: status = os.waitpid(child, 0)[1]\n"
        "    except ChildProcessError: continue\n"  # the parent's, not ours
        "    if status: raise SystemExit('a child failed')\n"
        "os._exit(0)"
    )
    words = package.call(code)
    assert words[::4] == ["8"] * 4
    assert package.call()[:2] == ["8", "1"]


def test_threads_and_a_fork_while_one_compiles(package: Package) -> None:
    code = (
        "import os, sys, threading, time\n"
        "from codec import jit\n"
        "from codec.outer import outer\n"
        "begun = threading.Event()\n"
        "jit.announce = lambda: (begun.set(), time.sleep(0.2), print('slow', flush=True))\n"
        "results = []\n"
        "threads = [threading.Thread(target=lambda: results.append(outer(1))) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "begun.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    print(outer(2), flush=True)\n"
        "    os._exit(0)\n"
        "for thread in threads: thread.join()\n"
        "print(os.waitpid(child, 0)[1], *results, flush=True)\n"
    )
    assert package.call(code) == ["slow", "10", "0", "8", "8", "8", "8"]


@pytest.mark.slow
def test_codecs_at_once_on_an_empty_cache(tmp_path: Path) -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from codec import Codec\n"
        "c = Codec.load()\n"
        "data = c.encode(np.sin(np.arange(8000) / 9) / 3, 16000, 13.2)\n"
        "print(hashlib.sha256(data + c.decode(data).tobytes()).hexdigest(), c.is_compiled())\n"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    processes = [
        subprocess.Popen(
            command, env=environment | {"NUMBA_CACHE_DIR": str(tmp_path)}, text=True,
            stdout=pipe, stderr=pipe,
        )
        for _ in range(2)
    ]  # fmt: skip
    usual = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for process in processes:
        printed, errors = process.communicate(timeout=900)
        assert (process.returncode, errors) == (0, "")
        assert printed == usual.stdout
