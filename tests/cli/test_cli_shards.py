"""`codec info` and `codec eval` over tar shards: what they say of the same files in directories."""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_helpers import assert_user_error, run, voice


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in folders c-0.tar and c-1.tar below `tree`, and shards with the same names."""
    folder = tmp_path_factory.mktemp("corpus")
    for shard in range(2):
        inside = folder / "tree" / f"c-{shard}.tar"
        (inside / "a").mkdir(parents=True)
        for number in range(2):
            wave = np.roll(voice(4000), 500 * (2 * shard + number))
            soundfile.write(inside / "a" / f"{number}.flac", wave, 16000)
        with tarfile.open(folder / f"c-{shard}.tar", "w") as tar:
            tar.add(inside / "a", "a")
    return folder


def test_what_is_missing_in_a_shard_that_is_there_stays_listed(tmp_path: Path) -> None:
    (tmp_path / "bad.flac").write_bytes(b"no audio")
    soundfile.write(tmp_path / "good.flac", voice(3200), 16000)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("bad.flac", "good.flac"):
            tar.add(tmp_path / name, name)
    command = ("encode", tmp_path / "a.tar", tmp_path / "out" / "b.tar")
    assert run(*command).exit_code == 1
    listed = (tmp_path / "out" / "failures.csv").read_text()
    assert "a.tar/bad.flac" in listed
    for _ in range(2):
        again = run(*command, "--skip-existing")
        assert again.exit_code == 1 and again.stderr.count("a.tar/bad.flac: is text") == 1
        assert (tmp_path / "out" / "failures.csv").read_text() == listed
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "good.flac", "good.flac")
    assert run(*command).exit_code == 0
    assert not (tmp_path / "out" / "failures.csv").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_info(corpus: Path, tmp_path: Path, jobs: int) -> None:
    assert run("encode", corpus / "c-{0..1}.tar", tmp_path / "shards").exit_code == 0
    assert run("encode", corpus / "tree", tmp_path / "tree").exit_code == 0
    shards = run("info", tmp_path / "shards" / "c-{0..1}.tar", "--jobs", jobs)
    tree = run("info", tmp_path / "tree")
    assert (shards.exit_code, shards.stderr) == (0, "")
    wanted = tree.stdout.replace(str(tmp_path / "tree"), str(tmp_path / "shards"))
    assert sorted(shards.stdout.splitlines()) == sorted(wanted.splitlines())
    assert "4 of 4 streams: " in shards.stdout
    assert_user_error(run("info", corpus / "c-0.tar"), "no .bin files in there")
    assert_user_error(run("info", tmp_path / "c-{0..1}.tar"), "c-0.tar: no such file")


def test_eval(corpus: Path, tmp_path: Path) -> None:
    options = ("--rates", "13.2", "--metrics", "none", "--page-clips", "0", "--jobs", "1")
    for name, source in (("shards", corpus / "c-{0..1}.tar"), ("tree", corpus / "tree")):
        result = run("eval", source, *options, "--out", tmp_path / name, "--save-audio")
        assert result.exit_code == 0, result.stderr
    rows = {}
    for name in ("shards", "tree"):
        with (tmp_path / name / "scores.csv").open() as file:
            rows[name] = [
                {key: value for key, value in row.items() if not key.endswith("_s")}
                for row in csv.DictReader(file)
            ]
    assert [row["file"] for row in rows["shards"]] == [
        f"c-{shard}.tar/a/{number}.flac" for shard in (0, 1) for number in (0, 1)
    ]
    assert rows["shards"] == rows["tree"]
    for path in (tmp_path / "tree" / "decoded").rglob("*.wav"):
        same = tmp_path / "shards" / path.relative_to(tmp_path / "tree")
        assert same.read_bytes() == path.read_bytes()
    sampled = run("eval", corpus / "c-{0..1}.tar", *options, "--sample", "2", "--seed", "3")
    assert sampled.exit_code == 0 and sampled.stdout.splitlines()[2].split()[-2:] == ["2", "0"]
    nothing = run("eval", tmp_path / "c-{0..1}.tar", *options)
    assert_user_error(nothing, "c-0.tar: no such file")
