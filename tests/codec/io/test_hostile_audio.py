"""Audio files that lie, are cut off or are no audio: one clear line, or what is really there.

Never a traceback, a hang, or memory that the size of the file does not explain.
"""

from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec.errors import AudioError
from codec.io.audio import read_audio

ROOT = Path(__file__).resolve().parents[3]
MAX_SECONDS = 2.0  # for files of some KB; they take a millisecond, on a busy machine more

SOUND = np.array([0, 1000, -1000, 30000] * 25, "<i2").tobytes()
PCM_GUID = struct.pack("<IHH8s", 1, 0, 16, b"\x80\0\0\xaa\0\x38\x9b\x71")


def wav(
    tag: int = 1,
    channels: int = 1,
    rate: int = 16000,
    bits: int = 16,
    align: int | None = None,
    data: bytes = SOUND,
    data_size: int | None = None,
    riff_size: int | None = None,
    fmt_size: int | None = None,
    extra: bytes = b"",
    before: bytes = b"",
    data_id: bytes = b"data",
) -> bytes:
    """Return a WAV file in which any field of the header may be wrong."""
    align = channels * bits // 8 if align is None else align
    fmt_size = 16 + len(extra) if fmt_size is None else fmt_size
    fmt = struct.pack("<4sI", b"fmt ", fmt_size) + struct.pack(
        "<HHIIHH", tag, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits
    )
    size = len(data) if data_size is None else data_size
    body = b"WAVE" + before + fmt + extra + struct.pack("<4sI", data_id, size) + data
    return struct.pack("<4sI", b"RIFF", len(body) if riff_size is None else riff_size) + body


def extensible(guid: bytes, size: int = 22, valid_bits: int = 16, mask: int = 4) -> bytes:
    return wav(0xFFFE, extra=struct.pack("<HHI", size, valid_bits, mask) + guid)


def encoded(container: str, subtype: str | None = None, channels: int = 1) -> bytes:
    wave = 0.3 * np.sin(np.arange(700) / 9)
    buffer = io.BytesIO()
    frames = np.stack([wave] * channels, axis=1)
    soundfile.write(buffer, frames, 16000, format=container, subtype=subtype)
    return buffer.getvalue()


def read(data: bytes, path: Path) -> tuple[int | None, str]:
    """Write a file and read it; return the number of samples and the notes, or None and the error.

    Checks what holds for every file: one line with the name, finite samples, little time.
    """
    path.write_bytes(data)
    started = time.process_time()
    try:
        waveform, rate, notes = read_audio(path)
    except AudioError as error:
        text = str(error)
        assert text.startswith(f"{path}: "), text
        assert "\n" not in text
        assert ";" in text or "(" in text, f"does not say what to do: {text}"
        return None, text
    finally:
        assert time.process_time() - started < MAX_SECONDS
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert np.isfinite(waveform).all()
    assert 1000 <= rate <= 768000
    return len(waveform), "; ".join(notes)


# ---------------------------------------------------------------------------- headers that lie

