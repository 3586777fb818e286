"""Write the golden files anew: ``python tests/golden/make_golden.py``.

Run it after the shipped weights were replaced, or after a deliberate change of the format (then
raise the version, too). Never run it to make a failing test pass: ``tests/golden/test_golden.py``
fails when coding is no longer what it was, to the last bit.

::

    NAME.bin      a coded file
    golden.json   weights   their fingerprint
                  stages    SHA-256 of what stands before everything else, to find the stage at
                            which machines part: all tables and weights in memory, and the
                            analysis of one signal
                  decoded   NAME: samples, and SHA-256 of the integers, of the float32 samples and
                            of the int16 PCM that it decodes to
                  encoded   NAME: SHA-256 of the bytes that a signal is coded to

Every file of ``decoded`` that an encoder makes is one of ``encoded``, too. Signals are int16 at
16 kHz: pieces of the demo's speech (FLAC, so libsndfile gives the same integers everywhere), and
signals made in integer arithmetic. Nothing here depends on a float, a library or a clock.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parent.parent
sys.path.insert(0, str(ROOT))

from codec import Codec, StreamEncoder  # noqa: E402
from codec.bitstream import BitstreamWriter, intra_packets, salvage_stream  # noqa: E402
from codec.io.wav import to_int16  # noqa: E402

HASHES = GOLDEN / "golden.json"
SPEECH = ("awb", "rms", "slt", "espeak")  # demo/speech/NAME.flac

# --- signals --------------------------------------------------------------------------------------


def noise(count: int, seed: int = 1) -> np.ndarray:
    """Return white noise, int64 [count] within ±2^15, of a linear congruential generator."""
    out, state = np.empty(count, np.int64), seed
    for n in range(count):
        state = (1103515245 * state + 12345) & 0x7FFFFFFF
        out[n] = (state >> 15) - (1 << 15)
    return out


def resonator(source: np.ndarray, cosine: int, radius: int) -> np.ndarray:
    """Filter with two conjugate poles; 2 r cos(angle) and r^2 are in units of 2^-14."""
    out, y1, y2 = np.empty_like(source), 0, 0
    for n, x in enumerate(source.tolist()):
        y1, y2 = x + ((cosine * y1 - radius * y2) >> 14), y1
        out[n] = y1
    return out


def scaled(x: np.ndarray, peak: int) -> np.ndarray:
    """Return int16 samples with a given peak."""
    top = max(int(np.abs(x).max(initial=0)), 1)
    return (x * peak // top).astype(np.int16)


def vowels() -> np.ndarray:
    """1.5 s: pulses of a gliding pitch and a little noise through three formants, with pauses."""
    count, phase = 24000, 0
    hiss, source = noise(count), np.zeros(count, np.int64)
    for n in range(count):
        phase += 110 + 50 * (n // 4000 % 3) + n % 4000 // 100
        if phase >= 16000:
            phase -= 16000
            source[n] = 1 << 16
    source += hiss >> 6
    source[8000:9600] = source[18000:18500] = 0
    total = sum(
        resonator(source, cosine, radius)
        for cosine, radius in ((31300, 15700), (26500, 15300), (14600, 14900))
    )
    return scaled(np.asarray(total), 20000)


def sweep() -> np.ndarray:
    """Return 1 s of a parabolic wave that rises from 0 to 8 kHz."""
    n = np.arange(16000, dtype=np.int64)
    phase = (n * n // 2 * 65536 // 32000) & 0xFFFF
    half = (phase & 0x7FFF) - 0x4000
    wave = (1 << 28) - half * half
    return scaled(np.where(phase < 0x8000, wave, -wave), 26000)


def bursts() -> np.ndarray:
    """Return 1 s: noise bursts, silence, clicks at full scale, a step, single bits."""
    out = np.zeros(16000, np.int64)
    out[1000:3000] = noise(2000, 7)
    out[3000:5000] = noise(2000, 8) >> 7
    out[6000] = out[6400] = 32767
    out[6001] = -32768
    out[8000:9000] = 12000
    out[9600:12800] = noise(3200, 9) & 1
    out[13000:16000:40] = 3000
    return out.clip(-32768, 32767).astype(np.int16)


def full_scale() -> np.ndarray:
    """Return 0.5 s of a square wave at full scale."""
    return np.where(np.arange(8000) // 73 % 2, 32767, -32768).astype(np.int16)


def silence() -> np.ndarray:
    """Return 0.2 s of zeros."""
    return np.zeros(3200, np.int16)


SYNTHETIC: dict[str, Callable[[], np.ndarray]] = {
    function.__name__: function for function in (vowels, sweep, bursts, full_scale, silence)
}


@cache
def signal(name: str) -> np.ndarray:
    """Return a signal by name, int16 [T] at 16 kHz."""
    if name in SYNTHETIC:
        return SYNTHETIC[name]()
    samples, rate = soundfile.read(ROOT / "demo" / "speech" / f"{name}.flac", dtype="int16")
    if rate != 16000 or samples.ndim != 1:
        raise ValueError(f"demo/speech/{name}.flac is not what it was: 16 kHz, one channel")
    return np.asarray(samples)


# --- cases ----------------------------------------------------------------------------------------


class Case(NamedTuple):
    """How a golden file is coded: a piece of a signal, kbit/s, and what the format has."""

    signal: str
    rate: float
    start: int = 0
    length: int | None = None
    vbr: bool = False
    independent: bool = False
    open_end: bool = False  # through the StreamEncoder, in pieces
    source_rate: int = 16000  # as the header has it; the samples are at 16 kHz all the same


def _speech(rate: float, length: int = 12000, **options: bool | int) -> Case:
    return Case("slt", rate, 8000, length, **options)  # type: ignore[arg-type]


RATES = (8.0, 9.6, 13.2, 16.4, 24.4, 32.0)
# Coded and kept.
FILES = {
    **{f"cbr_{rate:g}": _speech(rate) for rate in (*RATES, 11.111)},
    "vbr_13.2": _speech(13.2, vbr=True),
    "length_0": _speech(13.2, 0),
    "length_1": _speech(8.0, 1),
    "length_160": _speech(24.4, 160),
    "length_321": _speech(32.0, 321, vbr=True),
    "independent_13.2": _speech(13.2, 8000, independent=True),
    "independent_vbr_24.4": _speech(24.4, 8000, independent=True, vbr=True),
    "open_16.4": _speech(16.4, 5000, open_end=True),
    "groups_8": _speech(8.0, 35200),  # 2.2 s: two borders of groups
    "rate_44100": _speech(13.2, 4000, source_rate=44100),
    **{f"{name}_9.6": Case(name, 9.6) for name in SYNTHETIC},
}
# Coded; only the hash of the bytes is kept.
SIGNALS = {
    **{f"{name}_{rate:g}": Case(name, rate) for name in SPEECH for rate in (9.6, 24.4)},
    **{f"{name}_vbr_16.4": Case(name, 16.4, vbr=True) for name in SPEECH},
    **{f"{name}_32": Case(name, 32.0) for name in SYNTHETIC},
    "slt_open_8": Case("slt", 8.0, open_end=True, independent=True),
}
CASES = FILES | SIGNALS
# Made of a file above, and decoded by `Codec.salvage`: a group that is damaged, one that is cut.
DAMAGED = {
    "damaged_8": ("groups_8", lambda data: data[:1200] + bytes([data[1200] ^ 1]) + data[1201:]),
    "cut_vbr": ("vbr_13.2", lambda data: data[:700]),
}
LOST = "lost"  # "groups_8" with the packets lost that `lost_packets` tells
NAMES = (*FILES, *DAMAGED, LOST)


def lost_packets(count: int) -> np.ndarray:
    """Return which packets do not arrive: single ones, a gap of five, one at a group's start."""
    n = np.arange(count)
    return (n % 17 == 5) | ((n >= 30) & (n < 35)) | (n == 50) | (n == 0)


