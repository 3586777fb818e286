"""What a user may write: checked by `mypy --strict` against the installed package, and run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec import BitstreamError, Codec, StreamDecoder, StreamEncoder

Wave = NDArray[np.float32]


def round_trip(codec: Codec, wave: Wave, kbps: float) -> tuple[int, Wave]:
    """Return how many bytes a waveform takes, and what comes back."""
    data: bytes = codec.encode(wave, 16000, bitrate=kbps, vbr=False)
    decoded: Wave = codec.decode(data)
    return len(data), decoded


def stream(codec: Codec, wave: Wave) -> int:
    """Return how many samples have come out of a stream whose third packet is lost."""
    encoder = StreamEncoder(codec, bitrate=16.4, independent=True)
    decoder = StreamDecoder(codec, encoder.header)
    packets: list[bytes] = encoder.push(wave) + encoder.finish()
    return sum(
        len(decoder.push(None if index == 2 else packet)) for index, packet in enumerate(packets)
    )


def main() -> None:
    """Code a second."""
    codec: Codec = Codec.load()
    wave = (0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
    num_bytes, decoded = round_trip(codec, wave, 13.2)
    assert decoded.shape == wave.shape and 1600 < num_bytes < 1750
    assert stream(codec, wave) >= len(wave)
    try:
        codec.decode(b"no stream")
    except BitstreamError as error:
        message: str = str(error)
        assert message
    else:
        raise AssertionError("nonsense was decoded")
    print(f"{num_bytes} bytes, weights {codec.fingerprint}")


if __name__ == "__main__":
    main()