READ = {  # the number of samples that are really there, and a word of the notes
    "4 GB announced": (wav(data_size=0xFFFFFFFF), 100, ""),
    "10 GB announced (RF64)": (
        b"RF64\xff\xff\xff\xffWAVE"
        + struct.pack("<4sIQQQI", b"ds64", 28, 10**10, 10**10, 5 * 10**9, 0)
        + wav(data_size=0xFFFFFFFF)[12:],
        100,
        "200 of 10000000000 bytes",
    ),
    "2 GB announced": (wav(data_size=0x7FFFFFFF, riff_size=0x7FFFFFFF), 100, ""),
    "1 MB announced": (wav(data_size=1 << 20), 100, "cut off"),
    "no data announced": (wav(data_size=0), 100, "announces no audio"),
    "no data announced, but chunks follow": (
        wav(data=struct.pack("<4sI", b"LIST", 4) + b"text", data_size=0),
        0,
        "no samples",
    ),
    "no data announced, RIFF size 0": (wav(data_size=0, riff_size=0), 100, "announces no audio"),
    "not closed": (wav(data_size=0, riff_size=8), 100, "announces no audio"),
    "odd number of bytes": (wav(data=SOUND + b"\1"), 100, ""),
    "cut within the data size": (wav()[:42], 0, "no samples"),
    "cut after the header": (wav()[:44], 0, "no samples"),
    "cut by one byte": (wav()[:-1], 99, ""),
    "cut in the middle": (wav()[:144], 50, "cut off"),
    "block align 0": (wav(align=0), 100, ""),
    "block align 1": (wav(align=1), 100, ""),
    "block align 65535": (wav(align=65535), 100, ""),
    "255 channels": (wav(channels=255, data=SOUND * 51), 20, "downmixed 255"),
    "1024 channels": (wav(channels=1024, data=bytes(20480)), 10, "downmixed 1024"),
    "many empty chunks": (wav(before=struct.pack("<4sI", b"LIST", 0) * 2000), 100, ""),
    "extensible": (extensible(PCM_GUID), 100, ""),
    "extensible, 99 valid bits": (extensible(PCM_GUID, valid_bits=99), 100, ""),
    "int values as floats": (
        wav(3, bits=32, data=np.array([0, 999, -1234], "<f4").tobytes()),
        3,
        "1.23e+03 times full scale",
    ),
}

