"""Coding needs neither PyTorch nor SciPy nor what draws: it works where importing them fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = ("torch", "torchaudio", "scipy", "matplotlib", "pandas")

# Everything in one process: kernels are loaded but once.
SCRIPT = """
import importlib.abc
import os
import sys
from pathlib import Path

folder, heavy = Path(sys.argv[1]), set(sys.argv[2:])


class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Block())
for name in heavy:
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} is not blocked")

import cli


def run(*arguments):
    try:
        cli.app([*map(str, arguments)])
    except SystemExit as leave:
        if leave.code:
            sys.exit(f"{arguments}: {leave.code}")


for command in ([], ["encode"], ["decode"], ["info"]):
    run(*command, "--help")
if "numba" in sys.modules:
    sys.exit("help takes numba")

wav, coded, damaged = (folder / name for name in ("in.wav", "coded.bin", "damaged.bin"))
run("encode", wav, coded)
run("encode", folder / "high.wav", folder / "high.bin", "--vbr")  # 44.1 kHz: resampled
run("decode", coded, folder / "out.wav")
run("decode", folder / "high.bin", folder / "high.flac", "--rate", "source")
run("info", coded)
damaged.write_bytes(coded.read_bytes()[:-100])
run("decode", damaged, folder / "saved.wav", "--salvage")
for command, source, target in (("encode", wav, "piped.bin"), ("decode", coded, "piped.wav")):
    os.dup2(os.open(source, os.O_RDONLY), 0)
    os.dup2(os.open(folder / target, os.O_WRONLY | os.O_CREAT), 1)
    run(command, "-", "-")
os.dup2(2, 1)


import numpy as np

from codec import BitstreamError, Codec, StreamDecoder, StreamEncoder
from codec.info import stream_info

data, codec = coded.read_bytes(), Codec.load()
assert stream_info(data)["num_packets"] > 20
wave = codec.decode(data)
codec.decode_lossy(data, np.arange(30) == 3)
assert 0 < len(codec.salvage(damaged.read_bytes())[0]) <= len(wave)
try:
    codec.decode(damaged.read_bytes())
except BitstreamError:
    pass
else:
    sys.exit("a damaged file was decoded")
codec.encode(wave[:4000], 8000, 16.4, independent=True)
encoder = StreamEncoder(codec)
decoder = StreamDecoder(codec, encoder.header)
packets = encoder.push(wave) + encoder.finish()
streamed = np.concatenate([decoder.push(packet) for packet in packets])
assert np.isfinite(streamed).all() and len(streamed) >= len(wave)
"""


def test_coding_without_heavy_packages(tmp_path: Path) -> None:
    wave = 0.2 * np.sin(2 * np.pi * 200 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "in.wav", wave, 16000)
    soundfile.write(tmp_path / "high.wav", wave, 44100)
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *HEAVY],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert soundfile.info(tmp_path / "out.wav").frames == 16000
    assert soundfile.info(tmp_path / "high.flac").samplerate == 44100
    assert soundfile.info(tmp_path / "saved.wav").frames > 0
    assert (tmp_path / "piped.bin").stat().st_size > 1000
    assert (tmp_path / "piped.wav").stat().st_size > 32000
