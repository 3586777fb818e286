"""Evaluation with toy codecs: rates, scores, failures, workers, files, other codecs."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.fft import dct, idct
from scipy.signal import lfilter

from codec.io.wav import to_int16
from evaluation import run as ev
from evaluation.baselines.codecs import Coded, PeerError
from evaluation.metrics import MetricError, fir_map, pesq_wb, psnr
from evaluation.published import PublishedScore, read_scores
from evaluation.run import evaluate, write_results
from evaluation.tables import (
    all_tables,
    comparison_table,
    others_table,
    rate_saved_table,
    summary_table,
)

RATE = 16000
HEADER = 6


class ToyCodec:
    """Keep the first DCT coefficients of each 20 ms, one byte each and one for the scale."""

    fingerprint = bytes.fromhex("c0dec123")

    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw

    def encode(
        self,
        wave: np.ndarray,
        rate: int,
        bitrate: float,
        vbr: bool = False,
        independent: bool = False,
    ) -> bytes:
        assert rate == RATE and wave.dtype == np.float32 and wave.ndim == 1
        if self.flaw == "raise" and np.abs(wave).max(initial=0) > 0.9:
            raise RuntimeError("too\nloud")
        if self.flaw == "die" and np.abs(wave).max(initial=0) > 0.9:
            os._exit(1)
        size = round(bitrate * 20 / 8) - (1 if vbr else 0)
        blocks = np.pad(wave, (0, -wave.size % 320)).reshape(-1, 320)
        packets = []
        for block in dct(blocks, axis=1, norm="ortho"):
            level = int(np.ceil(np.log2(np.abs(block[: size - 1]).max() + 1e-9)))
            quantized = np.clip(np.rint(block[: size - 1] / 2.0**level * 127), -127, 127)
            packets.append(struct.pack("b", level) + quantized.astype(np.int8).tobytes())
        return struct.pack(">IH", wave.size, size) + b"".join(packets)

    def decode_lossy(self, data: bytes, lost: np.ndarray) -> np.ndarray:
        wave = self.decode(data)
        gone = np.repeat(lost, 320)[: wave.size]
        return np.where(gone, 0, wave).astype(np.float32)

    def decode(self, data: bytes) -> np.ndarray:
        assert isinstance(data, bytes)
        num_samples, size = struct.unpack_from(">IH", data)
        if self.flaw == "short":
            num_samples -= 1
        blocks = []
        for packet in toy_packets(data):
            block = np.zeros(320)
            levels = np.frombuffer(packet[1:], np.int8)
            block[: size - 1] = levels * 2.0 ** struct.unpack_from("b", packet)[0] / 127
            blocks.append(idct(block, norm="ortho"))
        return np.concatenate([*blocks, np.zeros(0)])[:num_samples].astype(np.float32)


def toy_packets(data: bytes) -> list[bytes]:
    size = struct.unpack_from(">H", data, 4)[0]
    return [data[i : i + size] for i in range(HEADER, len(data), size)]


def syllables(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 110 + 10 * seed
    voice = sum(np.sin(2 * np.pi * pitch * k * t + k * k) / k for k in range(1, 30))
    wave = voice * np.clip(np.sin(2 * np.pi * 1.5 * t), 0, None)
    return (0.5 * wave / np.abs(wave).max() + 1e-3 * rng.standard_normal(t.size)).astype("f4")


@pytest.fixture()
def clips(tmp_path: Path) -> list[Path]:
    """One plain clip, one at 48 kHz in stereo, one too short for PESQ, one silent, no audio."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    paths = [folder / name for name in ("a.wav", "sub/b.flac", "c.wav", "d.wav", "e.wav")]
    soundfile.write(paths[0], syllables(2.01, 1), RATE)
    wide = np.repeat(syllables(1.5, 2), 3)
    soundfile.write(paths[1], np.stack([wide, wide], axis=1), 3 * RATE)
    soundfile.write(paths[2], syllables(0.1, 3), RATE)
    soundfile.write(paths[3], np.zeros(RATE), RATE)
    paths[4].write_bytes(b"no audio")
    return paths


