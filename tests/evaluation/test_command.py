"""The commands `codec eval` and `codec ratings`, with a toy codec in place of ours."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
import soundfile
from toys import RATE, ToyCodec, syllables, toy_packets
from typer.testing import CliRunner, Result

import cli
from commands import coding
from evaluation import bd_rate, scoring
from evaluation.baselines import codecs
from evaluation.baselines.base import Baseline
from evaluation.baselines.containers import Payload
from evaluation.baselines.programs import Programs
from evaluation.metrics import OPTIONAL_METRICS

ROOT = Path(cli.__file__).resolve().parent


def run(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="codec")


def assert_user_error(result: Result, *words: str) -> None:
    """Assert exit code 2 and one error line that has all `words`; stdout stays empty."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("codec: error: ")
    for word in words:
        assert word in line


@pytest.fixture(autouse=True)
def toy_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "load_codec", lambda weights: ToyCodec())
    monkeypatch.setattr(scoring, "read_stream", lambda data: (None, toy_packets(data)))
    monkeypatch.setattr(bd_rate, "RESAMPLES", 50)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A directory with one clip."""
    folder = tmp_path / "speech"
    folder.mkdir()
    soundfile.write(folder / "one.wav", syllables(2.0, 1), RATE)
    return folder


class Flat(Baseline):
    """A codec that copies: what comes out is what went in, at the rate that it claims."""

    name = "flat"
    coded_name = "coded.flat"
    alternatives = (Programs(("sh",), "dash"),)

    def nearest_rate(self, kbps: float) -> float:
        return 128.0 if kbps > 64 or 10 < kbps < 64 else 64.0

    def commands(self, programs: Programs, kbps: float) -> tuple[list[str], list[str]]:
        return ["cp", "source.wav", self.coded_name], ["cp", self.coded_name, "decoded.wav"]

    def payload(self, data: bytes, kbps: float) -> Payload:
        frames = -(-(len(data) - 44) // 2 // 160)
        return Payload(round(kbps * frames * 1.25), frames, 0.010)


class Gone(Flat):
    """A codec whose program is nowhere."""

    name = "gone"
    alternatives = (Programs(("no-such-program",), "no-such-package"),)


@pytest.fixture
def two_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "BASELINES", {"flat": Flat, "gone": Gone})


def test_table_csv_json_plots_and_page(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    result = run(
        "eval", speech, "--rates", "8,24.4", "--out", out, "--save-audio", "--jobs", "1"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "24.4" in result.stdout
    assert "scores.csv, summary.json, plots and listen.html are in " in result.stdout
    content = json.loads((out / "summary.json").read_text())
    assert [row["bitrate_kbps"] for row in content["summary"]] == [8, 24.4]
    assert (content["comparison"], content["rate_saved"], content["baseline"]) == ([], [], None)
    assert len((out / "scores.csv").read_text().splitlines()) == 1 + 2
    assert (out / "rate_quality.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (out / "pesq_wb.svg").read_text()
    assert "one.wav" in (out / "listen.html").read_text()
    assert not list(out.rglob("*.tmp"))
    waves = [path.relative_to(out).as_posix() for path in sorted(out.rglob("*.wav"))]
    assert waves == ["decoded/24.4/one.wav", "decoded/8/one.wav"]


def test_beside_other_codecs(
    speech: Path, tmp_path: Path, two_baselines: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One codec runs, one is missing, one is published; then this run's scores meet another's."""
    monkeypatch.setattr("evaluation.run.write_plots", lambda result, folder: [folder])
    out, published = tmp_path / "scores", tmp_path / "published.csv"
    head = "file,codec,nominal_bps,actual_bps,pesq_wb,psnr_db,estoi\n"
    rows = (f"one.wav,evs,{rate},{rate + 50},{pesq},7,.8\n" for rate, pesq in
            ((8000, 1.1), (13200, 1.2), (32000, 4.3)))  # fmt: skip
    published.write_text(head + "".join(rows) + "two.wav,evs,8000,8000,1,1,.1\n")
    arguments = ["--against", "flat,gone", "--scores", published, "--baseline", "evs"]
    result = run("eval", speech, *arguments, "--rates", "8,16.4", "--out", out, "--jobs", "1")
    assert result.exit_code == 0, result.output
    notes = result.stderr.splitlines()
    assert all(line.startswith("codec: note: ") for line in notes)
    assert "gone: needs no-such-program (package no-such-package)" in notes[0]
    assert "published rows of clips that are not in this run: 1" in result.stderr
    assert "evs has no rate within 15 % of 16.4 kbit/s" in result.stderr
    assert "Rate that nsvq saves" in result.stdout and "nsvq − evs" in result.stdout
    content = json.loads((out / "summary.json").read_text())
    assert [(row["codec"], row["bitrate_kbps"]) for row in content["summary"]] == [
        ("nsvq", 8), ("nsvq", 16.4), ("flat", 64), ("flat", 128),
        ("evs", 8), ("evs", 13.2), ("evs", 32),
    ]  # fmt: skip
    flat = content["summary"][2]
    assert flat["measured_kbps"] == pytest.approx(64, abs=0.1)
    assert flat["pesq_wb"] > 4.6
    # What comes out is what went in: there is no noise, hence no pSNR. It is listed.
    assert flat["psnr_db"] is None or flat["psnr_db"] > 60
    (pair,) = content["comparison"]
    assert (pair["codec"], pair["bitrate_kbps"], pair["baseline_kbps"]) == ("evs", 8, 8.05)
    assert pair["pesq_wb_difference"] == pytest.approx(content["summary"][0]["pesq_wb"] - 1.1)
    page = (out / "listen.html").read_text()
    assert '"flat"' in page and '"evs"' not in page  # of published codecs there is no sound
    assert not list(out.rglob("*.wav"))

    again = run("eval", speech, "--rates", "8", "--scores", out / "scores.csv", "--jobs", "1")
    assert_user_error(again, "'nsvq' too", "--name")
    again = run(
        "eval", speech, "--rates", "8", "--scores", out / "scores.csv", "--jobs", "1",
        "--name", "vbr", "--vbr", "--out", tmp_path / "again", "--page-clips", "0",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert "vbr − nsvq" in again.stdout
    content = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert (content["name"], content["baseline"], content["vbr"]) == ("vbr", "nsvq", True)
    assert not (tmp_path / "again" / "listen.html").exists()


def test_losses(speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    result = run("eval", speech, "--rates", "32", "--loss", "3, 20", "--out", out, "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert "loss %" in result.stdout
    content = json.loads((out / "summary.json").read_text())
    assert content["independent"]
    rows = content["summary"]
    assert [row["loss_percent"] for row in rows] == [0, 3, 20]
    assert rows[0]["psnr_db"] > rows[1]["psnr_db"] > rows[2]["psnr_db"]


def test_it_goes_on_past_a_bad_file(speech: Path, tmp_path: Path) -> None:
    (speech / "bad.wav").write_bytes(b"RIFF, or so it says")
    arguments = ["--rates", "16.4", "--out", tmp_path / "out", "--page-clips", 0, "--jobs", 1]
    result = run("eval", speech, *arguments)
    assert result.exit_code == 1, result.output
    (error,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert error.startswith("codec: error: ") and "bad.wav: not an audio file" in error
    assert len((tmp_path / "out" / "scores.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--rates", "8,fast"], "--rates"),
        (["--rates", "8,40"], "40 kbit/s is out of range"),
        (["--rates", "8,8"], "named twice"),
        (["--metrics", "taste"], "unknown metric 'taste'; choose from visqol, dnsmos, distillmos"),
        (["--save-audio"], "--out"),
        (["--page-clips", "-1", "--out", "x"], "--page-clips"),
        (["--jobs", "0"], "--jobs"),
        (["--scores", "does-not-exist.csv"], "does-not-exist.csv"),
        (["--scores", ROOT / "pyproject.toml"], "pyproject.toml: line 1"),
        (["--against", "opus,polka"], "unknown codec 'polka'"),
        (["--against", "opus, opus"], "named twice"),
        (["--against", ","], "no name"),
        (["--against", "gone"], "gone: needs no-such-program (package no-such-package)"),
        (["--against", "flat", "--loss", "3"], "not scored with losses"),
        (["--baseline", "opus"], "there is no other codec"),
        (["--name", " "], "no name for a codec"),
        (["--name", "reference"], "no name for a codec"),
        (["--loss", "3,x"], "not a percentage"),
        (["--loss", "101"], "not a percentage"),
        (["--loss", "-1"], "not a percentage"),
        (["another"], "another"),
    ],
)
def test_mistakes(
    speech: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    known = codecs.BASELINES | {"flat": Flat, "gone": Gone}
    monkeypatch.setattr(codecs, "BASELINES", known)
    assert_user_error(run("eval", speech, *arguments), words)


def test_no_directory_of_speech(tmp_path: Path) -> None:
    assert_user_error(run("eval", tmp_path / "nothing"), "does not exist")
    assert_user_error(run("eval", ROOT / "README.md"), "is a file")
    assert_user_error(run("eval", tmp_path), "no audio files")


def test_wrong_scores_leave_nothing_behind(speech: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.csv"
    scores.write_text("codec,taste\nopus,good\n")
    result = run("eval", speech, "--scores", scores, "--out", tmp_path / "out")
    assert_user_error(result, str(scores), "line 1")
    assert not (tmp_path / "out").exists()


def test_help_names_all_further_metrics() -> None:
    text = " ".join(run("eval", "--help").stdout.split())
    assert ", ".join(OPTIONAL_METRICS) in text


def test_a_missing_package_is_one_line(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "evaluation.tables", None)
    assert_user_error(run("eval", speech), "evaluation.tables is not installed: pip install")


# ---------------------------------------------------------------------------- ratings


@pytest.fixture
def rated(tmp_path: Path) -> list[Path]:
    """Two exports of the listening page."""
    head = "listener,session,clip,codec,bitrate_kbps,measured_kbps,label,rating,time\n"
    files = [tmp_path / f"{name}.csv" for name in "ab"]
    for index, file in enumerate(files):
        file.write_text(
            f"{head}l{index},s{index},one.wav,nsvq,8,8.1,A,{70 + 10 * index},2026-01-01T10:00:00Z\n"
            f"l{index},s{index},one.wav,reference,8,,B,100,2026-01-01T10:00:00Z\n"
        )
    return files


def test_ratings(rated: list[Path], tmp_path: Path) -> None:
    result = run("ratings", *rated, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "75.0" in result.stdout and "this codec" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("ratings.csv and ratings.json are in ")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["ratings.csv", "ratings.json"]


def test_ratings_under_their_old_name(rated: list[Path]) -> None:
    table = run("ratings", *rated).stdout
    assert table and run("eval", "--ratings", *rated).stdout == table
    assert run("eval", *rated, "--ratings").stdout == table
    assert "--ratings" not in run("eval", "--help").stdout
    assert_user_error(run("eval", "--ratings", *rated, "--vbr"), "--vbr", "codec ratings --help")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "FILES"),
        (["does-not-exist.csv"], "does not exist"),
        ([ROOT / "demo"], "is a directory"),
        ([ROOT / "pyproject.toml"], "is this an export of the listening page?"),
    ],
)
def test_mistakes_with_ratings(arguments: list[object], words: str) -> None:
    assert_user_error(run("ratings", *arguments), words)


def test_ratings_into_a_file(rated: list[Path]) -> None:
    assert_user_error(run("ratings", *rated, "--out", rated[0]), "is a file")


# ---------------------------------------------------------------------------- the real codec


def test_our_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip at one rate, without and with losses."""
    from codec import Codec
    from codec.bitstream import read_stream

    monkeypatch.setattr(coding, "load_codec", lru_cache(Codec.load))
    monkeypatch.setattr(scoring, "read_stream", read_stream)
    wave, rate = soundfile.read(ROOT / "demo" / "speech" / "slt.flac")
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "one.wav", wave[: 2 * rate], rate)
    out = tmp_path / "out"
    result = run(
        "eval", tmp_path / "in", "--rates", "13.2", "--loss", "20", "--out", out, "--jobs", "1"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    clean, lossy = json.loads((out / "summary.json").read_text())["summary"]
    assert clean["codec"] == "nsvq" and clean["failures"] == lossy["failures"] == 0
    # The header weighs more in a clip of 2 s than in the files of a test set.
    assert clean["measured_kbps"] == pytest.approx(13.2, rel=0.05)
    assert clean["payload_kbps"] == pytest.approx(13.2, rel=0.01)
    assert clean["pesq_wb"] > 3 and clean["estoi"] > 0.9
    assert clean["pesq_wb"] > lossy["pesq_wb"] > 1
    assert clean["encode_x_realtime"] > 1 and clean["decode_x_realtime"] > 1
