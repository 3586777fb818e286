"""Time encoding and decoding of whole commands beside Opus, in CPU seconds of one core.

    python -m experiments.measure.speed DIR [--bitrate 13.2] [--runs 5]

Joins files of DIR to 60 s at 16 kHz, and runs `codec encode`, `codec decode`, `opusenc` and
`opusdec` (complexity 10) in turn, each bound to one core; printed are the medians of the processes'
CPU time, and the in-process speed without starting Python. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from codec import Codec
from codec.config import SAMPLE_RATE
from codec.io.audio import read_audio
from codec.io.resample import to_codec_rate
from codec.io.wav import write_wav
from experiments.audio import list_audio

SECONDS = 60.0


def gather(directory: Path) -> np.ndarray:
    """Return the first 60 s of a folder's files, one after the other, at 16 kHz."""
    pieces, count = [], 0
    for path in list_audio(directory):
        wave, rate, _ = read_audio(path)
        pieces.append(to_codec_rate(wave, rate))
        count += len(pieces[-1])
        if count >= SECONDS * SAMPLE_RATE:
            break
    return np.concatenate(pieces)[: int(SECONDS * SAMPLE_RATE)]


def cpu_seconds(command: list[str]) -> tuple[float, float]:
    """Run a command; return its CPU seconds and its peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, after.ru_maxrss / 1024


def best_of(work: Callable[[], object], runs: int) -> float:
    """Return the shortest CPU time of some runs, seconds."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per command, the ratio, and the speed in one process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="folder of recordings")
    parser.add_argument("--bitrate", type=float, default=13.2)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    wave = gather(options.directory)
    rate = f"{options.bitrate:g}"
    seconds = len(wave) / SAMPLE_RATE
    with tempfile.TemporaryDirectory() as folder:
        wav, coded, out = (str(Path(folder) / name) for name in ("a.wav", "a.bin", "b.wav"))
        opus, opus_out = str(Path(folder) / "a.opus"), str(Path(folder) / "c.wav")
        write_wav(wav, wave, SAMPLE_RATE)
        program = [sys.executable, str(Path(__file__).resolve().parents[2] / "cli.py")]
        commands = {
            "codec encode": [*program, "encode", wav, coded, "--bitrate", rate],
            "codec decode": [*program, "decode", coded, out],
        }
        if shutil.which("opusenc") and shutil.which("opusdec"):
            commands["opusenc"] = [
                "opusenc",
                "--quiet",
                "--comp",
                "10",
                "--bitrate",
                rate,
                wav,
                opus,
            ]
            commands["opusdec"] = ["opusdec", "--quiet", opus, opus_out]
        else:
            print("opusenc and opusdec are missing: install the package opus-tools to compare")
        cpu: dict[str, list[float]] = {name: [] for name in commands}
        memory: dict[str, float] = {}
        for run in range(options.runs + 1):  # the first run of each compiles or fills caches
            for name, command in commands.items():
                spent, memory[name] = cpu_seconds(command)
                if run:
                    cpu[name].append(spent)
    print(
        f"{seconds:.0f} s at {rate} kbit/s, medians of {options.runs} runs, CPU seconds of one core"
    )
    for name, times in cpu.items():
        middle = statistics.median(times)
        print(f"{name:13s} {middle:6.2f} s  {seconds / middle:6.1f} x real time, start included")
    if "opusenc" in cpu:
        ours = [a + b for a, b in zip(cpu["codec encode"], cpu["codec decode"], strict=True)]
        theirs = [a + b for a, b in zip(cpu["opusenc"], cpu["opusdec"], strict=True)]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(f"encode + decode over opusenc + opusdec: {statistics.median(ratios):.2f}")
    codec = Codec.load()
    data = codec.encode(wave, SAMPLE_RATE, options.bitrate)
    codec.decode(data)
    encode = best_of(lambda: codec.encode(wave, SAMPLE_RATE, options.bitrate), options.runs)
    decode = best_of(lambda: codec.decode(data), options.runs)
    print(
        f"in one process: encode {seconds / encode:.1f}, decode {seconds / decode:.1f} x real time"
    )


if __name__ == "__main__":
    main()