toy = partial(evaluate, ToyCodec, packets_of=toy_packets)


def test_clip_scores_are_those_of_the_decoded_bytes(clips: list[Path]) -> None:
    result = toy(clips[:1], [24, 8])
    assert [c.bitrate_kbps for c in result.clips] == [8, 24]
    assert result.failures == []
    assert result.weights == "c0dec123"
    x = soundfile.read(clips[0], dtype="float32")[0]
    for clip, row in zip(result.clips, result.summary, strict=True):
        codec = ToyCodec()
        data = codec.encode(x, RATE, bitrate=clip.bitrate_kbps)
        y = to_int16(codec.decode(data)) / 32768
        assert clip.file == "a.wav"
        assert clip.duration_s == pytest.approx(2.01)
        assert clip.scores["psnr_db"] == psnr(x, y)
        assert clip.scores["pesq_wb"] == pesq_wb(x, y)
        assert clip.payload_kbps == pytest.approx(clip.bitrate_kbps)
        # 2.01 s fill 101 packets of 20 ms; the file has a header besides
        expected = 8e-3 * (HEADER + 101 * clip.bitrate_kbps * 2.5) / 2.01
        assert clip.measured_kbps == pytest.approx(expected)
        assert row["measured_kbps"] == pytest.approx(expected, abs=1e-4)
        assert row["payload_kbps"] == clip.bitrate_kbps
        assert row["pesq_wb"] == row["pesq_wb_q05"] == pytest.approx(clip.scores["pesq_wb"], 1e-4)
        assert (row["clips"], row["failures"]) == (1, 0)
        assert clip.encode_s > 0
        assert row["encode_x_realtime"] == pytest.approx(2.01 / clip.encode_s, rel=1e-3)
        assert row["decode_x_realtime"] == pytest.approx(2.01 / clip.decode_s, rel=1e-3)
    assert result.summary[1]["psnr_db"] > result.summary[0]["psnr_db"] + 3


def test_summary_over_clips(clips: list[Path]) -> None:
    result = toy(clips[:2], [16])
    row = result.summary[0]
    values = [clip.scores["psnr_db"] for clip in result.clips]
    assert row["psnr_db"] == pytest.approx(np.mean(values), abs=1e-4)
    assert row["psnr_db_q05"] == pytest.approx(np.quantile(values, 0.05), abs=1e-4)
    assert row["psnr_db_q95"] == pytest.approx(np.quantile(values, 0.95), abs=1e-4)
    assert row["psnr_db_q05"] < row["psnr_db"] < row["psnr_db_q95"]
    total = sum(clip.duration_s for clip in result.clips)
    assert total == pytest.approx(3.51)  # the 48 kHz clip counts at 16 kHz
    num_bytes = 2 * HEADER + 40 * (101 + 75)
    assert row["measured_kbps"] == pytest.approx(8e-3 * num_bytes / total, abs=1e-4)


def test_failures_are_listed_and_the_rest_stays(clips: list[Path]) -> None:
    result = toy(clips, [13.2])
    found = {(f["file"], f["metric"]): f["reason"] for f in result.failures}
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
    assert "libsndfile" in found["e.wav", "audio"]
    short = result.clips[2]
    assert short.scores["pesq_wb"] is None
    assert short.scores["psnr_db"] > 0
    row = result.summary[0]
    assert (row["clips"], row["failures"]) == (5, 6)
    good = [result.clips[0].scores["pesq_wb"], result.clips[1].scores["pesq_wb"]]
    assert row["pesq_wb"] == pytest.approx(np.mean(good), abs=1e-4)


