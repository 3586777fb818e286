"""Evaluation with a toy codec: rates, scores, failures, workers, files and the plot."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.fft import dct, idct

from codec import evaluate as ev
from codec.audio import to_int16
from codec.evaluate import evaluate, summary_table, write_results
from codec.metrics import MetricError, pesq_wb, psnr
from codec.report import plot_rate_quality, read_peers

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
    here = toy(clips, [8, 16], save_audio=tmp_path / "one")
    there = toy(
        clips,
        [8, 16],
        jobs=2,
        save_audio=tmp_path / "two",
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(i, 10) for i in range(1, 11)]
    for one, two in zip(here.clips, there.clips, strict=True):
        assert (one.file, one.bitrate_kbps) == (two.file, two.bitrate_kbps)
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
    columns = "file bitrate_kbps measured_kbps payload_kbps pesq_wb psnr_db estoi "
    columns += "encode_s decode_s duration_s dnsmos"
    assert list(rows[0]) == columns.split()
    assert [(r["file"], r["bitrate_kbps"]) for r in rows[:3]] == [
        ("in/a.wav", "8"),
        ("in/a.wav", "16"),
        ("in/sub/b.flac", "8"),
    ]
    assert rows[4]["file"] == "in/c.wav"
    assert rows[4]["pesq_wb"] == ""
    assert rows[4]["dnsmos"] == "3.1250"
    content = json.loads(summary.read_text())
    assert content["weights"] == "c0dec123"
    assert len(content["failures"]) == 4
    required = "bitrate_kbps measured_kbps payload_kbps pesq_wb psnr_db estoi dnsmos clips failures"
    assert {*required.split(), "encode_x_realtime", "decode_x_realtime"} <= set(
        content["summary"][0]
    )
    lines = summary_table(result).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:4] == ["kbit/s", "measured", "payload", "PESQ"]
    assert "DNSMOS" in lines[0] and "ViSQOL" not in lines[0]
    assert lines[3].split()[:1] == ["16.0"]


# ---------------------------------------------------------------------------- the plot


PEERS = """file,codec,nominal_bps,actual_bps,pesq_wb,psnr_db,estoi
a,opus,16000,16400,4.0,11.0,.9
a,opus,8000,8000,3.0,7.0,.8
b,opus,8000,9000,3.5,,.8
a,toy,8000,8000,1.0,2.0,.1
"""


def test_read_peers(tmp_path: Path) -> None:
    path = tmp_path / "peers.csv"
    path.write_text(PEERS)
    assert read_peers(path) == {
        "opus": {
            "pesq_wb": [(8.5, 3.25), (16.4, 4.0)],
            "psnr_db": [(8.5, 7.0), (16.4, 11.0)],
        },
        "toy": {"pesq_wb": [(8.0, 1.0)], "psnr_db": [(8.0, 2.0)]},
    }
    path.write_text("file,codec\na,b\n")
    with pytest.raises(ValueError, match="no column nominal_bps"):
        read_peers(path)
    path.write_text(PEERS + "a,toy,9600,x,1.0,2.0,.1\n")
    with pytest.raises(ValueError, match="line 6 is malformed"):
        read_peers(path)


def test_plot(clips: list[Path], tmp_path: Path) -> None:
    from matplotlib.image import imread

    (tmp_path / "peers.csv").write_text(PEERS)
    result = toy(clips[:2], [8, 16])
    plot_rate_quality(result, tmp_path / "a.png")
    plot_rate_quality(result, tmp_path / "b.png", tmp_path / "peers.csv")
    plot_rate_quality(result.summary[:1], tmp_path / "c.png")
    images = [imread(tmp_path / f"{name}.png") for name in "abc"]
    for image in images:
        height, width = image.shape[:2]
        assert width > 1000 and height > 500
        assert 0.001 < np.mean(image[..., :3].min(axis=-1) < 0.5) < 0.5  # some ink, not a slab
    assert np.abs(images[0] - images[1]).mean() > 1e-4


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
