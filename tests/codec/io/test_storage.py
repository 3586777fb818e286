"""Files behind URLs: memory://, and a server for S3 on 127.0.0.1; whole or absent."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("fsspec", reason="needs the extra 'cluster'")

import fsspec

from codec import Codec
from codec.errors import AudioError, CodecError
from codec.io import storage
from codec.io.finder import Finder
from codec.pieces import DecodeOptions, EncodeOptions
from codec.shards import members
from codec.transcode import Coder, choose_target, code
from codec.trees import TreeRun

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """The file system memory://, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


def wav(path: Path, wave: np.ndarray) -> bytes:
    soundfile.write(path, wave, 16000)
    return path.read_bytes()


def test_urls_and_paths() -> None:
    assert storage.location("s3://bucket/a b.wav") == "s3://bucket/a b.wav"
    assert storage.location("file:///x/y.wav") == Path("/x/y.wav")
    assert storage.location("c:x.wav") == Path("c:x.wav")
    assert storage.join("s3://bucket/x/", "a/b.wav") == "s3://bucket/x/a/b.wav"
    assert storage.parent("s3://bucket/x/a.wav") == "s3://bucket/x"


def test_from_one_url_to_another(
    codec: Codec, memory: fsspec.AbstractFileSystem, speech: np.ndarray, tmp_path: Path
) -> None:
    data = wav(tmp_path / "a.wav", speech)
    memory.pipe_file("/in/a.wav", data)
    outcome = code(codec, EncodeOptions(9.6), "memory://in/a.wav", "memory://out/a.bin")
    wave = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    assert memory.cat_file("/out/a.bin") == codec.encode(wave, 16000, 9.6)
    assert (outcome.source, outcome.target) == ("memory://in/a.wav", "memory://out/a.bin")
    code(codec, DecodeOptions(), "memory://out/a.bin", "memory://out/a.flac")
    assert memory.cat_file("/out/a.flac")[:4] == b"fLaC"


def test_errors_name_the_url_and_leave_nothing(
    codec: Codec, memory: fsspec.AbstractFileSystem
) -> None:
    memory.pipe_file("/in/bad.wav", b"RIFF, or so it says")
    memory.pipe_file("/out/bad.bin", b"old")
    for name, words in (("bad", "not an audio file"), ("gone", "no such file")):
        with pytest.raises(AudioError) as caught:
            code(codec, EncodeOptions(), f"memory://in/{name}.wav", f"memory://out/{name}.bin")
        assert str(caught.value).startswith(f"memory://in/{name}.wav: {words}")
        assert "/tmp" not in str(caught.value)
    assert memory.cat_file("/out/bad.bin") == b"old"
    assert memory.find("/out") == ["/out/bad.bin"]


