"""Load test: code a whole directory through the command line and watch speed and memory.

    python tests/load.py AUDIO_DIR [--jobs 2] [--bitrate 13.2]

Encodes every file of AUDIO_DIR into a temporary folder and decodes it again, with `codec encode`
and `codec decode`, samples the resident memory of all their processes twice a second, and prints
for each: seconds, times real time, files that failed, peak memory of all processes together and of
the largest one, and how much the peak of the last quarter of the run exceeds that of the second
(growth; the first one is start-up).

    python tests/load.py --stream-hours 1

Sends an hour of noise-like sound through `codec encode - -` and `codec decode - -` instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from codec.io.audio import list_audio, read_audio  # noqa: E402

COMMAND = [sys.executable, str(ROOT / "cli.py")]
MEGABYTE = 1 << 20


def family(pid: int) -> list[int]:
    """Return a process and all that it started (Linux)."""
    found = [pid]
    for current in found:
        try:
            for task in os.listdir(f"/proc/{current}/task"):
                text = Path(f"/proc/{current}/task/{task}/children").read_text()
                found += [int(child) for child in text.split()]
        except OSError:
            continue
    return found


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes, 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class Watch(threading.Thread):
    """Sample the memory of some processes until they end."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.pids = pids
        self.total: list[int] = []
        self.largest = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        """Take a sample twice a second until told to stop."""
        while not self.stopped.wait(0.5):
            sizes = [resident(pid) for root in self.pids for pid in family(root)]
            self.total.append(sum(sizes))
            self.largest = max(self.largest, *sizes)

    def report(self) -> str:
        """Return what was seen, in words."""
        self.stopped.set()
        self.join()
        quarter = max(len(self.total) // 4, 1)
        growth = max(self.total[-quarter:]) - max(self.total[quarter : 2 * quarter] or [0])
        return (
            f"peak memory {max(self.total) / MEGABYTE:.0f} MB, largest process "
            f"{self.largest / MEGABYTE:.0f} MB, growth {growth / MEGABYTE:+.0f} MB"
        )


def run(name: str, arguments: list[str], seconds: float) -> None:
    start = time.monotonic()
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        watch = Watch([process.pid])
        watch.start()
        output = process.communicate()[0].strip()
        taken = time.monotonic() - start
        print(
            f"{name}: {taken:.0f} s, {seconds / taken:.1f} x real time, exit code "
            f"{process.returncode}; {output.splitlines()[-1] if output else ''}\n"
            f"    {watch.report()}",
            flush=True,
        )


def run_stream(hours: float, bitrate: float) -> None:
    with tempfile.TemporaryFile() as errors:
        encode = subprocess.Popen(
            [*COMMAND, "encode", "-", "-", "--bitrate", str(bitrate)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        decode = subprocess.Popen(
            [*COMMAND, "decode", "-", "-", "--raw"], stdin=encode.stdout, stdout=subprocess.PIPE,
            stderr=errors,
        )  # fmt: skip
        assert encode.stdin and encode.stdout and decode.stdout
        encode.stdout.close()
        watches = [Watch([encode.pid]), Watch([decode.pid])]
        for watch in watches:
            watch.start()
        start = time.monotonic()
        received, first = 0, 0.0

        def receive() -> None:
            nonlocal received, first
            while data := decode.stdout.read(1 << 16):
                first = first or time.monotonic() - start
                received += len(data)

        reader = threading.Thread(target=receive)
        reader.start()
        rng = np.random.default_rng(0)
        total = int(hours * 3600 * 16000)
        for position in range(0, total, 16000):
            n = np.arange(position, position + 16000) / 16000
            tone = np.sin(2 * np.pi * (150 + 50 * np.sin(n)) * n) ** 7
            level = 0.1 * (1 + np.sin(2 * np.pi * 0.6 * n))
            signal = level * tone + 0.01 * rng.standard_normal(16000)
            encode.stdin.write((signal * 32767).clip(-32768, 32767).astype("<i2").tobytes())
        sent = time.monotonic() - start
        encode.stdin.close()
        reader.join()
        codes = encode.wait(), decode.wait()
        taken = time.monotonic() - start
    print(
        f"stream: {total / 16000:.0f} s of sound in {taken:.0f} s, {total / 16000 / taken:.1f} x "
        f"real time, exit codes {codes}, {received // 2} of {total} samples came back, the first "
        f"after {first:.1f} s, the last of the input went in after {sent:.1f} s"
    )
    for name, watch in zip(("encode", "decode"), watches, strict=True):
        print(f"    {name}: {watch.report()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, help="audio files to code")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--bitrate", type=float, default=13.2, help="kbit/s")
    parser.add_argument("--stream-hours", type=float, default=0.0, help="send a stream instead")
    options = parser.parse_args()
    if options.stream_hours:
        run_stream(options.stream_hours, options.bitrate)
        return
    if options.directory is None or not options.directory.is_dir():
        parser.error("name a directory of audio files, or --stream-hours")
    seconds = 0.0
    files = list_audio(options.directory)
    for path in files:
        waveform, rate, _ = read_audio(path)
        seconds += len(waveform) / rate
    print(f"{len(files)} files, {seconds / 3600:.2f} hours")
    work = Path(tempfile.mkdtemp(prefix="codec-load-"))
    try:
        jobs = ["--jobs", str(options.jobs)]
        coded, decoded = str(work / "coded"), str(work / "decoded")
        encode = ["encode", str(options.directory), coded, "--bitrate", str(options.bitrate), *jobs]
        run("encode", encode, seconds)
        run("decode", ["decode", coded, decoded, *jobs], seconds)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
