"""A learned speech codec for 8 to 32 kbit/s.

>>> from codec import Codec
>>> c = Codec.load()
>>> data = c.encode(wave, 16000, bitrate=13.2)
>>> wave = c.decode(data)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.api import Codec
    from codec.bitstream import BitstreamError
    from codec.stream import StreamDecoder, StreamEncoder

__all__ = ["BitstreamError", "Codec", "StreamDecoder", "StreamEncoder", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the heavy parts (torch, numba) only when they are asked for."""
    if name == "Codec":
        from codec.api import Codec

        return Codec
    if name == "BitstreamError":
        from codec.bitstream import BitstreamError

        return BitstreamError
    if name in ("StreamDecoder", "StreamEncoder"):
        from codec import stream

        return getattr(stream, name)
    raise AttributeError(f"module 'codec' has no attribute '{name}'")
