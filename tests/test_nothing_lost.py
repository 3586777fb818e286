"""Nothing lost: a full disk, a kill or Ctrl-C leaves the old file or the new one, never a half.

Run as a script, this file codes a file again and again in processes of its own and ends each at
another moment: at every call and return within codec/audio.py from the opening of the output on,
and at moments spread over the time that the work takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the script; pytest has it already

import cli  # noqa: E402
from codec import audio  # noqa: E402

OLD = b"the old output\n" * 7
NUM_TIMES = 10  # moments spread over the time of one run
PIECES = [bytes([number]) * (1 << 22) for number in range(4)]


# --------------------------------------------------------------------------------------------------
# The script: end the work at every moment


def _work(command: str, source: Path, target: Path) -> Callable[[], None]:
    """Return what is to be ended: a command of the codec, or writing 16 MB piece by piece."""

    def write() -> None:
        with audio.atomic_open(target) as file:
            for piece in PIECES:
                file.write(piece)
            file.seek(0)
            file.write(PIECES[1][:24])

    def code() -> None:
        cli.app([command, str(source), str(target)])

    return write if command == "write" else code


def _fork(work: Callable[[], None], at_event: int, how: int, report: Path) -> int:
    """Start the work in a process that ends itself at an event (-1: never); return its id.

    Events are the calls and returns of Python and C functions within codec/audio.py, from
    `atomic_open` on. Their number, or the name of the last one, goes to `report`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child is in its `try`
    if child := os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return child
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    file = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    seen = 0
    atomic_open = audio.atomic_open

    def open_watched(path: audio.PathLike) -> Any:
        sys.setprofile(watch)  # not before: it slows the coding down
        return atomic_open(path)

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal seen
        if frame.f_code.co_filename != audio.__file__:
            return
        if seen == at_event:
            name = getattr(argument, "__qualname__", frame.f_code.co_qualname)
            os.write(file, f"{event} {name}\n".encode())
            os.kill(os.getpid(), how)
        seen += 1

    code = 70
    try:
        audio.atomic_open = open_watched
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        work()
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(bool(leave.code))
    except KeyboardInterrupt:  # without the command line around
        code = 130
    finally:
        sys.setprofile(None)
        sys.stderr.flush()
        if at_event < 0:
            os.write(file, f"\n{seen}".encode())
        os._exit(code)


def _end_at_every_moment(command: str, source: Path, folder: Path, how: int) -> dict[str, Any]:
    """End the work at every event and at times spread over it; tell what was left each time."""
    target, report = folder / "out", folder.parent / "report"
    work = _work(command, source, target)

    def finish(child: int) -> dict[str, Any]:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = {path.name: path.read_bytes() for path in folder.iterdir()}
        names = {OLD: "old", new: "new"}
        return {
            "status": status,
            "said": report.read_text(errors="replace").splitlines(),
            "left": {name: names.get(data, f"{len(data)} bytes") for name, data in left.items()},
        }

    def clean(old: bool) -> None:
        for path in folder.iterdir():
            path.unlink()
        if old:
            target.write_bytes(OLD)

    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
        work()  # once before the processes part: loads and compiles everything
    new = b""
    clean(old=True)
    started = time.monotonic()
    first = finish(_fork(work, -1, how, report))
    seconds = time.monotonic() - started
    assert first["status"] == 0, first
    new = target.read_bytes()
    runs = {}
    for old in (True, False):
        clean(old)
        num_events = int(finish(_fork(work, -1, how, report))["said"][-1])
        for event in range(num_events):
            clean(old)
            runs[f"old {old}, event {event}"] = finish(_fork(work, event, how, report))
        for number in range(NUM_TIMES):
            clean(old)
            child = _fork(work, -1, how, report)
            time.sleep(seconds * number / NUM_TIMES)
            os.kill(child, how)
            runs[f"old {old}, time {number}"] = finish(child)
    return runs


