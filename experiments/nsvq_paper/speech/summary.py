"""Summary and table of the speech experiment."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.bootstrap import bootstrap_mean
from experiments.nsvq_paper.methods import METHOD_NAMES as LABELS
from experiments.nsvq_paper.speech.settings import PAPER, RATES

STATS = ("_mean", "_std", "_min", "_max")


def interval(values: list[float]) -> dict[str, float]:
    """Return the mean and the quantiles between which 95 % of the values lie."""
    low, high = np.quantile(values, (0.025, 0.975))
    return {
        "mean": round(float(np.mean(values)), 4),
        "q025": round(float(low), 4),
        "q975": round(float(high), 4),
    }


def summarise_vq(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per way of training: mean, spread and extremes over the seeds."""
    rows = []
    keys = ("networks", "replacement", "estimator")
    for key in dict.fromkeys(tuple(run[k] for k in keys) for run in runs):
        own = [run for run in runs if tuple(run[k] for k in keys) == key]
        rms = np.array([run["rms_db"] for run in own])
        row = dict(zip(keys, key, strict=True)) | {
            "rms_db_mean": rms.mean(),
            "rms_db_std": rms.std(ddof=1),
            "rms_db_min": rms.min(),
            "rms_db_max": rms.max(),
            "perplexity_mean": np.mean([run["perplexity"] for run in own]),
            "dead_mean": np.mean([run["dead"] for run in own]),
        }
        rows.append({k: round(float(v), 4) if k.endswith(STATS) else v for k, v in row.items()})
    return rows


def summarise_codec(runs: list[dict[str, Any]], rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return a row per estimator and rate: over all clips and seeds, and the seeds' means."""
    rows = []
    for estimator in dict.fromkeys(run["estimator"] for run in runs):
        for rate in rates:
            row: dict[str, Any] = {"estimator": estimator, "bitrate_kbps": rate}
            for metric in ("pesq_wb", "psnr_db"):
                seeds = [
                    [v for v in run["scores"][f"{rate:g}"][metric] if v is not None]
                    for run in runs
                    if run["estimator"] == estimator
                ]
                row[metric] = interval([v for values in seeds for v in values])
                row[metric]["seed_means"] = [round(float(np.mean(values)), 4) for values in seeds]
            rows.append(row)
    return rows


def differences(runs: list[dict[str, Any]], rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return NSVQ minus each other estimator: mean over seeds and clips, 95 % interval."""

    def clip_means(estimator: str, rate: float, metric: str) -> np.ndarray:
        own = [run["scores"][f"{rate:g}"][metric] for run in runs if run["estimator"] == estimator]
        return np.mean(np.array(own, dtype=np.float64), axis=0)  # a clip that failed is NaN

    rows = []
    for other in dict.fromkeys(run["estimator"] for run in runs if run["estimator"] != "nsvq"):
        for rate in rates:
            row: dict[str, Any] = {"other": other, "bitrate_kbps": rate}
            for metric in ("pesq_wb", "psnr_db"):
                values = clip_means("nsvq", rate, metric) - clip_means(other, rate, metric)
                values = values[np.isfinite(values)]
                low, high = bootstrap_mean(values)
                row[metric] = [round(float(v), 4) for v in (values.mean(), low, high)]
            rows.append(row)
    return rows


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = ["12-bit VQ alone: rms error on held-out envelopes (dB), over seeds"]
    lines.append(
        "between         replacement  estimator     mean    std    min    max  perplexity  dead"
    )
    for row in result["vq"]["summary"]:
        lines.append(
            f"{'networks' if row['networks'] else 'nothing':15} "
            f"{'yes' if row['replacement'] else 'no':12} {LABELS[row['estimator']]:9} "
            f"{row['rms_db_mean']:8.3f} {row['rms_db_std']:6.3f} {row['rms_db_min']:6.3f} "
            f"{row['rms_db_max']:6.3f} {row['perplexity_mean']:11.0f} {row['dead_mean']:5.0f}"
        )
    lines.append("")
    lines.append("codec: mean [95 % of clips], all seeds")
    for row in result["codec"]["summary"]:
        pesq, psnr = row["pesq_wb"], row["psnr_db"]
        paper = ""
        if row["estimator"] in PAPER:
            own = PAPER[row["estimator"]]
            at = RATES.index(row["bitrate_kbps"])
            paper = f"   paper {own['pesq_wb'][at]:.2f}, {own['psnr_db'][at]:.1f}"
        lines.append(
            f"{LABELS[row['estimator']]:6} {row['bitrate_kbps']:5.1f} kbit/s  "
            f"PESQ {pesq['mean']:.3f} [{pesq['q025']:.2f}, {pesq['q975']:.2f}]  "
            f"pSNR {psnr['mean']:6.2f} [{psnr['q025']:.1f}, {psnr['q975']:.1f}]{paper}"
        )
    lines.append("")
    lines.append("NSVQ minus others, same clips: mean [95 % confidence interval]")
    for row in result["codec"]["differences"]:
        pesq, psnr = row["pesq_wb"], row["psnr_db"]
        lines.append(
            f"{LABELS[row['other']]:6} {row['bitrate_kbps']:5.1f} kbit/s  "
            f"PESQ {pesq[0]:+.3f} [{pesq[1]:+.3f}, {pesq[2]:+.3f}]  "
            f"pSNR {psnr[0]:+.2f} [{psnr[1]:+.2f}, {psnr[2]:+.2f}]"
        )
    return "\n".join(lines)
