"""Old name of what lives in :mod:`codec.io` now."""

from codec.errors import AudioError
from codec.io.audio import list_audio, read_audio
from codec.io.files import atomic_open, atomic_write, is_direct
from codec.io.resample import from_codec_rate, to_codec_rate
from codec.io.wav import to_int16, wav_header, write_wav

__all__ = [
    "AudioError",
    "atomic_open",
    "atomic_write",
    "from_codec_rate",
    "is_direct",
    "list_audio",
    "read_audio",
    "to_codec_rate",
    "to_int16",
    "wav_header",
    "write_wav",
]