# --------------------------------------------------------------------------------------------------
# Killed, interrupted


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of noise that comes and goes."""
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(16000) * np.hanning(800)[np.arange(16000) % 800]
    path = tmp_path_factory.mktemp("in") / "in.wav"
    soundfile.write(path, 0.1 * wave, 16000)
    return path


@pytest.fixture(scope="module")
def stream(wav: Path) -> Path:
    path = wav.with_suffix(".bin")
    assert run("encode", wav, path).exit_code == 0
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="codec")


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process of its own, as a user does."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


@pytest.mark.parametrize(
    "command, how",
    [
        ("encode", signal.SIGKILL),
        ("decode", signal.SIGINT),
        *(
            pytest.param(command, how, marks=pytest.mark.slow)
            for command, how in (
                ("encode", signal.SIGINT),
                ("decode", signal.SIGKILL),
                ("write", signal.SIGKILL),
                ("write", signal.SIGINT),
            )
        ),
    ],
)
def test_ended_at_every_moment(
    command: str, how: signal.Signals, wav: Path, tmp_path: Path
) -> None:
    source = tmp_path / "short.wav"
    wave, rate = soundfile.read(wav)
    soundfile.write(source, wave[:1600], rate)
    if command == "decode":
        assert run("encode", source, source.with_suffix(".bin")).exit_code == 0
        source = source.with_suffix(".bin")
    (tmp_path / "out").mkdir()
    result = subprocess.run(
        [sys.executable, __file__, command, source, tmp_path / "out", str(int(how))],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    runs = json.loads(result.stdout)
    print(f"{command}, {how.name}: ended at {len(runs)} moments")
    assert len(runs) > 100
    between = 0
    for moment, outcome in runs.items():
        where = f"{moment}: {outcome}"
        left, status = dict(outcome["left"]), outcome["status"]
        output = left.pop("out", None)
        if output != "new":
            assert output == ("old" if moment.startswith("old True") else None), where
            assert status == (-how if how == signal.SIGKILL else 130), where
        if left and how == signal.SIGKILL:
            # Between the two system calls that replace a file, its new content has another name.
            assert list(left.values()) == ["new"], where
            assert output == "old", where
            between += 1
        else:
            assert not left, where
        assert not any("Traceback" in line for line in outcome["said"]), where
        if status == 130 and command != "write" and "event" in moment:
            assert outcome["said"][-1] == "codec: interrupted", where
    assert between <= 4  # events, within a dozen microseconds


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_interrupted_command(command: str, wav: Path, stream: Path, tmp_path: Path) -> None:
    """Ctrl-C while a single long file is loaded for or coded, to a real command."""
    long, source, target = tmp_path / "long.wav", tmp_path / "in", tmp_path / "out"
    wave, rate = soundfile.read(wav)
    soundfile.write(long, np.tile(wave, 240), rate)
    long.rename(source)
    if command == "decode":
        assert run("encode", source, tmp_path / "in.bin").exit_code == 0
        source = tmp_path / "in.bin"
    target.write_bytes(OLD)
    before = set(tmp_path.iterdir())
    process = start(command, source, target, start_new_session=True)
    # Weights and networks are there once libraries are: then it works.
    deadline = time.monotonic() + 60
    maps = Path(f"/proc/{process.pid}/maps")
    while time.monotonic() < deadline and process.poll() is None:
        if not maps.exists() or "libtorch" in maps.read_text():
            break
        time.sleep(0.05)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines() == ["codec: interrupted"]
    assert target.read_bytes() == OLD
    assert set(tmp_path.iterdir()) == before


def test_interrupt_where_python_ignores_it(wav: Path, tmp_path: Path) -> None:
    """Ctrl-C during a destructor or a callback of compiled code is not swallowed."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import cli

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))
        raise AssertionError("no interrupt came")

signal.signal(signal.SIGINT, signal.default_int_handler)
load = cli._load_codec
def load_codec(*arguments):
    Swallows()
    return load(*arguments)
cli._load_codec = load_codec
cli.app(["encode", {str(wav)!r}, {str(tmp_path / "out")!r}])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 130, result.stderr
    assert result.stderr.splitlines() == ["codec: interrupted"]
    assert not list(tmp_path.iterdir())


