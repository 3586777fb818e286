"""Tell by its first bytes what comes in on a pipe."""

from __future__ import annotations

from codec.errors import AudioError
from codec.io.parts import is_mpeg_frame

HEAD_BYTES = 64  # that :func:`is_audio_file` looks at
LONG_HEAD_BYTES = 4096  # the same where the first ones look like a frame of MPEG audio

# (offset, bytes): what libsndfile reads.
_AUDIO = (
    (0, b"RIFF"), (0, b"RIFX"), (0, b"RF64"), (0, b"riff\x2e\x91\xcf\x11"), (0, b"FORM"),
    (0, b".snd"), (0, b"dns."), (0, b"caff"), (0, b"fLaC"), (0, b"OggS"), (0, b"ID3"),
    (0, b"NIST_1A"), (0, b"Creative Voice File"), (0, b"2BIT"), (0, b"PVF1"), (0, b" paf"),
    (0, b"fap "), (0, b"MATLAB"), (0, b"Extended Instrument: "), (0, b"ALawSoundFile"),
)  # fmt: skip
# What it does not: then samples would be taken from a text, a picture or an archive.
_OTHER = (
    (4, b"ftyp", "MP4, M4A or MOV"), (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"), (0, b"0&\xb2u\x8ef\xcf\x11", "WMA or ASF"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"), (0, b"ADIF", "AAC"), (0, b"ajkg", "Shorten"), (0, b"DSD ", "DSF"),
    (0, b"FLV\x01", "FLV"), (0, b"MThd", "MIDI"), (0, b"TTA1", "TTA"), (0, b"#!SILK", "SILK"),
    (0, b"\x02#!SILK", "SILK"), (0, b".RMF", "RealMedia"), (0, b"\0\0\x01\xba", "MPEG video"),
    (0, b"PK\x03\x04", "ZIP"), (0, b"\x1f\x8b\x08", "gzip"), (0, b"BZh9", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"), (0, b"(\xb5/\xfd", "Zstandard"), (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"%PDF-", "PDF"), (0, b"\x89PNG\r\n", "PNG"), (0, b"\xff\xd8\xff\xe0", "JPEG"),
    (0, b"GIF8", "GIF"), (0, b"\x7fELF", "a program"),
)  # fmt: skip
_TEXT_BYTES = 16  # so many bytes of text, and no samples look like that
_TEXT = bytes(range(32, 127)) + b"\t\n\r\f"
# kbit/s of MPEG frames by layer, for versions 1 and 2.
_MPEG_RATES = {
    (3, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def head_size(head: bytes) -> int:
    """Return how many bytes `is_audio_file` must see, by the first `HEAD_BYTES`."""
    return LONG_HEAD_BYTES if head[:1] == b"\xff" and head[1:2] >= b"\xe0" else HEAD_BYTES


def is_audio_file(head: bytes, name: str = "standard input") -> bool:
    """Tell whether a file that libsndfile reads begins with `head`; if not, it is raw samples.

    Parameters
    ----------
    head : bytes   as many as :func:`head_size` says, fewer if there are no more
    name : str     for messages

    Raises
    ------
    AudioError   it is neither
    """
    if any(head.startswith(magic, offset) for offset, magic in _AUDIO) or _is_mpeg_audio(head):
        return True
    for offset, magic, what in _OTHER:
        if head.startswith(magic, offset):
            raise AudioError(
                f"{name}: is {what}, which libsndfile cannot read; convert it to WAV first, as "
                "in: ffmpeg -i IN -f wav - | codec encode - OUT"
            )
    if head.startswith(b"NSVQ"):
        raise AudioError(f"{name}: is a coded stream already; `codec decode` reads it")
    if _adts_length(head) and _adts_length(head[_adts_length(head) :]):
        raise AudioError(f"{name}: is AAC, which libsndfile cannot read; convert it to WAV first")
    start = head[3:] if head.startswith(b"\xef\xbb\xbf") else head  # a mark of UTF-8
    if len(start) >= _TEXT_BYTES and not start[:512].translate(None, _TEXT):
        what = "HTML or XML" if start.lstrip().startswith(b"<") else "text"
        raise AudioError(f"{name}: is {what}, no audio; check where it comes from")
    return False


def _is_mpeg_audio(head: bytes) -> bool:
    """Tell whether two MPEG frames follow one another: two bytes alone, samples have as well."""
    length = _mpeg_length(head)
    return length > 0 and _mpeg_length(head[length:]) > 0 and head[1] == head[length + 1]


def _mpeg_length(head: bytes) -> int:
    """Return the bytes of the MPEG audio frame that begins here, 0 if none does."""
    if not is_mpeg_frame(head):
        return 0
    version, layer, index = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4
    if not 1 <= index <= 14:
        return 0
    rates = _MPEG_RATES[3 if version == 3 else 2, layer]
    sample_rate = (44100, 48000, 32000)[head[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 3:
        return (12 * rates[index - 1] * 1000 // sample_rate + padding) * 4
    samples = 72 if layer == 1 and version != 3 else 144
    return samples * rates[index - 1] * 1000 // sample_rate + padding


def _adts_length(head: bytes) -> int:
    """Return the bytes of the AAC frame (ADTS) that begins here, 0 if none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else 0