# --- coding ---------------------------------------------------------------------------------------


def encode(codec: Codec, case: Case) -> bytes:
    """Return the bytes of a case."""
    last = None if case.length is None else case.start + case.length
    samples = signal(case.signal)[case.start : last]
    if case.open_end:
        return _encode_stream(codec, samples, case)
    if case.source_rate != 16000:
        count = len(samples) * case.source_rate // 16000
        header = codec.header(count, case.source_rate, case.rate, case.vbr, case.independent)
        return codec.encode_codec_rate(samples / np.float32(32768), header)
    return codec.encode(samples, 16000, case.rate, case.vbr, case.independent)


def _encode_stream(codec: Codec, samples: np.ndarray, case: Case) -> bytes:
    encoder = StreamEncoder(codec, case.rate, case.independent)
    writer = BitstreamWriter(encoder.header)
    pieces, packets = [writer.header_bytes], []
    for first in range(0, len(samples), 777):
        packets += encoder.push(samples[first : first + 777] / np.float32(32768))
    pieces += map(writer.packet, [*packets, *encoder.finish()])
    return b"".join([*pieces, writer.finish(len(samples))])


def read(name: str) -> bytes:
    """Return the bytes of a golden file."""
    return (GOLDEN / f"{'groups_8' if name == LOST else name}.bin").read_bytes()


