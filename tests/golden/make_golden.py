"""Write the golden files anew: `python tests/golden/make_golden.py`.

Run it after the shipped weights were replaced, or after a deliberate change of the format (then
raise the version, too). Never run it to make a failing test pass: `tests/test_golden.py` fails
when files that were written by an earlier build no longer decode to the same integers.

    NAME.bin   a coded file
    NAME.npz   envelope, offset, step, bins    all integers it decodes to
               pcm                             int16, every 7th sample of what it decodes to
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from codec import Codec

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parent.parent
PCM_STRIDE = 7  # coprime to the hop: after a few blocks, every place in a block was looked at
LENGTH = 12000  # 0.75 s


class Case(NamedTuple):
    """How a golden file is coded: kbit/s, samples, and flags."""

    rate: float
    length: int = LENGTH
    vbr: bool = False
    independent: bool = False
    open_end: bool = False


CASES = {
    **{f"cbr_{rate:g}": Case(rate) for rate in (8.0, 9.6, 13.2, 16.4, 24.4, 32.0, 11.111)},
    "vbr_13.2": Case(13.2, vbr=True),
    "length_0": Case(13.2, 0),
    "length_1": Case(8.0, 1),
    "length_321": Case(32.0, 321, vbr=True),
    "independent_13.2": Case(13.2, 8000, independent=True),
    "independent_24.4": Case(24.4, 8000, independent=True),
    "open_16.4": Case(16.4, 5000, open_end=True),
    "groups_8": Case(8.0, 35200),  # 2.2 s: two borders of groups
}


def encode(codec: "Codec", waveform: np.ndarray, case: Case) -> bytes:
    """Return the bytes of a golden file."""
    if not case.open_end:
        return codec.encode(waveform, 16000, case.rate, case.vbr, case.independent)
    from codec import StreamEncoder
    from codec.bitstream import BitstreamWriter

    encoder = StreamEncoder(codec, case.rate, case.independent)
    writer = BitstreamWriter(encoder.header)
    packets = [*encoder.push(waveform), *encoder.finish()]
    pieces = [writer.header_bytes, *map(writer.packet, packets), writer.finish(len(waveform))]
    return b"".join(pieces)


def to_pcm(waveform: np.ndarray) -> np.ndarray:
    """Return the samples that are compared, int16."""
    pcm = np.clip(np.round(waveform.astype(np.float64) * 32768), -32768, 32767)
    return pcm.astype(np.int16)[::PCM_STRIDE]


def narrow(values: np.ndarray) -> np.ndarray:
    """Return integers in the smallest type that holds them."""
    for dtype in (np.int8, np.int16, np.int32):
        info = np.iinfo(dtype)
        if values.size == 0 or (values.min() >= info.min and values.max() <= info.max):
            return values.astype(dtype)
    return values


def main() -> None:
    """Encode a piece of the demo's speech in all cases and write what it decodes to."""
    sys.path.insert(0, str(ROOT))
    import torch

    from codec import Codec
    from codec.io.audio import read_audio

    torch.set_num_threads(1)
    codec = Codec.load()
    waveform, rate, _ = read_audio(ROOT / "demo" / "speech" / "slt.flac")
    assert rate == 16000
    speech = waveform[8000:]
    for old in (*GOLDEN.glob("*.bin"), *GOLDEN.glob("*.npz")):
        old.unlink()
    total = 0
    for name, case in CASES.items():
        data = encode(codec, speech[: case.length], case)
        (GOLDEN / f"{name}.bin").write_bytes(data)
        _, integers = codec.decode_integers(data)
        values = {
            part: narrow(getattr(integers, part)) for part in ("envelope", "offset", "step", "bins")
        }
        np.savez_compressed(
            GOLDEN / f"{name}.npz", pcm=to_pcm(codec.decode(data)), **values
        )
        size = len(data) + (GOLDEN / f"{name}.npz").stat().st_size
        total += size
        print(f"{name:16s} {size:7d} bytes")
    print(f"{'all':16s} {total:7d} bytes, weights {codec.fingerprint}")


if __name__ == "__main__":
    main()