def test_interrupt_while_torch_starts(wav: Path, tmp_path: Path) -> None:
    """Torch is let finish: its C++ code aborts the process where an interrupt passes through it."""
    program = f"""
import atexit, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import cli

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "torch._C":
            os.kill(os.getpid(), signal.SIGINT)

assert "torch" not in sys.modules
sys.meta_path.insert(0, Interrupts())
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(lambda: print(hasattr(sys.modules.get("torch"), "compile")))
cli.app(["encode", {str(wav)!r}, {str(tmp_path / "out")!r}])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 130, result.stderr
    assert result.stderr.splitlines() == ["codec: interrupted"]
    assert result.stdout == "True\n"
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------
# The disk is full


@pytest.fixture(params=["limit", pytest.param("tmpfs", marks=pytest.mark.slow)])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, dict]]:
    """A folder in which files end at 1 KB (limit) or 64 KB (tmpfs), and options for `start`."""
    folder = tmp_path / "full"
    folder.mkdir()
    if request.param == "limit":

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of write(), not a signal
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

        yield folder, {"preexec_fn": limit}
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        (folder / "filler").write_bytes(bytes(63 * 1024 - 3 * 4096))
        yield folder, {}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_full_disk(
    command: str, full_disk: tuple[Path, dict], wav: Path, stream: Path, tmp_path: Path
) -> None:
    folder, options = full_disk
    source = stream
    if command == "encode":
        source = tmp_path / "long.wav"  # its stream has 16 KB
        wave, rate = soundfile.read(wav)
        soundfile.write(source, np.tile(wave, 10), rate)
    for name in ("old", "new"):
        if name == "old":
            (folder / name).write_bytes(OLD)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        process = start(command, source, folder / name, **options)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 2, errors
        assert output == ""
        assert len(errors.splitlines()) == 1, errors
        assert errors.startswith(f"codec: error: {folder / name}: cannot be written (")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_full_disk_in_a_directory_run(wav: Path, stream: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    wave, rate = soundfile.read(wav)
    soundfile.write(tmp_path / "short.wav", wave[:200], rate)
    assert run("encode", tmp_path / "short.wav", source / "b.bin").exit_code == 0
    for name in ("a.bin", "c.bin"):
        (source / name).write_bytes(stream.read_bytes())

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    process = start("decode", source, target, preexec_fn=limit)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert output == f"decoded 1 of 3 files into {target}\n"
    lines = errors.splitlines()
    assert [line.split(": ")[2] for line in lines] == [str(target / n) for n in ("a.wav", "c.wav")]
    assert [path.name for path in target.iterdir()] == ["b.wav"]


# --------------------------------------------------------------------------------------------------
# Going on: --skip-existing


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_run_goes_on(wav: Path, tmp_path: Path, jobs: int) -> None:
    source, whole, killed = tmp_path / "in", tmp_path / "whole", tmp_path / "killed"
    (source / "deep").mkdir(parents=True)
    wave, rate = soundfile.read(wav)
    for number in range(8):
        soundfile.write(source / "deep" / f"{number}.wav", np.tile(wave, 6 + number), rate)
    (source / "bad.wav").write_bytes(b"RIFF, or so it says")
    assert run("encode", source, whole).exit_code == 1
    expected = {path.name: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert len(expected) == 8

    process = start("encode", source, killed, "--jobs", jobs, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(killed.rglob("*.bin")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()  # the workers are not told
    process.communicate()
    while _session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _session(process.pid), "workers outlive their parent"

    there = {path.name: path for path in killed.rglob("*") if path.is_file()}
    assert 1 <= len(there) < 8
    assert all(path.read_bytes() == expected[name] for name, path in there.items())
    stamps = {name: path.stat().st_mtime_ns for name, path in there.items()}
    rest = killed / "deep" / "7.bin"
    if not rest.exists():
        rest.write_bytes(b"")  # an empty file is no output

    result = run("encode", source, killed, "--skip-existing")
    assert result.exit_code == 1
    todo, skipped = 8 - len(there), len(there)
    files = "file" if skipped == 1 else "files"
    last = f"encoded {todo} of 9 files into {killed}, {skipped} existing {files} skipped"
    assert result.stdout.splitlines()[-1] == last
    errors = [line for line in result.stderr.splitlines() if line.startswith("codec: error")]
    assert len(errors) == 1
    assert str(source / "bad.wav") in errors[0]
    found = {path.name: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    assert found == expected
    assert stamps == {name: there[name].stat().st_mtime_ns for name in stamps}


def _session(leader: int) -> list[int]:
    """Return the processes of a session that are still alive, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_skip_existing_single(command: str, wav: Path, stream: Path, tmp_path: Path) -> None:
    source = wav if command == "encode" else stream
    target = tmp_path / "out"
    target.write_bytes(b"")  # not an output
    result = run(command, source, target, "--skip-existing")
    assert result.exit_code == 0, result.output
    assert target.stat().st_size > 0
    target.write_bytes(OLD)
    result = run(command, source, target, "--skip-existing")
    assert result.exit_code == 0, result.output
    assert result.output == f"{target}: exists, skipped\n"
    assert target.read_bytes() == OLD
    assert run(command, source, target).exit_code == 0
    assert target.read_bytes() != OLD


