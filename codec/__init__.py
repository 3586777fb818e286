"""A learned speech codec for 8 to 32 kbit/s.

>>> from codec import Codec
>>> c = Codec.load()
>>> data = c.encode(wave, 16000, bitrate=13.2)
>>> wave = c.decode(data)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.api import Codec
    from codec.errors import AudioError, BitstreamError, CodecError, WeightsError
    from codec.stream import StreamDecoder, StreamEncoder

__all__ = [
    "AudioError",
    "BitstreamError",
    "Codec",
    "CodecError",
    "StreamDecoder",
    "StreamEncoder",
    "WeightsError",
    "__version__",
]
__version__ = "0.1.0"


_HOMES = {
    "Codec": "codec.api",
    "StreamDecoder": "codec.stream",
    "StreamEncoder": "codec.stream",
    "AudioError": "codec.errors",
    "BitstreamError": "codec.errors",
    "CodecError": "codec.errors",
    "WeightsError": "codec.errors",
}


def __getattr__(name: str) -> Any:
    """Import what is heavy (numba) only when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'codec' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