@pytest.mark.parametrize(
    "flaw, reason", [("raise", "RuntimeError: too loud"), ("short", "32000 samples went in, 31999")]
)
def test_a_clip_that_breaks_the_codec(tmp_path: Path, flaw: str, reason: str) -> None:
    soundfile.write(tmp_path / "loud.wav", 1.9 * syllables(2.0, 1), RATE)
    result = evaluate(partial(ToyCodec, flaw), [tmp_path / "loud.wav"], [8], packets_of=toy_packets)
    assert [f["metric"] for f in result.failures] == ["codec"]
    assert reason in result.failures[0]["reason"]
    assert result.summary[0]["pesq_wb"] is None
    assert result.summary[0]["measured_kbps"] is None
    json.loads(result.to_json())
    assert "-" in summary_table(result).splitlines()[2]


def test_perfect_decoding_is_not_an_infinite_mean(
    clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = soundfile.read(clips[0], dtype="float32")[0]
    monkeypatch.setattr(ToyCodec, "decode", lambda self, data: x)
    result = toy(clips[:1], [8])
    assert result.failures[0]["metric"] == "psnr_db"
    assert "inf" in result.failures[0]["reason"]
    assert json.loads(result.to_json())["summary"][0]["psnr_db"] is None


def test_workers_give_the_same_scores(clips: list[Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    here = toy(clips, [8, 16], peers=[ToyPeer()], save_audio=tmp_path / "one")
    there = toy(
        clips,
        [8, 16],
        jobs=2,
        peers=[ToyPeer()],
        save_audio=tmp_path / "two",
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(i, 20) for i in range(1, 21)]
    for one, two in zip(here.clips, there.clips, strict=True):
        assert (one.file, one.codec, one.bitrate_kbps) == (two.file, two.codec, two.bitrate_kbps)
        assert (one.num_bytes, one.failures) == (two.num_bytes, two.failures)
        assert one.scores.keys() == two.scores.keys()
        for name, score in one.scores.items():  # the order of sums differs with the threads
            other = two.scores[name]
            assert score is other is None or score == pytest.approx(other, rel=1e-9)
    names = ["16/a.wav", "16/c.wav", "16/d.wav", "16/sub/b.wav"]
    for folder in ("one", "two"):
        written = (tmp_path / folder).glob("16/**/*.wav")
        assert sorted(p.relative_to(tmp_path / folder).as_posix() for p in written) == names
    y = soundfile.read(tmp_path / "two" / "16" / "a.wav")[0]
    x = soundfile.read(clips[0])[0]
    assert psnr(x, y) == pytest.approx(there.clips[1].scores["psnr_db"], abs=1e-4)


def test_a_dead_worker_is_one_clear_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 1.9 * syllables(1.0, 1), RATE)
    loader = partial(ToyCodec, "die")
    with pytest.raises(ev.EvalError, match="worker process died"):
        evaluate(loader, [tmp_path / "loud.wav"], [8], jobs=2, packets_of=toy_packets)


def test_names_stay_apart() -> None:
    paths = [Path("/x/s/a.wav"), Path("/x/s/a.flac"), Path("/x/t/b.ogg")]
    assert ev._relative_names(paths, None) == ["s/a.wav", "s/a.flac", "t/b.ogg"]
    assert ev._relative_names(paths, "/x/s") == ["a.wav", "a.flac", "../t/b.ogg"]
    assert ev._wav_names(["s/a.wav", "s/a.flac", "t/b.ogg"]) == [
        "s/a.wav.wav",
        "s/a.flac.wav",
        "t/b.wav",
    ]


def test_arguments(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for kwargs, message in [
        ({"files": []}, "no audio files"),
        ({"rates_kbps": []}, "no rates"),
        ({"jobs": 0}, "jobs must be"),
        ({"extra_metrics": ["polqa"]}, "unknown metric 'polqa'"),
    ]:
        with pytest.raises(ValueError, match=message):
            toy(**{"files": clips, "rates_kbps": [8], **kwargs})

    def missing(name: str) -> None:
        raise MetricError(f"{name} is not installed")

    monkeypatch.setattr(ev.metrics, "require", missing)
    with pytest.raises(MetricError, match="visqol is not installed"):
        toy(clips, [8], extra_metrics=["visqol"])


def test_files_and_table(
    clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ev.metrics, "require", lambda name: None)
    monkeypatch.setitem(ev.EXTRA_METRICS, "dnsmos", lambda reference, decoded: 3.125)
    result = toy(clips[:3], [8, 16], extra_metrics=["dnsmos"], root=tmp_path)
    scores, summary = write_results(result, tmp_path / "new" / "out")
    rows = list(csv.DictReader(io.StringIO(scores.read_text())))
    columns = "file codec nominal_bps actual_bps pesq_wb psnr_db estoi "
    columns += "payload_bps encode_s decode_s duration_s dnsmos"
    assert list(rows[0]) == columns.split()
    assert [(r["file"], r["codec"], r["nominal_bps"]) for r in rows[:3]] == [
        ("in/a.wav", "nsvq", "8000"),
        ("in/a.wav", "nsvq", "16000"),
        ("in/sub/b.flac", "nsvq", "8000"),
    ]
    assert [r["payload_bps"] for r in rows[:2]] == ["8000", "16000"]
    assert int(rows[0]["actual_bps"]) == pytest.approx(8000 + 8 * (HEADER + 1) / 2.01, abs=40)
    assert rows[4]["file"] == "in/c.wav"
    assert rows[4]["pesq_wb"] == ""
    assert rows[4]["dnsmos"] == "3.1250"
    content = json.loads(summary.read_text())
    assert content["weights"] == "c0dec123"
    assert (content["rates_kbps"], content["files"], content["losses"]) == ([8, 16], 3, [])
    assert len(content["failures"]) == 4
    assert {"pesq", "pystoi", "speechmos"} >= set(content["versions"]) - {"numpy", "scipy"}
    assert "pesq" in content["versions"]
    required = "bitrate_kbps measured_kbps payload_kbps pesq_wb psnr_db estoi dnsmos clips failures"
    required += "".join(f" estoi_{key}" for key in ("low", "high", "q05", "q95"))
    assert {*required.split(), "encode_x_realtime", "decode_x_realtime"} <= set(
        content["summary"][0]
    )
    lines = summary_table(result).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:4] == ["kbit/s", "measured", "payload", "PESQ"]
    assert "DNSMOS" in lines[0] and "ViSQOL" not in lines[0]
    assert lines[3].split()[:1] == ["16.0"]


def test_losses_are_those_of_the_peers() -> None:
    """The pattern depends on the clip's name alone, and higher losses contain lower ones."""
    seed = zlib.crc32(b"sub/b.flac")
    drawn = np.random.Generator(np.random.PCG64(seed)).random(400)
    before = np.zeros(400, np.bool_)
    for percent in (0, 3, 6, 10, 50):
        lost = ev.lost_packets("sub/b.flac", 400, percent)
        assert not lost[:5].any()
        np.testing.assert_array_equal(lost[5:], drawn[5:] < percent / 100)
        assert lost[before].all()
        before = lost
    # A longer clip of the same name begins with the same losses.
    np.testing.assert_array_equal(ev.lost_packets("sub/b.flac", 900, 50)[:400], before)
    assert (ev.lost_packets("sub/c.flac", 400, 50) != before).any()


def test_every_rate_is_scored_with_every_loss(clips: list[Path], tmp_path: Path) -> None:
    result = evaluate(
        ToyCodec, clips[:2], [16, 32], losses=[10, 3, 0], packets_of=toy_packets,
        save_audio=tmp_path / "audio",
    )  # fmt: skip
    rows = [(r["bitrate_kbps"], r["loss_percent"]) for r in result.summary]
    assert rows == [(rate, loss) for rate in (16, 32) for loss in (0, 3, 10)]
    assert not result.failures and result.independent
    quality = {(c.file, c.bitrate_kbps, c.loss_percent): c.scores["psnr_db"] for c in result.clips}
    assert len(quality) == 12
    for (file, rate, loss), value in quality.items():
        assert value is not None
        if loss:
            lost = ev.lost_packets(file, 500, loss)[: 100 if file == "a.wav" else 75]
            assert lost.any() == (value < quality[file, rate, 0])
    table = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [row["loss_percent"] for row in table[:3]] == ["0", "3", "10"]
    assert "loss %" in summary_table(result).splitlines()[0]
    assert (tmp_path / "audio/16/a.loss10.wav").is_file()
    with pytest.raises(ValueError, match="outside 0..100"):
        evaluate(ToyCodec, clips[:1], [16], losses=[120], packets_of=toy_packets)


def test_results_without_losses_do_not_mention_them(clips: list[Path]) -> None:
    result = evaluate(ToyCodec, clips[:1], [16], packets_of=toy_packets)
    assert "loss" not in result.to_csv() and "loss" not in summary_table(result)
    assert all("loss_percent" not in row for row in result.summary)
    with pytest.raises(ValueError, match="not scored with losses"):
        evaluate(ToyCodec, clips[:1], [16], losses=[3], peers=[ToyPeer()], packets_of=toy_packets)


# ---------------------------------------------------------------------------- other codecs


class ToyPeer:
    """Another codec: late, filtered, with half a dB less; it breaks on loud clips if told to."""

    name = "toy"

    def __init__(self, delay: int = 37, flaw: bool = False) -> None:
        self.delay, self.flaw = delay, flaw

    def rates(self, asked: Sequence[float]) -> list[float]:
        return sorted({8 * max(1, round(rate / 8)) + 0.5 for rate in asked})

    def code(self, wave: np.ndarray, kbps: float) -> Coded:
        if self.flaw and np.abs(wave).max() > 0.9:
            raise PeerError("toy: toyenc failed with exit code 1")
        codec = ToyCodec()
        decoded = codec.decode(codec.encode(wave, RATE, kbps))
        late = np.concatenate([np.zeros(self.delay), decoded, np.zeros(100)])
        late = np.rint(lfilter([0.7, 0.2], [1], late) * 32768) / 32768
        num_bytes = round(kbps * 250)
        return Coded(late.astype(np.float32), num_bytes, 100, 0.020, 0.25, 0.125)


def of_codec(result: ev.EvalResult, codec: str) -> list[ev.ClipScore]:
    return [clip for clip in result.clips if clip.codec == codec]


def test_peers_are_aligned_and_mapped(clips: list[Path], tmp_path: Path) -> None:
    """A peer's delay costs it nothing; its filtering costs it nothing in pSNR."""
    result = toy(clips[:2], [8, 16], peers=[ToyPeer()], save_audio=tmp_path)
    assert [c.codec for c in result.clips] == ["nsvq"] * 4 + ["toy"] * 4
    x = soundfile.read(clips[0], dtype="float32")[0]
    coded = ToyPeer(delay=0).code(x, 8.5)
    aligned = coded.wave[: x.size].astype(float)
    clip = of_codec(result, "toy")[0]
    assert (clip.file, clip.bitrate_kbps, clip.measured_kbps) == ("a.wav", 8.5, 8.5)
    assert clip.scores["pesq_wb"] == pytest.approx(pesq_wb(x, aligned), rel=1e-6)
    mapped = psnr(x, fir_map(x, aligned))
    assert clip.scores["psnr_db"] == pytest.approx(mapped, abs=1e-3)
    assert mapped > psnr(x, aligned) + 1
    np.testing.assert_allclose(
        soundfile.read(tmp_path / "toy" / "8.5" / "a.wav")[0], aligned, atol=1e-9
    )
    assert clip.audio == tmp_path / "toy" / "8.5" / "a.wav"
    # Our own scores are what they are without peers.
    alone = toy(clips[:2], [8, 16])
    assert [c.scores["estoi"] for c in alone.clips] == pytest.approx(
        [c.scores["estoi"] for c in of_codec(result, "nsvq")], rel=1e-9
    )
    rows = [row for row in result.summary if row["codec"] == "toy"]
    assert [row["bitrate_kbps"] for row in rows] == [8.5, 16.5]
    assert rows[0]["measured_kbps"] == 8.5
    assert rows[0]["encode_x_realtime"] == pytest.approx((2.01 + 1.5) / 0.5, rel=1e-3)


def test_a_clip_that_breaks_a_peer(tmp_path: Path) -> None:
    for index, gain in enumerate((1.0, 1.9)):
        soundfile.write(tmp_path / f"{index}.wav", gain * syllables(2.0, 1), RATE)
    (tmp_path / "2.wav").write_bytes(b"no audio")
    files = sorted(tmp_path.glob("*.wav"))
    result = toy(files, [8], peers=[ToyPeer(flaw=True)])
    found = [(f["file"], f["codec"], f["metric"], f["reason"]) for f in result.failures]
    assert ("1.wav", "toy", "codec", "toy: toyenc failed with exit code 1") in found
    assert [f[:3] for f in found if f[0] == "2.wav"] == [
        ("2.wav", "nsvq", "audio"),
        ("2.wav", "toy", "audio"),
    ]
    assert len(found) == 3
    row = result.summary[1]
    assert (row["codec"], row["clips"], row["failures"]) == ("toy", 3, 2)
    assert row["pesq_wb"] is not None
    assert row["pesq_wb_low"] is None  # one clip says nothing about others
    assert result.comparison[0]["pesq_wb_clips"] == 1
    assert result.comparison[0]["pesq_wb_low"] is None
    json.loads(result.to_json())


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
    result = toy(clips[:2], [8, 16, 24], peers=[ToyPeer()], published=scores, baseline="old")
    assert list(dict.fromkeys(row["codec"] for row in result.summary)) == [
        "nsvq",
        "toy",
        "old",
        "part",
    ]
    row = next(row for row in result.summary if row["codec"] == "old")
    assert (row["bitrate_kbps"], row["measured_kbps"], row["clips"]) == (8, 8.1, 2)
    assert row["pesq_wb"] == pytest.approx(1.85)
    assert row["estoi"] is None and row["encode_x_realtime"] is None and row["published"]
    notes = "\n".join(result.notes)
    assert len(result.notes) == 5
    assert "scores of toy are left out: it runs here" in notes
    assert "scores of part are of 1 of 2 clips only" in notes
    assert "scores of none are left out" in notes
    assert "published rows of clips that are not in this run: 3" in notes
    assert "old has no rate within 15 % of 24 kbit/s" in notes
    assert [row["bitrate_kbps"] for row in result.comparison] == [8, 16]
    ours = [c.scores["pesq_wb"] for c in of_codec(result, "nsvq") if c.bitrate_kbps == 16]
    assert result.comparison[1]["baseline_kbps"] == 16.1
    assert result.comparison[1]["pesq_wb_difference"] == pytest.approx(
        np.mean(ours) - 2.65, abs=1e-4
    )
    assert result.comparison[1]["estoi_difference"] is None
    saved = {(row["codec"], row["metric"]): row for row in result.rate_saved}
    assert set(saved) == {(c, m) for c in ("toy", "old", "part") for m in ev.METRICS}
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
    row = next(row for row in result.rate_saved if row["percent"] is not None)
    assert row["clips"] > 1 and row["low"] is not None
    assert f"{row['percent']:.0f} % [{row['low']:.0f}, {row['high']:.0f}] at" in text
    row["low"] = row["high"] = None
    assert f"{row['percent']:.0f} % [uncertain] at" in rate_saved_table(result)
    assert "published" in others_table(result) and "made here" in others_table(result)


def test_published_scores_of_other_metrics(clips: list[Path]) -> None:
    scores = [PublishedScore("a.wav", "old", 8000, scores={"visqol": 3.0})]
    result = toy(clips[:1], [8], published=scores)
    assert [row["codec"] for row in result.summary] == ["nsvq"]
    assert "old are left out where they are of other metrics only" in result.notes[0]


def test_names_of_codecs(clips: list[Path]) -> None:
    scores = published_toy(["a.wav"], "nsvq")
    with pytest.raises(ValueError, match="call ours otherwise with --name"):
        toy(clips[:1], [8], published=scores)
    result = toy(clips[:1], [8], published=scores, name="new")
    assert (result.name, result.baseline) == ("new", "nsvq")
    summary, saved = ev.rows_for_plots(result)
    assert [row["codec"] for row in summary] == ["nsvq", *["nsvq (published)"] * 3]
    assert {row["codec"] for row in saved} == {"nsvq (published)"}
    with pytest.raises(ValueError, match="baseline 'opus' is not in this run; choose from nsvq"):
        toy(clips[:1], [8], published=scores, name="new", baseline="opus")
    with pytest.raises(ValueError, match="two codecs of this run are called 'toy'"):
        toy(clips[:1], [8], name="toy", peers=[ToyPeer()])


def test_scores_of_one_run_are_read_by_the_next(clips: list[Path], tmp_path: Path) -> None:
    first = toy(clips[:3], [8, 16], name="old")
    path, _ = write_results(first, tmp_path / "out")
    second = toy(clips[:3], [8, 16], published=read_scores([path]))
    for ours, theirs in zip(of_codec(second, "nsvq"), of_codec(second, "old"), strict=True):
        assert (ours.file, ours.bitrate_kbps) == (theirs.file, theirs.bitrate_kbps)
        assert theirs.measured_kbps == pytest.approx(ours.measured_kbps, abs=1e-3)
        assert ours.scores.keys() == theirs.scores.keys()
        for name, score in ours.scores.items():
            other = theirs.scores[name]
            assert score is other is None or score == pytest.approx(other, abs=1e-4)
    for row in second.comparison:
        assert row["psnr_db_difference"] == pytest.approx(0, abs=1e-4)
        assert (row["psnr_db_clips"], row["pesq_wb_clips"]) == (3, 2)
    saved = {row["metric"]: row["percent"] for row in second.rate_saved}
    assert saved["psnr_db"] == pytest.approx(0, abs=0.01)


# ---------------------------------------------------------------------------- published scores


HEAD = "file,codec,nominal_bps,actual_bps,pesq_wb,psnr_db,estoi\n"


def test_read_scores(tmp_path: Path) -> None:
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    a.write_text(HEAD + "x/1.wav,evs,8000,8010,3.0,7.0,\nx/1.wav,evs,9600,,3.1,,.8\n")
    b.write_text(
        "file,codec,nominal_bps,visqol_speech,dnsmos_ovrl,other\n"
        "x/1.wav,ref,0,4.5,3.5,0\nx/1.wav,evs,8000,4.0,3.0,0\n"
    )
    first, second = read_scores([a, b])
    assert (first.file, first.codec, first.nominal_bps) == ("x/1.wav", "evs", 8000)
    assert first.actual_bps == 8010
    assert first.scores == {
        "pesq_wb": 3.0, "psnr_db": 7.0, "estoi": None, "visqol": 4.0, "dnsmos": 3.0
    }  # fmt: skip
    assert (second.nominal_bps, second.actual_bps) == (9600, None)
    assert read_scores([]) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("codec,taste\nopus,good\n", "line 1: no column file, nominal_bps"),
        ("", "line 1: no column file, codec, nominal_bps"),
        ("file,codec,nominal_bps,actual_bps\n", "line 1: no column of a metric"),
        ("file,codec,nominal_bps,loss_percent,estoi\n", "packet loss"),
        ("file,codec,nominal_bps,visqol,visqol_speech\n", "line 1: visqol and visqol_speech"),
        (HEAD, "has no scores"),
        (HEAD + "a,x,8000,8000,1,1,1\na,x,9600,9600,good,1,1\n", "line 3: pesq_wb is 'good'"),
        (HEAD + "a,x,8000,8000,nan,1,1\n", "line 2: pesq_wb is 'nan', not a number"),
        (HEAD + "a,x,8000,8000,1,1\n", "line 2 has not as many cells"),
        (HEAD + "a,x,8000,8000,1,1,1,1\n", "line 2 has not as many cells"),
        (HEAD + ",x,8000,8000,1,1,1\n", "line 2: no file"),
        (HEAD + "a,x,,8000,1,1,1\n", "line 2: no nominal_bps"),
        (HEAD + "a,x,8000,-1,1,1,1\n", "line 2: actual_bps is -1, not positive"),
        (HEAD + "a,x,8000,8000,1,1,1\n" * 2, "line 3: the same clip, codec and rate as line 2"),
        ('"' + HEAD, "is no CSV"),
        ("\xff", "is no text in UTF-8"),
    ],
)
def test_wrong_scores(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError) as caught:
        read_scores([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_that_contradict_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, score in zip(paths, ("3.0", "3.5"), strict=True):
        path.write_text(HEAD + f"a,evs,8000,8000,{score},7,.9\n")
    with pytest.raises(ValueError, match="b.csv: line 2: pesq_wb of a, evs at 8000 bit/s"):
        read_scores(paths)


# ---------------------------------------------------------------------------- clips to hear


def test_clips_to_hear(clips: list[Path], tmp_path: Path) -> None:
    chosen = ev.choose_clips(clips, 3)  # silent d and unreadable e give way
    assert [path.name for path in chosen] == ["a.wav", "b.flac", "c.wav"]
    assert ev.choose_clips(clips[3:], 2) == []
    assert ev.choose_clips(clips[:1], 4) == clips[:1]
    assert ev.choose_clips([clips[0]] * 0, 4) == []
    result = toy(
        clips, [8, 16], peers=[ToyPeer()], save_audio=tmp_path / "kept", save_files=chosen[1:]
    )
    assert len(list((tmp_path / "kept").rglob("*.wav"))) == 8
    assert {clip.file for clip in result.clips if clip.audio} == {"sub/b.flac", "c.wav"}
    (heard,) = ev.clips_to_hear(result, [clips[1], clips[3]])  # of d nothing was kept
    assert heard.name == "sub/b.flac"
    assert heard.reference.shape == (24000,)
    assert [(sound.codec, sound.bitrate_kbps) for sound in heard.sounds] == [
        ("nsvq", 8),
        ("nsvq", 16),
        ("toy", 8.5),
        ("toy", 16.5),
    ]
    toy_sound = heard.sounds[2]
    assert toy_sound.measured_kbps == 8.5 and toy_sound.wave.dtype == np.float32
    assert psnr(heard.reference, fir_map(heard.reference, toy_sound.wave)) == pytest.approx(
        toy_sound.scores["psnr_db"], abs=1e-6
    )
    # A clip without any score is nothing to compare.
    for clip in result.clips:
        clip.scores = dict.fromkeys(clip.scores)
    assert ev.clips_to_hear(result, clips) == []


def test_evenly_spaced_clips(tmp_path: Path) -> None:
    files = [tmp_path / f"{index:02}.wav" for index in range(10)]
    for file in files:
        soundfile.write(file, np.full(100, 0.1), RATE)
    assert [int(path.stem) for path in ev.choose_clips(files, 4)] == [0, 2, 5, 7]
    files[5].write_bytes(b"no audio")
    assert [int(path.stem) for path in ev.choose_clips(files, 4)] == [0, 2, 6, 7]