def test_skip_existing_does_not_skip_a_device(stream: Path) -> None:
    process = start("decode", stream, "/dev/stdout", "--skip-existing")
    assert process.stdout is not None
    data = process.stdout.buffer.read()  # type: ignore[attr-defined]
    process.communicate()
    assert data.startswith(b"RIFF")


# --------------------------------------------------------------------------------------------------
# Damaged streams: --salvage


@pytest.fixture
def damaged(wav: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A sound stream of 7 s, the same with a damaged group, and with a damaged header."""
    wave, rate = soundfile.read(wav)
    soundfile.write(tmp_path / "long.wav", np.tile(wave, 7), rate)
    folder = tmp_path / "in"
    folder.mkdir()
    paths = folder / "sound.bin", folder / "group.bin", folder / "header.bin"
    assert run("encode", tmp_path / "long.wav", paths[0]).exit_code == 0
    data = paths[0].read_bytes()
    for path, position in ((paths[1], len(data) // 2), (paths[2], 12)):
        changed = bytearray(data)
        changed[position] ^= 0x55
        path.write_bytes(changed)
    return paths


def test_salvage(damaged: tuple[Path, Path, Path], tmp_path: Path) -> None:
    sound, group, header = damaged
    assert run("decode", sound, tmp_path / "plain.wav").exit_code == 0
    result = run("decode", sound, tmp_path / "sound.wav", "--salvage")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "salvaged" not in result.stdout
    assert (tmp_path / "sound.wav").read_bytes() == (tmp_path / "plain.wav").read_bytes()

    assert run("decode", group, tmp_path / "group.wav").exit_code == 2
    assert not (tmp_path / "group.wav").exists()
    result = run("decode", group, tmp_path / "group.wav", "--salvage")
    assert result.exit_code == 0, result.output
    notes = result.stderr.splitlines()
    assert len(notes) == 1
    assert notes[0].startswith(f"codec: note: {group}: ")
    assert "salvaged (1 problem)" in result.stdout
    whole, _ = soundfile.read(tmp_path / "plain.wav")
    saved, _ = soundfile.read(tmp_path / "group.wav")
    assert len(saved) == len(whole)
    np.testing.assert_array_equal(saved[:16000], whole[:16000])
    np.testing.assert_allclose(saved[-8000:], whole[-8000:], atol=0.02)

    result = run("decode", header, tmp_path / "header.wav", "--salvage")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "header.wav").exists()


def test_salvage_of_a_directory(damaged: tuple[Path, Path, Path], tmp_path: Path) -> None:
    sound, group, header = damaged
    result = run("decode", sound.parent, tmp_path / "out", "--salvage", "--rate", "source")
    assert result.exit_code == 1  # because of the header
    assert "decoded 2 of 3 files" in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("codec: ")]
    assert len(lines) == 2
    assert lines[0].startswith(f"codec: note: {group}: ")
    assert lines[1].startswith(f"codec: error: {header}: ")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["group.wav", "sound.wav"]


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # a process with more cannot be forked
    given = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    print(json.dumps(_end_at_every_moment(*given)))