def test_a_put_that_fails_leaves_what_was(
    codec: Codec, memory: fsspec.AbstractFileSystem, speech: np.ndarray, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    memory.pipe_file("/in/a.wav", wav(tmp_path / "a.wav", speech))
    memory.pipe_file("/out/a.bin", b"old")

    def put_file(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(memory), "put_file", put_file)
    with pytest.raises(AudioError, match=r"memory://out/a\.bin: cannot be written \(.*No space"):
        code(codec, EncodeOptions(), "memory://in/a.wav", "memory://out/a.bin")
    assert memory.cat_file("/out/a.bin") == b"old"


def test_where_files_can_be_renamed_they_are(tmp_path: Path) -> None:
    """As on hdfs:// and sftp://: put beside the place under another name, then moved."""
    fs = fsspec.filesystem("local")
    steps: list[tuple[str, str]] = []

    class Watched:
        protocol = ("sftp", "ssh")

        def __getattr__(self, name: str) -> object:
            return getattr(fs, name)

        def put_file(self, local: str, path: str) -> None:
            steps.append(("put", os.path.basename(path)))
            fs.put_file(local, path)

        def mv(self, one: str, other: str) -> None:
            steps.append(("move", os.path.basename(other)))
            fs.mv(one, other)

    (tmp_path / "here").write_bytes(b"data")
    storage._put(Watched(), str(tmp_path / "here"), str(tmp_path / "new" / "there.bin"))
    assert (tmp_path / "new" / "there.bin").read_bytes() == b"data"
    assert steps[0][0] == "put" and steps[0][1].startswith(".codec-")
    assert steps[1] == ("move", "there.bin")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["there.bin"]


def test_a_tree(memory: fsspec.AbstractFileSystem, speech: np.ndarray, tmp_path: Path) -> None:
    data = wav(tmp_path / "a.wav", speech[:8000])
    for name in ("b.wav", "a/x.wav", "a/deep/y.wav", "a/z.txt", ".hidden.wav"):
        memory.pipe_file(f"/corpus/{name}", data)
    memory.pipe_file("/corpus/bad.wav", b"bad")
    finder = Finder("memory://corpus", {".wav"})
    assert [found.name for found in finder.files()] == [
        "a/deep/y.wav", "a/x.wav", "b.wav", "bad.wav",
    ]  # fmt: skip
    run = TreeRun(
        coder=Coder(EncodeOptions()), finder=Finder("memory://corpus", {".wav"}),
        target="memory://coded/here", suffix=".bin",
    )  # fmt: skip
    run.run()
    assert (run.found, run.done, run.failures.count) == (4, 3, 1)
    assert memory.find("/coded") == [
        f"/coded/here/{n}" for n in ("a/deep/y.bin", "a/x.bin", "b.bin", "failures.csv")
    ]
    header, row = memory.cat_file("/coded/here/failures.csv").decode().splitlines()
    assert header == "file,reason" and row.startswith("memory://corpus/bad.wav,")
    again = TreeRun(
        coder=Coder(EncodeOptions()), finder=Finder("memory://corpus", {".wav"}),
        target="memory://coded/here", suffix=".bin", skip_existing=True,
    )  # fmt: skip
    again.run()
    assert (again.done, again.skipped, again.failures.count) == (0, 3, 1)


def test_choosing_a_target(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe_file("/in/a.wav", b"x")
    assert choose_target("memory://in/a.wav", None, ".bin", False) == "memory://in/a.bin"
    for target, chosen in (
        ("memory://out/", "memory://out/a.bin"), ("memory://out/b.bin", "memory://out/b.bin"),
    ):  # fmt: skip
        assert choose_target("memory://in/a.wav", target, ".bin", False) == chosen
    for target in ("memory://in/a.wav", "memory://in"):
        with pytest.raises(CodecError):
            choose_target("memory://in/a.wav" if "a.wav" in target else "memory://in", target,
                          ".bin", False)  # fmt: skip


def test_unknown_kinds_are_one_line() -> None:
    with pytest.raises(CodecError, match="nonsense://x: .*nonsense"):
        storage.exists("nonsense://x")


@pytest.mark.parametrize(
    "url, package",
    [
        ("hdfs://b/x", "pyarrow"), ("gs://b/x", "gcsfs"), ("sftp://b/x", "paramiko"),
        ("https://b/x", "aiohttp"), ("s3://b/x", "s3fs"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str
) -> None:
    def fails(*_: object) -> None:
        raise ImportError("No module named 'something'")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fails)
    text = f"{url}: needs {package}, which is not installed: pip install {package}"
    with pytest.raises(CodecError) as caught:
        storage.exists(url)
    assert str(caught.value) == text
    with pytest.raises(CodecError, match="other://x: No module named 'something'"):
        storage.exists("other://x")


# --- HTTP, SFTP -----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nobody listens at port {port}")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on this machine that shows tmp_path / "web"."""
    pytest.importorskip("aiohttp")
    port = free_port()
    (tmp_path / "web").mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        cwd=tmp_path / "web", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_a_web_server_is_read(codec: Codec, web: str, speech: np.ndarray, tmp_path: Path) -> None:
    data = wav(tmp_path / "web" / "a.wav", speech[:8000])
    code(codec, EncodeOptions(), f"{web}/a.wav", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == codec.encode(speech_of(tmp_path / "web" / "a.wav"))
    assert [found.name for found in Finder(web, {".wav"}).files()] == ["a.wav"]
    assert not storage.exists(f"{web}/b.wav")
    with pytest.raises(CodecError, match="only read from; name another output"):
        choose_target(tmp_path / "web" / "a.wav", f"{web}/a.bin", ".bin", False)
    with pytest.raises(CodecError, match="only read from"), storage.stored(f"{web}/x"):
        pass
    with tarfile.open(tmp_path / "web" / "c.tar", "w") as tar:
        tar.add(tmp_path / "web" / "a.wav", "a.wav")
    (member,) = members(f"{web}/c.tar", {".wav"})
    assert member.size == len(data)
    # This server gives whole files, whichever part is asked for.
    with pytest.raises(AudioError, match=r"c.tar/a.wav: the server gives whole files only"):
        member.read()


def speech_of(path: Path) -> np.ndarray:
    return np.asarray(soundfile.read(path, dtype="float32")[0])


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[str]:
    """The address of tmp_path on a server for SFTP on this machine."""
    pytest.importorskip("paramiko")
    from sftp import serving

    with serving(tmp_path) as address:
        yield address
    fsspec.get_filesystem_class("sftp").clear_instance_cache()


def test_sftp(codec: Codec, sftp: str, speech: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    wav(tmp_path / "in" / "a.wav", speech[:8000])
    for _ in range(2):  # the second time it is replaced
        code(codec, EncodeOptions(), f"{sftp}/in/a.wav", f"{sftp}/out/deep/a.bin")
    wanted = codec.encode(speech_of(tmp_path / "in" / "a.wav"))
    assert (tmp_path / "out" / "deep" / "a.bin").read_bytes() == wanted
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["a.bin"]
    assert [found.name for found in Finder(f"{sftp}/out", {".bin"}).files()] == ["deep/a.bin"]
    wav(tmp_path / "in" / "b.wav", speech[:4000])  # a listing is not an old one
    assert [found.name for found in Finder(f"{sftp}/in", {".wav"}).files()] == ["a.wav", "b.wav"]
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(tmp_path / "in" / "a.wav", "a.wav")
        tar.add(tmp_path / "in" / "b.wav", "b.wav")
    parts = {one.name: one.read() for one in members(f"{sftp}/c.tar", {".wav"})}
    assert parts == {name: (tmp_path / "in" / name).read_bytes() for name in ("a.wav", "b.wav")}
    with pytest.raises(AudioError, match="cannot be reached"):
        storage.exists(f"sftp://root:x@127.0.0.1:{free_port()}/x")


# --- S3 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server for S3 on this machine, with a bucket; the environment that leads to it."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    port = free_port()
    folder = tmp_path_factory.mktemp("s3")
    url = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url,
        "AWS_CONFIG_FILE": str(folder / "none"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
        server = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
    try:
        wait_for(port)
        yield variables
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_commands_on_s3(s3: dict[str, str], speech: np.ndarray, tmp_path: Path) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(key="testing", secret="testing", endpoint_url=s3["AWS_ENDPOINT_URL"])
    fs.mkdir("corpus")
    data = wav(tmp_path / "a.wav", speech)
    for name in ("a.wav", "deep/b.wav", "deep/c.wav"):
        fs.pipe_file(f"corpus/in/{name}", data)
    fs.pipe_file("corpus/in/bad.wav", b"bad")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments], env=dict(os.environ) | s3,
            capture_output=True, text=True, timeout=300, cwd=tmp_path,
        )  # fmt: skip

    result = run("encode", "s3://corpus/in", "s3://corpus/out", "--jobs", "2")
    assert result.returncode == 1, result.stderr
    assert "encoded 3 of 4 files into s3://corpus/out: " in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("codec: error: s3://corpus/in/bad.wav: not an audio file")
    fs.invalidate_cache()
    assert sorted(fs.find("corpus/out")) == [
        f"corpus/out/{name}" for name in ("a.bin", "deep/b.bin", "deep/c.bin", "failures.csv")
    ]
    result = run("info", "s3://corpus/out", "--json")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["num_samples"] for row in rows] == [48000] * 3
    result = run("decode", "s3://corpus/out/a.bin", "here.wav")
    assert result.returncode == 0 and soundfile.info(tmp_path / "here.wav").frames == 48000
    result = run("encode", "s3://no-such-bucket/a.wav", "out.bin")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    out = tmp_path / "scores"
    result = run("eval", "s3://corpus/in/deep", "--rates", "16.4", "--metrics", "none",
                 "--out", str(out), "--page-clips", "0", "--jobs", "1")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len((out / "scores.csv").read_text().splitlines()) == 3