REFUSED = {  # a word of the error
    "empty": (b"", "is empty"),
    "random bytes": (random.Random(0).randbytes(5000), "libsndfile"),
    "text": (b"RIFF, or so it says\n" * 40, "libsndfile"),
    "no channels": (wav(channels=0, align=2), "libsndfile"),
    "1025 channels": (wav(channels=1025, data=bytes(20500)), "libsndfile"),
    "65535 channels": (wav(channels=65535, data=bytes(131070)), "libsndfile"),
    "rate 0": (wav(rate=0), "libsndfile"),
    "rate 1 Hz": (wav(rate=1), "1 Hz is outside"),
    "rate 2 GHz": (wav(rate=0x7FFFFFFF), "2147483647 Hz is outside"),
    "rate 4 GHz": (wav(rate=0xFFFFFFFF), "libsndfile"),
    "0 bits": (wav(bits=0, align=2), "libsndfile"),
    "0 bits, block align 0": (wav(bits=0, align=0), "libsndfile"),
    "65535 bits": (wav(bits=65535, align=8191), "libsndfile"),
    "format 0": (wav(0), "libsndfile"),
    "fmt of 0 bytes": (wav(fmt_size=0), "libsndfile"),
    "fmt of 2 GB": (wav(fmt_size=0x7FFFFFFF), "libsndfile"),
    "fmt of 4 GB": (wav(fmt_size=0xFFFFFFFF), "libsndfile"),
    "a list of 4 GB": (wav(before=struct.pack("<4sI", b"LIST", 0xFFFFFFF0)), "libsndfile"),
    "no data chunk": (wav()[:36], "libsndfile"),
    "data by another name": (wav(data_id=b"atad"), "libsndfile"),
    "extensible garbage": (extensible(b"\xde" * 16), "libsndfile"),
    "extensible, cut": (extensible(PCM_GUID)[:50], "libsndfile"),
    "ADPCM, block align 1": (
        wav(0x11, bits=4, align=1, extra=struct.pack("<HH", 2, 65535)),
        "libsndfile",
    ),
    "MS ADPCM, block align 1": (
        wav(2, bits=4, align=1, extra=struct.pack("<HH", 2, 65535)),
        "libsndfile",
    ),
    "NaN": (wav(3, bits=32, data=np.array([0, np.nan], "<f4").tobytes()), "NaN or infinite"),
    "infinite": (wav(3, bits=64, data=np.array([0, -np.inf], "<f8").tobytes()), "NaN or infinite"),
    "beyond float32": (wav(3, bits=64, data=np.array([0, 1e300], "<f8").tobytes()), "infinite"),
    "beyond reason": (wav(3, bits=32, data=np.array([0, 1e38], "<f4").tobytes()), "full scale"),
    "loud int values as floats": (
        wav(3, bits=32, data=np.array([0, 9999, -12345], "<f4").tobytes()),
        "divide by 32768",
    ),
    "FLAC with the only frame cut": (encoded("FLAC")[:-1], "damaged or cut off"),
    "FLAC with half of it": (encoded("FLAC")[: len(encoded("FLAC")) // 2], "damaged or cut off"),
}


@pytest.mark.parametrize("name", READ)
def test_read_as_far_as_it_goes(name: str, tmp_path: Path) -> None:
    data, num_samples, word = READ[name]
    found, notes = read(data, tmp_path / "in.wav")
    assert found == num_samples, notes
    assert word in notes
    assert word or not notes


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    data, word = REFUSED[name]
    found, error = read(data, tmp_path / "in.wav")
    assert found is None
    assert word in error


@pytest.mark.parametrize("length", range(1, 41))
def test_cut_within_the_header(length: int, tmp_path: Path) -> None:
    assert read(wav()[:length], tmp_path / "in.wav")[0] is None


@pytest.mark.parametrize(
    "container, subtype",
    [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("CAF", None), ("AIFF", None)],
)
def test_other_containers_cut_anywhere(container: str, subtype: str | None, tmp_path: Path) -> None:
    whole = encoded(container, subtype)
    for length in [*range(1, 100), *range(100, len(whole), len(whole) // 40)]:
        found, _ = read(whole[:length], tmp_path / "in")
        assert found is None or found <= 700


@pytest.mark.parametrize("suffix", ["", ".raw", ".wav", ".flac", ".mp3", ".sd2"])
def test_what_is_not_a_file(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(AudioError, match="is a directory"):
        read_audio(tmp_path / f"folder{suffix}")
    with pytest.raises(AudioError, match="no such file"):
        read_audio(tmp_path / f"missing{suffix}")
    (tmp_path / f"link{suffix}").symlink_to(f"link{suffix}")  # leads to itself
    with pytest.raises(AudioError, match="no such file"):
        read_audio(tmp_path / f"link{suffix}")


# ---------------------------------------------------------------------------- memory

# Not ru_maxrss: a new process starts with that of its parent.
_MEASURE = """
import sys
import numpy, soundfile
from codec.errors import AudioError
from codec.io.audio import read_audio

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

read_audio(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try:
        read_audio(path)
    except AudioError:
        pass
print(peak() - before)
"""


def limited_to(num_bytes: int) -> dict:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))

    return {"preexec_fn": limit, "cwd": ROOT, "capture_output": True, "text": True}


def test_memory_of_small_files(tmp_path: Path) -> None:
    """All of the above in one process of 1 GB address space: hardly more than a sound file."""
    paths = [tmp_path / "sound.wav"]
    paths[0].write_bytes(wav())
    for number, (data, *_) in enumerate([*READ.values(), *REFUSED.values()]):
        paths.append(tmp_path / f"{number}.wav")
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", _MEASURE, *map(str, paths)]
    result = subprocess.run(command, timeout=300, **limited_to(1 << 30))
    assert result.returncode == 0, result.stderr
    print(f"{len(paths)} files: {int(result.stdout)} KB more than one sound file")
    assert int(result.stdout) < 24 << 10  # the products of 1024 channels are the most


def test_memory_grows_with_the_file(tmp_path: Path) -> None:
    """Eight bytes per sample (two copies as float32) and a block or two, whatever is announced."""
    num_samples = 4 << 20
    for name, channels in (("mono", 1), ("many", 1024)):
        data = np.zeros(num_samples, "<i2").tobytes()
        path = tmp_path / f"{name}.wav"
        path.write_bytes(wav(channels=channels, data=data, data_size=0xFFFFFFFF))
    (tmp_path / "sound.wav").write_bytes(wav())
    for name, bound in (("mono", 8 * num_samples), ("many", 8 * num_samples // 1024)):
        paths = [str(tmp_path / "sound.wav"), str(tmp_path / f"{name}.wav")]
        command = [sys.executable, "-c", _MEASURE, *paths]
        result = subprocess.run(command, timeout=300, **limited_to(1 << 30))
        assert result.returncode == 0, result.stderr
        print(f"{name}: {int(result.stdout)} KB, bound {bound // 1024} KB and 24 MB")
        assert int(result.stdout) * 1024 < bound + (24 << 20)


def test_more_than_memory_holds(tmp_path: Path) -> None:
    """Silence packs well: a FLAC of some 100 KB holds 400 MB, too much for this process."""
    path = tmp_path / "in.flac"
    with soundfile.SoundFile(path, "w", 16000, 1, subtype="PCM_16", format="FLAC") as file:
        for _ in range(96):
            file.write(np.zeros(1 << 20, np.int16))
    code = (
        "import sys\nfrom codec.errors import AudioError\nfrom codec.io.audio import read_audio\n"
        "try: read_audio(sys.argv[1])\nexcept AudioError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, timeout=300, **limited_to(512 << 20))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{path}: is too long for the memory; split it first\n"


# ---------------------------------------------------------------------------- mutations

SEEDS = [
    *(wav(), extensible(PCM_GUID), wav(channels=2), wav(3, bits=32, data=bytes(400))),
    *(encoded("WAV", kind) for kind in ("PCM_U8", "PCM_24", "DOUBLE", "ULAW", "IMA_ADPCM")),
    *(encoded("WAV", kind) for kind in ("MS_ADPCM", "GSM610", "G721_32")),
    *(encoded(container, channels=2) for container in ("RF64", "W64", "AIFF", "AU", "CAF")),
    *(encoded("FLAC"), encoded("OGG", "VORBIS"), encoded("OGG", "OPUS")),
]
NUMBERS = [0, 1, 2, 255, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a small valid file with some bytes changed, put in, taken out, or cut off."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(len(data), 120) if draw(st.booleans()) else len(data)))
        how = draw(st.sampled_from(("byte", "number", "insert", "remove", "cut")))
        if how == "byte":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif how == "number":
            size = draw(st.sampled_from((2, 4, 8)))
            value = draw(st.sampled_from(NUMBERS)) & ((1 << 8 * size) - 1)
            order = draw(st.sampled_from(("little", "big")))
            data[place : place + size] = value.to_bytes(size, order)
        elif how == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif how == "remove":
            del data[place : place + draw(st.integers(1, 9))]
        else:
            del data[place:]
    return bytes(data)


def _memory(field: str) -> int:
    """Return VmRSS or VmHWM (its peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _check_mutation(data: bytes, path: Path) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    num_samples, _ = read(data, path)
    grown = _memory("VmHWM") - before
    # GSM packs 320 samples into 65 bytes; Vorbis and Opus may say silence in a byte or two.
    assert (num_samples or 0) <= 4096 * (len(data) + 1)
    assert grown < (8 << 20)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mutated") / "in.wav"
    read(b"FLV\x01\x11F6", path)  # PyAV, which such a file loads, takes memory once
    return path


quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=quiet)
@given(data=mutated())
def test_mutations(data: bytes, scratch: Path) -> None:
    _check_mutation(data, scratch)


@pytest.mark.slow
@settings(max_examples=20000, deadline=None, database=None, suppress_health_check=quiet)
@given(data=mutated())
def test_many_mutations(data: bytes, scratch: Path) -> None:
    _check_mutation(data, scratch)
