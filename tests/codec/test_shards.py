"""Tar shards of WebDataset: order and names are kept, bad files listed, shards whole or absent."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import Codec
from codec.errors import AudioError, CodecError
from codec.io.storage import Member, absolute, fetched, location
from codec.pieces import DecodeOptions, EncodeOptions
from codec.runner import Place
from codec.shards import ShardRun, expand, find_shards, members, pair_shards
from codec.transcode import Coder

AUDIO = frozenset({".wav", ".flac"})


def flac(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, 16000, format="FLAC")
    return file.getvalue()


def make_shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))


def read_shard(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar:
            data = tar.extractfile(member)
            assert data is not None and member.mtime == 1_700_000_000
            found[member.name] = data.read()
        return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    """Three shards of a corpus, not in the order of names, with texts beside the audio."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        files: dict[str, bytes] = {}
        for key in ("b/002", "a/010", "a/001"):
            files[f"{key}.flac"] = flac(np.roll(speech[:8000], 100 * shard + len(files)))
            files[f"{key}.json"] = json.dumps({"text": f"{shard} {key}"}).encode()
        make_shard(folder / f"corpus-{shard:03}.tar", files)
    return folder


def shard_run(pairs: list, out: Path, **options: object) -> ShardRun:
    settings = {"coder": Coder(EncodeOptions(9.6)), "suffixes": AUDIO, **options}
    return ShardRun(target=out, shards=pairs, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("jobs", [1, 2])
def test_order_and_names_are_kept(codec: Codec, shards: Path, tmp_path: Path, jobs: int) -> None:
    pairs = pair_shards(f"{shards}/corpus-{{000..002}}.tar", f"{tmp_path}/coded-{{000..002}}.tar")
    run = shard_run(pairs, tmp_path, place=Place(jobs))
    run.run()
    assert (run.found, run.done, run.failures.count) == (9, 9, 0)
    for source, target in pairs:
        before, after = read_shard(Path(source)), read_shard(Path(target))
        assert list(after) == [name.replace(".flac", ".bin") for name in before]
        for name, data in before.items():
            if name.endswith(".json"):
                assert after[name] == data
            else:
                wave = soundfile.read(io.BytesIO(data), dtype="float32")[0]
                assert after[name.replace(".flac", ".bin")] == codec.encode(wave, 16000, 9.6)

    back = tmp_path / "back"
    pairs = pair_shards(f"{tmp_path}/coded-{{000..002}}.tar", str(back))
    assert [target for _, target in pairs] == [back / f"coded-{n:03}.tar" for n in range(3)]
    coder = Coder(DecodeOptions(16000, format="flac"))
    run = shard_run(pairs, back, coder=coder, suffixes=frozenset({".bin"}))
    run.run()
    assert run.done == 9
    decoded = read_shard(back / "coded-001.tar")
    assert list(decoded) == list(read_shard(shards / "corpus-001.tar"))
    coded = read_shard(tmp_path / "coded-001.tar")["a/001.bin"]
    wave = soundfile.read(io.BytesIO(decoded["a/001.flac"]), dtype="int16")[0]
    wanted = np.rint(np.clip(codec.decode(coded) * 32768.0, -32768, 32767)).astype(np.int16)
    np.testing.assert_array_equal(wave, wanted)


def test_what_is_wrong_is_listed_and_the_rest_is_done(
    shards: Path, speech: np.ndarray, tmp_path: Path
) -> None:
    files = {"1.flac": flac(speech[:4000]), "2.flac": b"no audio", "2.txt": b"two",
             "3.flac": flac(speech[:4000])}  # fmt: skip
    make_shard(tmp_path / "x-0.tar", files)
    whole = (shards / "corpus-000.tar").read_bytes()
    (tmp_path / "x-1.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "x-2.tar").write_bytes(b"no tar file" * 100)
    out = tmp_path / "out"
    pairs = pair_shards(f"{tmp_path}/x-{{0..2}}.tar", f"{out}/")
    run = shard_run(pairs, out)
    run.run()
    assert (run.found, run.done, run.failures.count) == (3, 2, 3)
    assert list(read_shard(out / "x-0.tar")) == ["1.bin", "2.txt", "3.bin"]
    assert sorted(path.name for path in out.iterdir()) == ["failures.csv", "x-0.tar"]
    (first, one), (second, two), (third, three) = sorted(run.failures.kept)
    assert first == f"{tmp_path}/x-0.tar/2.flac" and "is text, no audio" in one
    assert one.count(first) == 1 and "/tmp" not in one.replace(first, "")
    assert second.endswith("x-1.tar") and "is no tar file, or cut off" in two
    assert third.endswith("x-2.tar") and "is no tar file, or cut off" in three

    again = shard_run(pairs, out, skip_existing=True)
    again.run()
    assert again.skipped == 1
    assert again.failures.kept[0][1] == one  # still missing in the shard that is left out
    assert again.failures.count == 3


def test_two_members_of_one_output_name(speech: np.ndarray, tmp_path: Path) -> None:
    """Whichever comes first: nothing replaces another file when the shard is taken apart."""
    sound = flac(speech[:4000])
    files = {"a.flac": sound, "a.wav": sound, "b.bin": b"1", "b.flac": sound, "c.flac": sound,
             "c.bin": b"2"}  # fmt: skip
    make_shard(tmp_path / "x.tar", files)
    run = shard_run(pair_shards(f"{tmp_path}/x.tar", f"{tmp_path}/y.tar"), tmp_path)
    run.run()
    assert list(read_shard(tmp_path / "y.tar")) == ["a.bin", "b.bin", "c.bin"]
    assert [Path(name).name for name, _ in run.failures.kept] == ["a.wav", "b.flac", "c.bin"]
    assert all("has the same output name" in reason for _, reason in run.failures.kept)


def test_names_of_shards(tmp_path: Path) -> None:
    assert expand("a-{08..11}.tar") == [Path(f"a-{n}.tar") for n in ("08", "09", "10", "11")]
    assert expand("s3://b/{0..1}/c-{0..1}.tar")[1:3] == ["s3://b/0/c-1.tar", "s3://b/1/c-0.tar"]
    assert expand("plain.tar") == [Path("plain.tar")]
    for number in range(3):
        (tmp_path / f"a-{number}.tar").touch()
    names = f"{tmp_path}/a-{{0..2}}.tar"
    for source, target, words in (
        (f"{tmp_path}/a-{{0..3}}.tar", "out", "a-3.tar: no such file"),
        (f"{tmp_path}/a-{{2..0}}.tar", "out", "ends before it begins"),
        (names, f"{tmp_path}/b-{{0..1}}.tar", "2 shards, but the input has 3"),
        (names, f"{tmp_path}/b.tar", "1 shards, but the input has 3"),
        (names, str(tmp_path), "is the input"),
        (names, None, "name shards"),
    ):
        with pytest.raises(CodecError, match=words):
            pair_shards(source, target)


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_members_are_read_where_they_lie(shards: Path, scheme: str) -> None:
    place = location(shards / "corpus-001.tar")
    if scheme:
        fsspec = pytest.importorskip("fsspec")
        place = location("memory://members/corpus-001.tar")
        with fsspec.open(place, "wb") as file:
            file.write((shards / "corpus-001.tar").read_bytes())
    files = read_shard(shards / "corpus-001.tar")
    found = list(members(place, AUDIO))
    assert [one.name for one in found] == [name for name in files if name.endswith(".flac")]
    for one in found:
        again = absolute(pickle.loads(pickle.dumps(one)))
        assert again == one == f"{place}/{one.name}" and isinstance(again, Member)
        with fetched(again) as path:
            assert path.suffix == ".flac" and path.read_bytes() == files[one.name]
        assert not path.exists()
    assert list(members(place, {".mp3"})) == []


def test_members_of_broken_shards(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "corpus-000.tar").read_bytes()
    (tmp_path / "none.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(AudioError, match="none.tar: is no tar file, or cut off"):
        list(members(tmp_path / "none.tar", AUDIO))
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match="cut.tar: is no tar file, or cut off"):
        list(members(tmp_path / "cut.tar", AUDIO))
    with pytest.raises(CodecError, match="corpus-003.tar: no such file"):
        find_shards(f"{shards}/corpus-{{000..003}}.tar")
    make_shard(tmp_path / "out.tar", {"../../a.flac": b"x", "/b.flac": b"y"})
    assert [one.name for one in members(tmp_path / "out.tar", AUDIO)] == ["a.flac", "b.flac"]
