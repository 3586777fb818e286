"""Evaluation with toy codecs: rates, scores, failures, workers, files, other codecs."""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toys import HEADER, RATE, ToyBaseline, ToyCodec, syllables, toy

from codec.io.wav import to_int16
from codec.runner import Done
from codec.runner import run as run_items
from evaluation import bd_rate
from evaluation.alignment import fir_map
from evaluation.arrays import distinct
from evaluation.clips import ClipsOfDirectory, ClipsOfFiles, wav_names
from evaluation.clips import choose_clips as choose
from evaluation.metrics import DEFAULT_METRICS, METRICS, Metric, MetricError, pesq_wb, psnr
from evaluation.published import PublishedScore, read_scores
from evaluation.results import ClipScore, EvalResult, RunInfo, write_results
from evaluation.run import sum_up
from evaluation.scoring import Task, lost_packets
from evaluation.tables import (
    all_tables,
    comparison_table,
    others_table,
    rate_saved_table,
    summary_table,
)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bd_rate, "RESAMPLES", 50)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One plain clip, one at 48 kHz in stereo, one too short for PESQ, one silent, no audio."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "sub").mkdir()
    paths = [folder / name for name in ("a.wav", "sub/b.flac", "c.wav", "d.wav", "e.wav")]
    soundfile.write(paths[0], syllables(2.01, 1), RATE)
    wide = np.repeat(syllables(1.5, 2), 3)
    soundfile.write(paths[1], np.stack([wide, wide], axis=1), 3 * RATE)
    soundfile.write(paths[2], syllables(0.1, 3), RATE)
    soundfile.write(paths[3], np.zeros(RATE), RATE)
    paths[4].write_bytes(b"no audio")
    return paths


def scores_of(
    result: EvalResult, codec: str, metric: str, **key: float
) -> dict[tuple[str, float], float]:
    """Return the scores of one codec and metric, by file and rate."""
    return {
        (row.file, row.rate): row.value
        for row in result.scores
        if (row.codec, row.metric) == (codec, metric)
        and all(row[name] == value for name, value in key.items())
    }


def values(scores: dict[Any, float]) -> np.ndarray:
    return np.array(list(scores.values()))


def summary_of(result: EvalResult) -> list[dict[str, Any]]:
    return json.loads(result.to_json())["summary"]


def test_clip_scores_are_those_of_the_decoded_bytes(clips: list[Path]) -> None:
    result = toy(clips[:1], [24, 8])
    assert result.clips.rate.tolist() == [8, 24] and set(result.clips.file) == {"a.wav"}
    assert not len(result.failures)
    assert result.info.weights == "c0dec123"
    x = soundfile.read(clips[0], dtype="float32")[0]
    for clip, row in zip(result.clips, summary_of(result), strict=True):
        codec = ToyCodec()
        y = to_int16(codec.decode(codec.encode(x, RATE, bitrate=clip.rate))) / 32768
        assert clip.duration_s == pytest.approx(2.01)
        assert scores_of(result, "nsvq", "psnr_db")["a.wav", clip.rate] == psnr(x, y)
        pesq = scores_of(result, "nsvq", "pesq_wb")["a.wav", clip.rate]
        assert pesq == pesq_wb(x, y)
        assert clip.payload_kbps == pytest.approx(clip.rate)
        # 2.01 s fill 101 packets of 20 ms; the file has a header besides
        expected = 8e-3 * (HEADER + 101 * clip.rate * 2.5) / 2.01
        assert clip.measured_kbps == pytest.approx(expected)
        assert row["measured_kbps"] == pytest.approx(expected, abs=1e-4)
        assert row["payload_kbps"] == clip.rate
        assert row["pesq_wb"] == row["pesq_wb_q05"] == pytest.approx(pesq, 1e-4)
        assert (row["clips"], row["failures"]) == (1, 0)
        assert clip.encode_s > 0
        assert row["encode_x_realtime"] == pytest.approx(2.01 / clip.encode_s, rel=1e-3)
        assert row["decode_x_realtime"] == pytest.approx(2.01 / clip.decode_s, rel=1e-3)
    low, high = (scores_of(result, "nsvq", "psnr_db")["a.wav", rate] for rate in (8, 24))
    assert high > low + 3


