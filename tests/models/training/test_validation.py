"""Scores of clips, by the graph and by any coder."""

import numpy as np
import torch
from conftest import synthetic_speech
from small_runs import TINY

from models.codec_net import CodecNet
from models.training.validation import describe, graph_coder, score_clips, to_float


def test_more_noise_scores_lower() -> None:
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)

    def code(clip: np.ndarray, rate: float) -> np.ndarray:
        return clip + 0.1 / rate * noise

    rows = score_clips(code, [synthetic_speech(1.0, 1)], (8.0, 32.0))
    assert [row["bitrate_kbps"] for row in rows] == [8.0, 32.0]
    assert rows[0]["pesq_wb"] < rows[1]["pesq_wb"] and rows[0]["psnr_db"] < rows[1]["psnr_db"]
    assert describe(rows).count("/") == 2


def test_clips_that_cannot_be_scored_are_left_out() -> None:
    clips = [np.zeros(16000, np.float32), np.zeros(0, np.float32)]
    assert score_clips(lambda clip, rate: clip, clips, (8.0,)) == []
    assert describe([]) == "no scores"
    both = score_clips(lambda clip, rate: clip, [*clips, synthetic_speech(1.0, 1)], (8.0,))
    assert len(both) == 1 and both[0]["pesq_wb"] > 4.5


def test_the_graph_codes_whole_frames() -> None:
    torch.manual_seed(0)
    code = graph_coder(CodecNet(TINY))
    clips = to_float([(20000 * synthetic_speech(1.0, 1)).astype(np.int16)], 0.5)
    assert len(clips[0]) == 25 * 320 - 160
    decoded = code(clips[0], 13.2)
    assert decoded.shape == clips[0].shape and np.isfinite(decoded).all()
    np.testing.assert_array_equal(decoded, code(clips[0], 13.2))
    assert len(code(np.zeros(100, np.float32), 13.2)) == 0
