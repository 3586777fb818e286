"""Tell by its first bytes what a file is, or what comes in on a pipe."""

from __future__ import annotations

import codecs
import re
import struct

from codec.errors import AudioError
from codec.io.mpeg import frames_follow

HEAD_BYTES = 64  # that tell a known file
LONG_HEAD_BYTES = 6144  # that are looked at where they do not

# (offset, bytes): what libsndfile reads.
_AUDIO = (
    (0, b"RIFF"), (0, b"RIFX"), (0, b"RF64"), (0, b"BW64"), (0, b"riff\x2e\x91\xcf\x11"),
    (0, b"FORM"), (0, b".snd"), (0, b"dns."), (0, b"caff"), (0, b"fLaC"), (0, b"OggS"),
    (0, b"ID3"), (0, b"NIST_1A"), (0, b"Creative Voice File"), (0, b"2BIT"), (0, b"PVF1"),
    (0, b" paf"), (0, b"fap "), (0, b"MATLAB"), (20, b"samplerate\0"),
    (0, b"Extended Instrument: "), (0, b"ALawSoundFile"),
)  # fmt: skip
_IRCAM = tuple(
    magic
    for machine in range(5)
    for magic in (bytes([0x64, 0xA3, machine, 0]), bytes([0, machine, 0xA3, 0x64]))
)
# What PyAV or ffmpeg read.
_MEDIA = (
    (4, b"ftyp", "MP4, M4A or MOV"), (4, b"moov", "MP4, M4A or MOV"), (4, b"mdat", "MOV"),
    (4, b"wide", "MOV"), (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"), (0, b"#!AMR", "AMR"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA or ASF"), (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"), (0, b"ADIF", "AAC"), (0, b"ajkg", "Shorten"), (0, b"DSD ", "DSF"),
    (0, b"FRM8", "DSDIFF"), (0, b"FLV\x01", "FLV"), (0, b"TTA1", "TTA"),
    (0, b".RMF", "RealMedia"), (0, b".ra\xfd", "RealAudio"), (0, b"\0\0\x01\xba", "MPEG video"),
    (0, b"MPCK", "Musepack"), (0, b"MP+", "Musepack"), (0, b"\x7f\xfe\x80\x01", "DTS"),
    (8, b"AVI ", "AVI"), (8, b"QLCM", "QCP"), (28, b"\x7fFLAC", "FLAC in Ogg"),
    (28, b"Speex   ", "Speex in Ogg"), (0, b"\x0b\x77", "AC-3"),
)  # fmt: skip
# What nothing here reads: then samples would be taken from a text, a picture or an archive.
_OTHER = (
    (0, b"MThd", "MIDI"), (0, b"#!SILK", "SILK"), (0, b"\x02#!SILK", "SILK"),
    (0, b"#!EVS", "EVS"), (0, b"#!iLBC", "iLBC"), (0, b"\xc0\xde\xc2", "Codec 2"),
    (0, b"\x02dss", "DSS"), (0, b"\x03ds2", "DSS"), (0, b"SOUND\x1a", "SNDT"),
    (0, b"7\0\0\x10m\0\0\x10", "a Psion record"), (65, b"FSSD", "HCOM"),
    (0, b"OFR ", "OptimFROG"), (0, b"qoaf", "QOA"), (0, b"PK\x03\x04", "ZIP"),
    (0, b"\x1f\x8b\x08", "gzip"), (0, b"BZh", "bzip2"), (0, b"\xfd7zXZ\0", "xz"),
    (0, b"(\xb5/\xfd", "Zstandard"), (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"Rar!\x1a\x07", "RAR"), (257, b"ustar", "tar"), (0, b"%PDF-", "PDF"),
    (0, b"\x89PNG\r\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"), (0, b"GIF8", "GIF"), (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"),
    (0, b"\x7fELF", "a program"), (0, b"MZ\x90\0", "a program"), (0, b"\x93NUMPY", "NumPy"),
    (0, b"\x89HDF\r\n", "HDF5"), (0, b"PAR1", "Parquet"), (0, b"SQLite format 3\0", "SQLite"),
)  # fmt: skip
# A container behind something else, where no samples look like that.
_CONTAINER = re.compile(
    rb"R(?:IFF|IFX|F64)....WAVE|BW64....WAVE|FORM....AIF[FC]|fLaC\0\0\0\x22|OggS\0\x02", re.DOTALL
)
_TEXT_BYTES = 16  # so many bytes of text, and no samples look like that
_SHORT_TEXT = 4  # the same where no more came
_TS_PACKETS = 8  # of MPEG-TS that follow one another
_ADTS_FRAMES = 3
_FIRST_ADTS_FRAMES = 2  # that begin at once


def head_size(head: bytes) -> int:
    """Return how many bytes `is_audio_file` must see, by the first `HEAD_BYTES`."""
    return HEAD_BYTES if is_known_audio(head) else LONG_HEAD_BYTES


def media_name(head: bytes) -> str:
    """Return what a file is that PyAV or ffmpeg may read, but not libsndfile; or an empty string.

    Parameters
    ----------
    head : bytes   `LONG_HEAD_BYTES` of it, fewer if there are no more
    """
    for offset, magic, what in _MEDIA:
        if head.startswith(magic, offset) and (what != "AC-3" or _is_ac3(head)):
            return what
    if head.startswith((b"RIFF", b"FORM")):
        return ""
    if _is_transport_stream(head):
        return "MPEG-TS"
    # A recording of a broadcast may begin within a frame.
    places = (place for place in range(len(head)) if head[place] == 0xFF)
    if _is_adts(head, 0, _FIRST_ADTS_FRAMES) or any(_is_adts(head, place) for place in places):
        return "AAC"
    return ""


def is_audio_file(head: bytes, name: str = "standard input") -> bool:
    """Tell whether an audio file begins with `head`; if not, it is raw samples.

    Parameters
    ----------
    head : bytes   as many as :func:`head_size` says, fewer if there are no more
    name : str     for messages

    Raises
    ------
    AudioError   it is neither
    """
    if is_known_audio(head) or is_mpeg_audio(head) or media_name(head):
        return True
    for offset, magic, what in _OTHER:
        if head.startswith(magic, offset):
            raise AudioError(f"{name}: is {what}, no audio that can be read here; convert it first")
    if head.startswith(b"NSVQ"):
        raise AudioError(f"{name}: is a coded stream already; `codec decode` reads it")
    if found := _CONTAINER.search(head):
        raise AudioError(
            f"{name}: has {found.start()} bytes before an audio file begins; cut them off first "
            f"(tail -c +{found.start() + 1})"
        )
    if text := _as_text(head[:HEAD_BYTES]):
        what = "HTML or XML" if text.lstrip().startswith("<") else "text"
        raise AudioError(f"{name}: is {what}, no audio; check where it comes from")
    return False


def is_known_audio(head: bytes) -> bool:
    """Tell whether the first bytes are those of a container that libsndfile reads."""
    if any(head.startswith(magic, offset) for offset, magic in _AUDIO) or head[:4] in _IRCAM:
        return True
    if head[:2] == b"\x01\x04":  # Akai MPC2000: a name of 17 characters follows
        return len(head) >= 42 and head[2:19].rstrip(b"\0").decode("latin-1").isprintable()
    if head[:2] == b"\xf0\x7e" and head[3:4] == b"\x01":  # MIDI Sample Dump Standard
        return True
    # HTK: samples, 100 ns from one to the next, 2 bytes of a waveform.
    return len(head) >= 12 and head[8:12] == b"\0\2\0\0" and (
        13 <= struct.unpack(">I", head[4:8])[0] <= 10000
    )  # fmt: skip


def is_mpeg_audio(head: bytes) -> bool:
    """Tell whether MPEG frames follow one another: two bytes alone, samples have as well.

    They need not begin at once: a recording of a broadcast may begin within a frame.
    """
    if frames_follow(head, 0, 2):
        return True
    return any(head[place] == 0xFF and frames_follow(head, place) for place in range(len(head)))


def _is_adts(head: bytes, place: int, count: int = _ADTS_FRAMES) -> bool:
    """Tell whether AAC frames with ADTS headers follow one another from here on."""
    for _ in range(count):
        length = _adts_length(head[place : place + 7])
        if not length:
            return False
        place += length
    return True


def _adts_length(head: bytes) -> int:
    """Return the bytes of the AAC frame (ADTS) that begins here, 0 if none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length > 7 else 0


def _is_transport_stream(head: bytes) -> bool:
    for size in (188, 192):  # the second with a time stamp before each packet
        for start in range(size):
            if head[start : start + 1] != b"\x47":
                continue
            places = range(start, start + size * _TS_PACKETS, size)
            if places[-1] < len(head) and all(head[place] == 0x47 for place in places):
                return True
    return False


def _is_ac3(head: bytes) -> bool:
    """Tell whether further frames of the same length follow, but for the 2 bytes of 44.1 kHz."""
    length = head.find(b"\x0b\x77", 64)
    return length > 0 and any(
        head.startswith(b"\x0b\x77", 2 * length + more) for more in (-2, 0, 2)
    )


def _as_text(head: bytes) -> str:
    """Return the text that these bytes are, or an empty string."""
    encoding = "utf-8-sig"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return ""
    if encoding == "utf-16" and not text.isascii():  # of samples too this may be made
        return ""
    enough = len(head) >= _TEXT_BYTES or len(head) >= _SHORT_TEXT and head.isascii()
    is_text = all(c.isprintable() or c in "\t\n\r\f" for c in text)
    return text if enough and is_text and text.strip() else ""