def test_summary_over_clips(clips: list[Path]) -> None:
    result = toy(clips[:2], [16])
    (row,) = summary_of(result)
    scores = values(scores_of(result, "nsvq", "psnr_db"))
    assert row["psnr_db"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert row["psnr_db_q05"] == pytest.approx(np.quantile(scores, 0.05), abs=1e-4)
    assert row["psnr_db_q95"] == pytest.approx(np.quantile(scores, 0.95), abs=1e-4)
    assert row["psnr_db_q05"] < row["psnr_db"] < row["psnr_db_q95"]
    total = result.clips.duration_s.sum()
    assert total == pytest.approx(3.51)  # the 48 kHz clip counts at 16 kHz
    num_bytes = 2 * HEADER + 40 * (101 + 75)
    assert row["measured_kbps"] == pytest.approx(8e-3 * num_bytes / total, abs=1e-4)


def test_failures_are_listed_and_the_rest_stays(clips: list[Path]) -> None:
    result = toy(clips, [13.2])
    found = {(row.file, row.metric): row.reason for row in result.failures}
    assert set(found) == {
        ("c.wav", "pesq_wb"),
        ("c.wav", "estoi"),
        ("d.wav", "pesq_wb"),
        ("d.wav", "psnr_db"),
        ("d.wav", "estoi"),
        ("e.wav", "audio"),
    }
    assert "at least 0.25 s" in found["c.wav", "pesq_wb"]
    assert "silence" in found["d.wav", "psnr_db"]
    pesq = scores_of(result, "nsvq", "pesq_wb")
    assert np.isnan(pesq["c.wav", 13.2])
    assert scores_of(result, "nsvq", "psnr_db")["c.wav", 13.2] > 0
    (row,) = summary_of(result)
    assert (row["clips"], row["failures"]) == (5, 6)
    good = [pesq["a.wav", 13.2], pesq["sub/b.flac", 13.2]]
    assert row["pesq_wb"] == pytest.approx(np.mean(good), abs=1e-4)


@pytest.mark.parametrize(
    "flaw, reason", [("raise", "RuntimeError: too loud"), ("short", "32000 samples went in, 31999")]
)
def test_a_clip_that_breaks_the_codec(tmp_path: Path, flaw: str, reason: str) -> None:
    soundfile.write(tmp_path / "loud.wav", 1.9 * syllables(2.0, 1), RATE)
    result = toy([tmp_path / "loud.wav"], [8], codec_loader=partial(ToyCodec, flaw))
    (failure,) = result.failures
    assert failure.metric == "codec" and reason in failure.reason
    (row,) = summary_of(result)
    assert row["pesq_wb"] is None and row["measured_kbps"] is None
    assert "-" in summary_table(result).splitlines()[2]


def test_perfect_decoding_is_not_an_infinite_mean(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = soundfile.read(clips[0], dtype="float32")[0]
    monkeypatch.setattr(ToyCodec, "decode", lambda self, data: x)
    result = toy(clips[:1], [8])
    (failure,) = result.failures
    assert failure.metric == "psnr_db" and "inf" in failure.reason
    assert summary_of(result)[0]["psnr_db"] is None


def test_workers_give_the_same_scores(clips: list[Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    files, rates, others = clips[1:3], [8, 16], [ToyBaseline()]
    here = toy(files, rates, baselines=others, save_audio=tmp_path / "one", page_clips=1)
    there = toy(
        files, rates, baselines=others, save_audio=tmp_path / "two", page_clips=1, jobs=2,
        progress=lambda *done: seen.append(done),
    )  # fmt: skip
    assert seen == [(i, 8) for i in range(1, 9)]
    for name in set(here.clips.dtype.names) - {"encode_s", "decode_s"}:
        np.testing.assert_array_equal(here.clips[name], there.clips[name])
    for name in ("file", "codec", "rate", "loss", "metric"):
        np.testing.assert_array_equal(here.scores[name], there.scores[name])
    np.testing.assert_allclose(here.scores.value, there.scores.value, rtol=1e-5)  # threads
    np.testing.assert_array_equal(here.failures, there.failures)
    names = ["16/c.wav", "16/sub/b.wav"]
    for folder in ("one", "two"):
        written = (tmp_path / folder).glob("16/**/*.wav")
        assert sorted(p.relative_to(tmp_path / folder).as_posix() for p in written) == names
    (one,), (two,) = here.heard, there.heard
    assert one.name == two.name == "sub/b.flac"
    for sound, other in zip(one.sounds, two.sounds, strict=True):
        np.testing.assert_array_equal(sound.wave, other.wave)
    y = soundfile.read(tmp_path / "two" / "16" / "sub" / "b.wav", dtype="float32")[0]
    np.testing.assert_array_equal(two.sounds[1].wave, y)


def test_a_clip_that_no_worker_survives_is_a_failure(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the runner says of it (see `tests/codec/test_runner.py`) stands in the results."""

    def one_dies(*arguments: Any) -> Iterator[Done]:
        for came in run_items(*arguments):
            died = came.item.file == "a.wav"
            yield Done(came.item, error="its worker process died 3 times") if died else came

    monkeypatch.setattr("evaluation.run.run_items", one_dies)
    result = toy(clips[:2], [8])
    (failure,) = result.failures
    assert (failure.file, failure.metric) == ("a.wav", "codec")
    assert "died 3 times" in failure.reason
    assert np.isfinite(scores_of(result, "nsvq", "psnr_db")["sub/b.flac", 8])
    assert summary_of(result)[0]["failures"] == 1


def test_a_clip_that_no_slow_metric_survives_is_a_failure(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch, third_party: None
) -> None:
    def one_dies(*arguments: Any) -> Iterator[Done]:
        for came in run_items(*arguments):
            slow = isinstance(came.item, tuple) and not isinstance(came.item, Task)
            died = slow and came.item[0].file == "a.wav"
            yield Done(came.item, error="its worker process died 3 times") if died else came

    monkeypatch.setattr("evaluation.run.run_items", one_dies)
    result = toy(clips[:2], [8], metrics=["dnsmos"])
    (failure,) = result.failures
    assert (failure.file, failure.metric) == ("a.wav", "dnsmos")
    assert "died 3 times" in failure.reason
    assert np.isfinite(scores_of(result, "nsvq", "psnr_db")["a.wav", 8])


@pytest.mark.parametrize("added", [True, False])
def test_a_directory_that_changes_meanwhile(clips: list[Path], tmp_path: Path, added: bool) -> None:
    """Scores would go to the wrong clips, or some clips be missing in the means."""
    later = tmp_path / "later"  # is listed when it is reached
    later.mkdir()
    for name in ("a.wav", "b.wav", "c.wav", "d.wav", "later/e.wav"):
        (tmp_path / name).write_bytes(clips[0].read_bytes())

    def change(done: int, total: int) -> None:
        if added:
            (later / "f.wav").write_bytes(clips[0].read_bytes())
        else:
            (later / "e.wav").unlink(missing_ok=True)

    with pytest.raises(ValueError, match="added or removed while they were scored"):
        toy(ClipsOfDirectory(tmp_path), [8], progress=change)


@pytest.mark.slow
def test_a_clip_that_kills_its_worker_is_a_failure(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 1.9 * syllables(1.0, 1), RATE)
    soundfile.write(tmp_path / "soft.wav", 0.1 * syllables(1.0, 1), RATE)
    files = [tmp_path / "loud.wav", tmp_path / "soft.wav"]
    result = toy(files, [8], jobs=2, codec_loader=partial(ToyCodec, "die"))
    (failure,) = result.failures
    assert (failure.file, failure.metric) == ("loud.wav", "codec")
    assert "died 3 times" in failure.reason
    assert scores_of(result, "nsvq", "psnr_db")["soft.wav", 8] > 0


def test_names_stay_apart() -> None:
    paths = [Path("/x/s/a.wav"), Path("/x/s/a.flac"), Path("/x/t/b.ogg")]
    names = [clip.name for clip in ClipsOfFiles(paths)]
    assert names == ["s/a.wav", "s/a.flac", "t/b.ogg"]
    assert [clip.name for clip in ClipsOfFiles(paths, "/x/s")] == [
        "a.wav", "a.flac", "../t/b.ogg",
    ]  # fmt: skip
    assert wav_names(names) == ["s/a.wav.wav", "s/a.flac.wav", "t/b.wav"]
    assert wav_names(["a.flac", "a.wav", "a.wav.flac"]) == [
        "a.flac.wav",
        "a.wav.wav",
        "a.wav.flac.wav",
    ]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"files": []}, "no audio files"),
        ({"rates": []}, "no rates"),
        ({"jobs": 0}, "jobs must be"),
        ({"metrics": ["polqa"]}, "unknown metric 'polqa'"),
        ({"losses": [120]}, "outside 0..100"),
        ({"losses": [3], "baselines": [ToyBaseline()]}, "not scored with losses"),
        ({"name": " "}, "no name for a codec"),
        ({"name": "ref"}, "no name for a codec"),
        ({"name": "anchor"}, "no name for a codec"),
        ({"baseline": "opus"}, "baseline 'opus' is not in this run; there is no other codec"),
    ],
)
def test_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy(**{"files": [Path("a.wav")], "rates": [8], **wrong})


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give DNSMOS a score without its package."""
    fake = Metric("dnsmos", "DNSMOS", "", 2, lambda x, y: 3.125, "speechmos", load=lambda: None)
    monkeypatch.setitem(METRICS, "dnsmos", fake)


def test_files_and_table(clips: list[Path], tmp_path: Path, third_party: None) -> None:
    result = toy(clips[:3], [8, 16], metrics=["dnsmos"], root=clips[0].parent.parent)
    scores, summary = write_results(result, tmp_path / "new" / "out")
    rows = list(csv.DictReader(io.StringIO(scores.read_text())))
    columns = "file codec nominal_bps actual_bps pesq_wb psnr_db estoi "
    columns += "payload_bps encode_s decode_s duration_s dnsmos"
    assert list(rows[0]) == columns.split()
    folder = clips[0].parent.name
    assert [(r["file"], r["codec"], r["nominal_bps"]) for r in rows[:3]] == [
        (f"{folder}/a.wav", "nsvq", "8000"),
        (f"{folder}/a.wav", "nsvq", "16000"),
        (f"{folder}/sub/b.flac", "nsvq", "8000"),
    ]
    assert [r["payload_bps"] for r in rows[:2]] == ["8000", "16000"]
    assert int(rows[0]["actual_bps"]) == pytest.approx(8000 + 8 * (HEADER + 1) / 2.01, abs=40)
    assert rows[4]["file"] == f"{folder}/c.wav"
    assert rows[4]["pesq_wb"] == ""
    assert rows[4]["dnsmos"] == "3.1250"
    content = json.loads(summary.read_text())
    assert content["weights"] == "c0dec123"
    assert (content["rates_kbps"], content["files"], content["losses"]) == ([8, 16], 3, [])
    assert content["metrics"] == [*DEFAULT_METRICS, "dnsmos"]
    assert len(content["failures"]) == 4
    assert set(content["failures"][0]) == {"file", "codec", "bitrate_kbps", "metric", "reason"}
    assert {"pesq", "pystoi", "speechmos"} >= set(content["versions"]) - {"numpy", "scipy"}
    assert "pesq" in content["versions"]
    required = "bitrate_kbps measured_kbps payload_kbps pesq_wb psnr_db estoi dnsmos clips failures"
    required += "".join(f" estoi_{key}" for key in ("low", "high", "q05", "q95"))
    required += " codec encode_x_realtime decode_x_realtime published"
    assert set(required.split()) <= set(content["summary"][0])
    lines = summary_table(result).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:4] == ["kbit/s", "measured", "payload", "PESQ"]
    assert "DNSMOS" in lines[0] and "ViSQOL" not in lines[0]
    assert lines[3].split()[:1] == ["16.0"]


def test_notes_on_clips_are_passed_on(clips: list[Path], tmp_path: Path) -> None:
    """Once for each clip, and of alike ones the first with their number."""
    for name, source in (("a.wav", clips[0]), ("b.wav", clips[0]), ("c.wav", clips[2])):
        data = source.read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) - 1001 * (name != "c.wav")])
    result = toy(ClipsOfDirectory(tmp_path), [8, 16], baselines=[ToyBaseline()])
    (note,) = (note for note in result.notes if "cut off" in note)
    assert note.endswith("(2 files)")
    (tmp_path / "notes.txt").touch()
    assert any("1 .txt" in note for note in toy(ClipsOfDirectory(tmp_path), [8]).notes)


def test_a_name_that_is_no_text(clips: list[Path], tmp_path: Path) -> None:
    named = tmp_path / os.fsdecode(b"caf\xe9.wav")
    named.write_bytes(clips[0].read_bytes())
    result = toy([named], [8], losses=[10.0])
    assert len(result.failures) == 0
    scores, _ = write_results(result, tmp_path / "out")
    assert "caf\\udce9.wav" in scores.read_text("utf-8")


def test_a_missing_extra_stops_the_run_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MetricError("ViSQOL is not installed")

    fake = Metric("visqol", "ViSQOL", "", 2, lambda x, y: 3.0, load=missing)
    monkeypatch.setitem(METRICS, "visqol", fake)
    with pytest.raises(MetricError, match="ViSQOL is not installed"):
        toy([Path("a.wav")], [8], metrics=["visqol"])


# ---------------------------------------------------------------------------- losses


def test_losses_are_the_same_for_every_codec() -> None:
    """The pattern depends on the clip's name alone, and higher losses contain lower ones."""
    seed = zlib.crc32(b"sub/b.flac")
    drawn = np.random.Generator(np.random.PCG64(seed)).random(400)
    before = np.zeros(400, np.bool_)
    for percent in (0, 3, 6, 10, 50):
        lost = lost_packets("sub/b.flac", 400, percent)
        assert not lost[:5].any()
        np.testing.assert_array_equal(lost[5:], drawn[5:] < percent / 100)
        assert lost[before].all()
        before = lost
    # A longer clip of the same name begins with the same losses.
    np.testing.assert_array_equal(lost_packets("sub/b.flac", 900, 50)[:400], before)
    assert (lost_packets("sub/c.flac", 400, 50) != before).any()


def test_every_rate_is_scored_with_every_loss(clips: list[Path], tmp_path: Path) -> None:
    result = toy(clips[:2], [16, 32], losses=[10, 3, 0], save_audio=tmp_path, page_clips=1)
    rows = [(r["bitrate_kbps"], r["loss_percent"]) for r in summary_of(result)]
    assert rows == [(rate, loss) for rate in (16, 32) for loss in (0, 3, 10)]
    assert not len(result.failures) and result.info.independent
    assert result.heard == []  # the page has no place for losses
    clean = scores_of(result, "nsvq", "psnr_db", loss=0)
    for loss in (3, 10):
        for (file, rate), value in scores_of(result, "nsvq", "psnr_db", loss=loss).items():
            lost = lost_packets(file, 500, loss)[: 101 if file == "a.wav" else 75]
            assert lost.any() == (value < clean[file, rate])
    table = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [row["loss_percent"] for row in table[:3]] == ["0", "3", "10"]
    assert "loss %" in summary_table(result).splitlines()[0]
    assert (tmp_path / "16/a.loss10.wav").is_file()


def test_results_without_losses_do_not_mention_them(clips: list[Path]) -> None:
    result = toy(clips[2:3], [16])
    assert "loss" not in result.to_csv() and "loss" not in summary_table(result)
    content = json.loads(result.to_json())
    rows = content["summary"] + content["failures"]
    assert all("loss_percent" not in row for row in rows)


# ---------------------------------------------------------------------------- other codecs


def test_baselines_are_aligned_and_mapped(clips: list[Path], tmp_path: Path) -> None:
    """A baseline's delay costs it nothing; its filtering costs it nothing in pSNR."""
    result = toy(clips[:2], [8, 16], baselines=[ToyBaseline()], save_audio=tmp_path)
    assert result.clips.codec.tolist() == ["nsvq"] * 4 + ["toy"] * 4
    x = soundfile.read(clips[0], dtype="float32")[0]
    coded = ToyBaseline(delay=0).code(x, 8.5)
    aligned = coded.wave[: x.size].astype(float)
    pesq = scores_of(result, "toy", "pesq_wb")["a.wav", 8.5]
    assert pesq == pytest.approx(pesq_wb(x, aligned), rel=1e-6)
    mapped = psnr(x, fir_map(x, aligned))
    assert scores_of(result, "toy", "psnr_db")["a.wav", 8.5] == pytest.approx(mapped, abs=1e-3)
    assert mapped > psnr(x, aligned) + 1
    np.testing.assert_allclose(
        soundfile.read(tmp_path / "toy" / "8.5" / "a.wav")[0], aligned, atol=1e-9
    )
    # Our own scores are what they are without others.
    alone = toy(clips[:1], [8, 16])
    ours = scores_of(result, "nsvq", "estoi")
    for key, score in scores_of(alone, "nsvq", "estoi").items():
        assert score == pytest.approx(ours[key], rel=1e-9)
    rows = [row for row in summary_of(result) if row["codec"] == "toy"]
    assert [row["bitrate_kbps"] for row in rows] == [8.5, 16.5]
    assert rows[0]["measured_kbps"] == 8.5
    assert rows[0]["encode_x_realtime"] == pytest.approx((2.01 + 1.5) / 0.5, rel=1e-3)


def test_a_clip_that_breaks_a_baseline(tmp_path: Path) -> None:
    for index, gain in enumerate((1.0, 1.9)):
        soundfile.write(tmp_path / f"{index}.wav", gain * syllables(2.0, 1), RATE)
    (tmp_path / "2.wav").write_bytes(b"no audio")
    files = sorted(tmp_path.glob("*.wav"))
    result = toy(files, [8], baselines=[ToyBaseline(flaw=True)])
    assert sorted((row.file, row.codec, row.metric) for row in result.failures) == [
        ("1.wav", "toy", "codec"),
        ("2.wav", "nsvq", "audio"),
        ("2.wav", "toy", "audio"),
    ]
    assert "toy: toyenc failed with exit code 1" in result.failures.reason.tolist()
    content = json.loads(result.to_json())
    row = content["summary"][1]
    assert (row["codec"], row["clips"], row["failures"]) == ("toy", 3, 2)
    assert row["pesq_wb"] is not None
    assert row["pesq_wb_low"] is None  # one clip says nothing about others
    (pair,) = content["comparison"]
    assert pair["pesq_wb_clips"] == 1 and pair["pesq_wb_low"] is None


def published_toy(files: Sequence[str], codec: str = "old") -> list[PublishedScore]:
    """Scores at 8, 16 and 30 kbit/s that rise with the rate and differ from clip to clip."""
    return [
        PublishedScore(
            file,
            codec,
            1000 * rate,
            1000 * rate + 100,
            {"pesq_wb": 1 + rate / 10 + index / 10, "psnr_db": rate / 2, "estoi": None},
        )
        for index, file in enumerate(files)
        for rate in (8, 16, 30)
    ]


def test_published_scores(clips: list[Path]) -> None:
    scores = published_toy(["a.wav", "sub/b.flac", "elsewhere.wav"])
    scores += published_toy(["a.wav"], "part") + published_toy(["z.wav"], "none")
    scores += published_toy(["a.wav"], "toy")
    result = toy(
        clips[:2], [8, 16, 24], baselines=[ToyBaseline()], published=scores, baseline="old"
    )
    assert distinct(result.rates.codec) == ["nsvq", "toy", "old", "part"]
    content = json.loads(result.to_json())
    row = next(row for row in content["summary"] if row["codec"] == "old")
    assert (row["bitrate_kbps"], row["measured_kbps"], row["clips"]) == (8, 8.1, 2)
    assert row["pesq_wb"] == pytest.approx(1.85)
    assert row["estoi"] is None and row["encode_x_realtime"] is None and row["published"]
    notes = "\n".join(result.notes)
    assert len(result.notes) == 6  # one of them on a clip of two channels
    assert "scores of toy are left out: it runs here" in notes
    assert "scores of part are of 1 of 2 clips only" in notes
    assert "scores of none are left out" in notes
    assert "published rows of clips that are not in this run: 3" in notes
    assert "old has no rate within 15 % of 24 kbit/s" in notes
    assert [row["bitrate_kbps"] for row in content["comparison"]] == [8, 16]
    pair = content["comparison"][1]
    ours = scores_of(result, "nsvq", "pesq_wb", rate=16)
    assert (pair["codec"], pair["baseline_kbps"]) == ("old", 16.1)
    assert pair["pesq_wb_difference"] == pytest.approx(values(ours).mean() - 2.65, abs=1e-4)
    assert pair["estoi_difference"] is None
    saved = {(row["codec"], row["metric"]): row for row in content["rate_saved"]}
    assert set(saved) == {(c, m) for c in ("toy", "old", "part") for m in DEFAULT_METRICS}
    assert saved["old", "estoi"]["percent"] is None
    assert saved["old", "estoi"]["reason"] == "no scores"
    # Published scores are in a file already.
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert {row["codec"] for row in rows} == {"nsvq", "toy"}
    text = all_tables(result)
    for table in (summary_table, others_table, comparison_table, rate_saved_table):
        lines = table(result).splitlines()
        assert len({len(line) for line in lines}) == 1
        assert max(map(len, lines)) <= 120
        assert table(result) in text
    assert "published" in others_table(result) and "made here" in others_table(result)


def made_up(qualities: dict[str, float], clips: int = 3) -> EvalResult:
    """Sum up clips of codecs whose PESQ grows with the rate from a quality of its own."""
    records = [
        ClipScore(
            f"{clip}.wav", rate, codec, duration_s=1.0, measured_kbps=rate,
            scores={"pesq_wb": quality + rate / 10 + clip * (1 + rate / 16) / 10}, number=clip,
        )
        for codec, quality in qualities.items()
        for clip in range(clips)
        for rate in (8.0, 16.0, 32.0)
    ]  # fmt: skip
    ours, *others = qualities
    return sum_up(records, RunInfo(ours, others[0] if others else None, ("pesq_wb",)))


def test_tables_of_rates_saved() -> None:
    result = made_up({"nsvq": 1.0, "old": 0.8, "far": -9.0})
    old, far = result.rate_saved
    text = rate_saved_table(result)
    assert f"{old.percent:.0f} % [{old.low:.0f}, {old.high:.0f}] at 1.95–4.30" in text
    assert far.reason == "ours better at every rate" and far.reason in text
    result.rate_saved.low[0] = result.rate_saved.high[0] = np.nan
    assert f"{old.percent:.0f} % [uncertain] at" in rate_saved_table(result)
    assert "+0.20 [+0.20, +0.20]" in comparison_table(result)
    assert "± is half" in all_tables(result)
    assert all_tables(made_up({"nsvq": 1.0})) == summary_table(made_up({"nsvq": 1.0}))


def test_published_scores_of_other_metrics(clips: list[Path]) -> None:
    scores = [PublishedScore("c.wav", "old", 8000, scores={"visqol": 3.0})]
    result = toy(clips[2:3], [8], published=scores)
    assert result.rates.codec.tolist() == ["nsvq"]
    assert "old are left out where they are of other metrics only" in result.notes[0]


def test_names_of_codecs(clips: list[Path]) -> None:
    scores = published_toy(["c.wav"], "nsvq")
    with pytest.raises(ValueError, match="call ours otherwise with --name"):
        toy(clips[2:3], [8], published=scores)
    result = toy(clips[2:3], [8], published=scores, name="new")
    assert (result.info.name, result.info.baseline) == ("new", "nsvq")
    with pytest.raises(ValueError, match="baseline 'opus' is not in this run; choose from nsvq"):
        toy(clips[2:3], [8], published=scores, name="new", baseline="opus")
    with pytest.raises(ValueError, match="two codecs of this run are called 'toy'"):
        toy(clips[2:3], [8], name="toy", baselines=[ToyBaseline()])


def test_scores_of_one_run_are_read_by_the_next(clips: list[Path], tmp_path: Path) -> None:
    first = toy(clips[1:3], [8, 16], name="old")
    path, _ = write_results(first, tmp_path / "out")
    second = toy(clips[1:3], [8, 16], published=read_scores([path]))
    measured = {(row.codec, row.file, row.rate): row.measured_kbps for row in second.clips}
    assert len(measured) == 8
    for (_, *clip), kbps in measured.items():
        assert measured["old", *clip] == pytest.approx(kbps, abs=1e-3)
    for metric in DEFAULT_METRICS:
        ours, theirs = (scores_of(second, codec, metric) for codec in ("nsvq", "old"))
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(values(ours), values(theirs), atol=1e-4)
    for row in json.loads(second.to_json())["comparison"]:
        assert row["psnr_db_difference"] == pytest.approx(0, abs=1e-4)
        assert (row["psnr_db_clips"], row["pesq_wb_clips"]) == (2, 1)
    saved = {row.metric: row.percent for row in second.rate_saved}
    assert saved["psnr_db"] == pytest.approx(0, abs=0.01)


# ---------------------------------------------------------------------------- clips to hear


def choose_clips(files: Sequence[Path], count: int) -> list[Path]:
    return [Path(clip.path) for clip in choose(ClipsOfFiles(files), count)]


def test_clips_to_hear(clips: list[Path]) -> None:
    chosen = choose_clips(clips, 3)  # silent d and unreadable e give way
    assert [path.name for path in chosen] == ["a.wav", "b.flac", "c.wav"]
    assert choose_clips(clips[3:], 2) == []
    assert choose_clips(clips[:1], 4) == clips[:1]
    assert choose_clips([], 4) == []
    result = toy(clips[1:], [8, 16], baselines=[ToyBaseline()], page_clips=1)
    (heard,) = result.heard
    assert heard.name == "sub/b.flac"
    assert heard.reference.shape == (24000,)
    assert [(sound.codec, sound.bitrate_kbps) for sound in heard.sounds] == [
        ("nsvq", 8),
        ("nsvq", 16),
        ("toy", 8.5),
        ("toy", 16.5),
    ]
    sound = heard.sounds[2]
    assert sound.measured_kbps == 8.5 and sound.wave.dtype == np.float32
    mapped = psnr(heard.reference, fir_map(heard.reference, sound.wave))
    assert mapped == pytest.approx(sound.scores["psnr_db"], abs=1e-6)


def test_a_clip_without_any_score_is_not_heard(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 1.9 * syllables(0.3, 1), RATE)
    loader = partial(ToyCodec, "raise")
    assert toy([tmp_path / "loud.wav"], [8], codec_loader=loader, page_clips=1).heard == []


def test_evenly_spaced_clips(tmp_path: Path) -> None:
    files = [tmp_path / f"{index:02}.wav" for index in range(10)]
    for file in files:
        soundfile.write(file, np.full(100, 0.1), RATE)
    assert [int(path.stem) for path in choose_clips(files, 4)] == [0, 2, 5, 7]
    files[5].write_bytes(b"no audio")
    assert [int(path.stem) for path in choose_clips(files, 4)] == [0, 2, 6, 7]
