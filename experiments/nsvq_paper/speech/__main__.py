"""Reproduce Figure 1 of the NSVQ paper: a speech codec with a 12-bit VQ, by gradient estimator.

    python -m experiments.nsvq_paper.speech TRAIN_DIR TEST_DIR [--out DIR] [--jobs 2] [--quick]

Two parts. First the VQ alone: 12-bit codebooks learn the envelopes that the shipped analysis
proposes, from random codewords, with at least five seeds for each estimator, with and without the
replacement of unused codewords; what counts is the error of the hard quantizer on TEST_DIR, and how
much it varies from seed to seed. Once bare, where the codebook's gradient is the same for all three
estimators (all of them minimise the squared error), and once between a small encoder and decoder,
which is where estimators differ: through them the encoder learns. Then the codec: its multi-stage
quantizer is taken out, a single 12-bit codebook of random codewords takes its place, and the whole
graph is trained end to end, with the same steps, crops, rates and seeds for NSVQ, STE and DiVeQ.
Each of them ends as a weights file, and that is scored as any other: encoded to bytes, decoded from
them, PESQ and pSNR at six rates.

Networks start from the shipped weights, except for the quantizer: an hour on two cores would not
train them from nothing. Frames always spend 12 bits on the envelope: indices are not entropy
coded, and there is no context model (but the Laplace tables it starts from), as in the paper.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from codec.errors import AudioError
from codec.io.audio import list_audio
from codec.io.files import atomic_write
from experiments.nsvq_paper.speech.figure import draw
from experiments.nsvq_paper.speech.runs import run
from experiments.nsvq_paper.speech.summary import table

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Write ``speech.json`` and ``speech.png``; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train_dir", type=Path, help="recordings to train on")
    parser.add_argument("test_dir", type=Path, help="clips to score")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--work", type=Path, default=Path("runs/speech"), help="trained weights")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a look at whether it runs: no result")
    parser.add_argument("--steps", type=int, help="optimizer steps of the codec")
    parser.add_argument("--seeds", type=int, help="seeds of the codec")
    options = parser.parse_args(arguments)
    for folder in (options.train_dir, options.test_dir):
        if not folder.is_dir():
            parser.error(f"{folder}: no such directory; name one with recordings")
        if not list_audio(folder):
            parser.error(f"{folder}: no audio files in this directory; check the path")
    for name in ("jobs", "steps", "seeds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: {value} is less than 1")
    started = time.monotonic()
    try:
        result = run(options)
    except AudioError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    atomic_write(
        options.out / "speech.json", (json.dumps(result, separators=(",", ":")) + "\n").encode()
    )
    draw(result, options.out / "speech.png")
    print(table(result))
    print(f"speech.json and speech.png are in {options.out} ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
