"""Options of a training run: one dataclass, from which the options of ``codec train`` are made.

Knows nothing of torch, so that the command line can show its help at once.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

PARTS = (
    "analysis",
    "msvq",
    "intra_msvq",
    "detail",
    "intra_detail",
    "allocation",
    "enhancer",
    "concealment",
)


def option(
    text: str,
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    name: str | None = None,
    metavar: str | None = None,
) -> Any:
    """Return a field of :class:`TrainConfig` with what its command-line option says and allows.

    Parameters
    ----------
    text : str                    help
    default : value of the field; none: it must be given
    low, high : float, optional   smallest and largest value
    name : str, optional          of the option, where it is not that of the field
    metavar : str, optional       what help calls the value
    """
    metadata = {"help": text, "min": low, "max": high, "name": name, "metavar": metavar}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Options of one training run; saved in its checkpoints. Each field says what it is."""

    data_dir: str = option(
        "Recordings to train on; with --dataset, where that lies.", metavar="DATA_DIR"
    )
    out_dir: str = option(
        "Run directory: checkpoints, logs and the exported weights.", name="out", metavar="PATH"
    )
    valid_dir: str | None = option(
        "Validation clips; without them nothing is validated.", None, name="valid", metavar="PATH"
    )
    dataset: str | None = option(
        "Corpus of torchaudio.datasets, such as librispeech:train-clean-100.", None
    )
    recipe: str | None = option(
        "Train in stages: shipped (as the weights that are installed), or a TOML file.", None
    )
    steps: int = option("Optimizer steps of the codec.", 10000, low=1)
    batch_size: int = option("Crops in each step, for each process.", 8, low=1)
    crop_seconds: float = option("Length of a crop in seconds (PESQ needs 0.34).", 2.0, low=0.4)
    preroll_seconds: float = option(
        "Up to this much more before most crops, to fill the enhancer's memory.", 0.0, low=0.0
    )
    learning_rate: float = option("Peak learning rate of Adam.", 8e-4, low=0.0)
    decay_fraction: float = option(
        "Last part of the steps: learning rate falls, the envelope's quantizer is fixed, its "
        "detail fitted again.",
        0.3,
        low=0.0,
        high=1.0,
    )
    warmup_steps: int = option("First steps, in which the learning rate rises.", 200, low=0)
    ema: float = option(
        "Decay of the weight average that is validated and exported.", 0.998, low=0.0, high=1.0
    )
    estimator: Literal["nsvq", "ste", "diveq"] = option(
        "How gradients pass the vector quantizers.", "nsvq"
    )
    pesq_weight: float = option("Weight of the differentiable PESQ loss.", 1.0, low=0.0)
    error_weight: float = option(
        "Weight of the log weighted error (pSNR), at 8 kbit/s.", 0.16, low=0.0
    )
    error_weight_32: float = option(
        "The same at 32 kbit/s; between them: interpolated.", 0.05, low=0.0
    )
    spectral_weight: float = option(
        "Weight of the multi-resolution spectral loss, at 8 kbit/s.", 0.7, low=0.0
    )
    spectral_weight_32: float = option(
        "The same at 32 kbit/s; between them: interpolated.", 1.2, low=0.0
    )
    similarity_weight: float = option(
        "Weight of the gammatone similarity, at 8 kbit/s.", 0.5, low=0.0
    )
    similarity_weight_32: float = option(
        "The same at 32 kbit/s; between them: interpolated.", 2.0, low=0.0
    )
    level_weight: float = option("Weight of the error of the bands' levels, per dB.", 0.06, low=0.0)
    envelope_weight: float = option(
        "Weight of the envelope's squared error (octaves).", 0.1, low=0.0
    )
    depth_weight: float = option(
        "Weight of the squared octaves by which a step is out of reach.", 0.02, low=0.0
    )
    loss_share: float = option("Share of crops in which frames are lost.", 0.3, low=0.0, high=1.0)
    freeze: str = option(f"Parts to leave as they are: {', '.join(PARTS)}.", "")
    coded: bool = option(
        "Train the enhancer on crops that the runtime codes; the encoder must be frozen.", False
    )
    search_every: int = option(
        "Steps between searches of the step offsets by rate; 0: none.", 2500, low=0
    )
    replace_every: int = option("Steps between replacements of dead codewords.", 500, low=1)
    init_from: str | None = option(
        "Start from these weights (.safetensors) instead of random ones.", None, metavar="FILE"
    )
    refit_allocation: bool = option(
        "With --init-from: first bring back steps that are out of reach.", False
    )
    context_steps: int = option(
        "Optimizer steps of the context model, trained afterwards.", 4000, low=0
    )
    context_minutes: float = option(
        "Minutes of speech to code for the context model.", 12.0, low=0.0
    )
    seed: int = option("Seed of everything random.", 0, low=0)
    device: Literal["cpu", "cuda"] = option("Device to train on.", "cpu")
    num_threads: int = option("CPU threads; 0 leaves the choice to torch.", 0, low=0)
    precision: Literal["float32", "bfloat16"] = option(
        "Arithmetic of linear and convolution layers.", "float32"
    )
    compile: bool = option("Compile enhancer and spectral loss (torch.compile).", False)
    resume: bool = option("Continue the run in --out exactly where it stopped.", False)
    checkpoint_every: int = option("Steps from one checkpoint to the next.", 500, low=1)
    validate_every: int = option("Steps from one validation to the next.", 2000, low=1)


def options_table() -> str:
    """Return the options of ``codec train`` as a Markdown table."""
    lines = ["| option | default | |", "|---|---|---|"]
    for field_ in fields(TrainConfig):
        if field_.default is MISSING:
            continue
        name = field_.metadata["name"] or field_.name
        default = "" if field_.default in (None, "") else f"{field_.default}"
        about = field_.metadata["help"]
        lines.append(f"| `--{name.replace('_', '-')}` | {default} | {about} |")
    return "\n".join(lines)
