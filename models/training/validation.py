"""Scores on validation clips: of the graph while it trains, and of the codec that comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from codec.config import REPORT_RATES_KBPS, SAMPLE_RATE
from evaluation.metrics import MetricError, pesq_wb, psnr
from models.codec_net import CodecNet
from models.training.sampling import frame_bytes, num_frames, num_samples

LISTEN_KBPS = 13.2
GRAPH_CLIPS, GRAPH_SECONDS, CODEC_CLIPS = 8, 5.0, 20

# Waveform float32 [T] and kbit/s in, decoded waveform [T] out.
Coder = Callable[[np.ndarray, float], np.ndarray]


def score_clips(
    code: Coder, clips: Sequence[np.ndarray], rates: Sequence[float] = REPORT_RATES_KBPS
) -> list[dict[str, float]]:
    """Code and decode clips at each rate; returns the mean scores.

    Parameters
    ----------
    code : Coder
    clips : sequence of float32 arrays, shape [T]
    rates : sequence of float   kbit/s

    Returns
    -------
    list of dict   bitrate_kbps, pesq_wb, psnr_db; no entry for a rate at which no clip has scores
    """
    rows = []
    for rate in rates:
        scores = []
        for clip in clips:
            decoded = code(clip, rate)
            try:
                scores.append((pesq_wb(clip, decoded), psnr(clip, decoded)))
            except MetricError:
                continue
        if scores:
            pesq, quality = (round(float(mean), 4) for mean in np.mean(scores, axis=0))
            rows.append({"bitrate_kbps": rate, "pesq_wb": pesq, "psnr_db": quality})
    return rows


def describe(rows: Sequence[dict[str, float]]) -> str:
    """Return the scores as one line of text."""
    return "  ".join(f"{r['pesq_wb']:.2f}/{r['psnr_db']:.1f}" for r in rows) or "no scores"


def to_float(clips: Sequence[np.ndarray], seconds: float | None = None) -> list[np.ndarray]:
    """Return int16 clips as float32 within ±1, at most so long, cut to whole frames."""
    limit = None if seconds is None else int(seconds * SAMPLE_RATE)
    cut = [clip[:limit] for clip in clips]
    if seconds is not None:
        cut = [clip[: max(num_samples(num_frames(len(clip))), 0)] for clip in cut]
    return [clip.astype(np.float32) / 32768 for clip in cut]


def graph_coder(net: CodecNet) -> Coder:
    """Return a coder that runs the graph: hard quantization, Laplace bits."""
    device = next(net.parameters()).device

    @torch.no_grad()
    def code(clip: np.ndarray, rate_kbps: float) -> np.ndarray:
        frames = num_frames(len(clip))
        if frames == 0:
            return np.zeros(0, np.float32)
        bits = torch.full((1, frames), 8.0 * frame_bytes(rate_kbps), device=device)
        stages = torch.tensor([net.config.num_stages], device=device)
        torch.manual_seed(0)
        out = net.eval()(torch.from_numpy(clip)[None].to(device), bits, stages)
        waveform: np.ndarray = out.waveform[0].cpu().numpy()
        return waveform

    return code