def decode(codec: Codec, name: str, data: bytes) -> np.ndarray:
    """Return the samples of a golden file, in the way that belongs to its name."""
    if name in DAMAGED:
        return codec.salvage(data)[0]
    if name == LOST:
        return codec.decode_lossy(data, lost_packets(len(data)))
    return codec.decode(data)


def integers_digest(codec: Codec, name: str, data: bytes) -> str:
    """Return the SHA-256 of all integers of a golden file."""
    header, packets, _ = salvage_stream(data)
    if name == LOST:
        lost = lost_packets(len(packets))
        packets = [None if gone else p for gone, p in zip(lost, packets, strict=True)]
    intra = intra_packets(len(packets), header.independent)
    result = codec.frame_decoder(header).integers(packets, intra)
    digest = hashlib.sha256()
    for part in result:
        digest.update(np.ascontiguousarray(part).astype("<i4").tobytes())
    return digest.hexdigest()


def sha256(data: bytes) -> str:
    """Return a hash in hex."""
    return hashlib.sha256(data).hexdigest()


def decoded(codec: Codec, name: str) -> dict[str, int | str]:
    """Return what golden.json says of a decoded file."""
    data = read(name)
    samples = decode(codec, name, data)
    return {
        "samples": len(samples),
        "integers": integers_digest(codec, name, data),
        "float32": sha256(samples.astype("<f4").tobytes()),
        "pcm": sha256(to_int16(samples).tobytes()),
    }


def fields(value: np.ndarray, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield every field of a record, whatever bytes lie between them, with its path."""
    if value.dtype.names is None:
        yield name, value
    else:
        for part in value.dtype.names:
            yield from fields(value[part], f"{name}.{part}" if name else part)


def stages(codec: Codec) -> dict[str, str]:
    """Return what golden.json says of the stages."""
    header = codec.header(0, 16000, 13.2)
    encoder, decoder = codec.frame_encoder(header), codec.frame_decoder(header)
    found = {}
    for side, model in (("encoder", encoder.model), ("decoder", decoder.model)):
        for part in model.dtype.names:
            digest = hashlib.sha256()
            for name, value in fields(model[part]):
                digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
            found[f"{side}.{part}"] = digest.hexdigest()
    samples = signal("vowels") / np.float32(32768)
    spectra, envelopes = encoder.analyse(samples)
    found["spectra"] = sha256(spectra.astype("<f4").tobytes())
    found["envelopes"] = sha256(envelopes.astype("<f4").tobytes())
    return found


def main() -> None:
    """Write all files and their hashes."""
    codec = Codec.load()
    for old in GOLDEN.glob("*.bin"):
        old.unlink()
    encoded = {name: encode(codec, case) for name, case in CASES.items()}
    for name in FILES:
        (GOLDEN / f"{name}.bin").write_bytes(encoded[name])
    for name, (source, damage) in DAMAGED.items():
        (GOLDEN / f"{name}.bin").write_bytes(damage(encoded[source]))
    hashes = {
        "weights": codec.fingerprint,
        "stages": stages(codec),
        "decoded": {name: decoded(codec, name) for name in NAMES},
        "encoded": {name: sha256(data) for name, data in encoded.items()},
    }
    HASHES.write_text(json.dumps(hashes, indent=1) + "\n")
    total = sum(path.stat().st_size for path in GOLDEN.glob("*.bin"))
    print(f"{len(NAMES)} files, {total} bytes, weights {codec.fingerprint}")


if __name__ == "__main__":
    main()
