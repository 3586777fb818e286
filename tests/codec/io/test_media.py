"""What libsndfile does not read: through PyAV, through ffmpeg, and without either."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import Codec
from codec.errors import AudioError
from codec.io.audio import AudioReader, list_audio, read_audio
from codec.pieces import EncodeOptions
from codec.pipe import encode_pipe
from codec.transcode import encode_file

av = pytest.importorskip("av")

RATE = 48000
# Suffix, container, coder of the sound, and whether there is a picture as well.
KINDS = [
    (".m4a", "ipod", "aac", False),
    (".mp4", "mp4", "aac", True),
    (".aac", "adts", "aac", False),
    (".webm", "webm", "libopus", False),
    (".mkv", "matroska", "libopus", True),
    (".mov", "mov", "pcm_s16le", False),
    (".mka", "matroska", "libopus", False),
    (".ts", "mpegts", "aac", False),
    (".avi", "avi", "pcm_s16le", True),
]
BY_SUFFIX = {kind[0]: kind for kind in KINDS}


def sound(seconds: float = 1.5, channels: int = 1) -> np.ndarray:
    """Return two tones that are turned on and off, float32 [T, channels]."""
    t = np.arange(round(seconds * RATE)) / RATE
    x = 0.3 * np.sin(2 * np.pi * 440 * t) * (np.sin(2 * np.pi * 3 * t) > 0)
    return np.repeat(x.astype(np.float32)[:, None], channels, axis=1)


def media(suffix: str, x: np.ndarray, tracks: int = 1) -> bytes:
    """Return a file with this sound, in so many tracks."""
    _, container, coder, picture = BY_SUFFIX[suffix]
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[x.shape[1]]
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        streams = []
        if picture:
            video = file.add_stream("mpeg4", rate=10)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        for _ in range(tracks):
            streams.append(file.add_stream(coder, rate=RATE, layout=layout))
        if picture:
            for number in range(10):
                frame = av.VideoFrame(64, 64, "yuv420p")
                frame.pts = number
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
        for stream in streams:
            wanted = stream.format.name
            resampler = av.AudioResampler(
                format=wanted, layout=layout, rate=RATE, frame_size=stream.frame_size or 1024
            )
            whole = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(x.reshape(1, -1)), format="flt", layout=layout
            )
            whole.sample_rate = RATE
            for part in [*resampler.resample(whole), *resampler.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
    return out.getvalue()


@pytest.fixture(params=["PyAV", "ffmpeg"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What reads: PyAV, or ffmpeg where PyAV is not installed."""
    if request.param == "ffmpeg":
        if shutil.which("ffmpeg") is None:
            pytest.skip("ffmpeg is not installed")
        monkeypatch.setitem(sys.modules, "av", None)
    return str(request.param)


def assert_like(found: np.ndarray, x: np.ndarray, spare: int) -> None:
    """Assert that a signal is found, later by as much as coders delay it."""
    assert len(x) <= len(found) + 100 and len(found) <= len(x) + spare
    size = 1 << 18
    product = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(x, size)))
    lag = int(np.argmax(product))
    assert lag <= spare
    cut = found[lag : lag + len(x)]
    assert np.corrcoef(cut, x[: len(cut)])[0, 1] > 0.98
    assert np.std(cut) == pytest.approx(np.std(x), rel=0.05)


@pytest.mark.parametrize("suffix", list(BY_SUFFIX))
def test_reads(suffix: str, reader: str, tmp_path: Path) -> None:
    x = sound()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(media(suffix, x))
    wave, rate, notes = read_audio(path)
    assert (rate, notes) == (RATE, [])
    assert_like(wave, x[:, 0], 5000)


def test_files_pipes_and_names(codec: Codec, reader: str, tmp_path: Path) -> None:
    """The same by path as by pipe, under any name, and in directories."""
    data = media(".m4a", sound(0.5))
    name = os.fsdecode(b"concat:-\n\xff|.m4a")
    (tmp_path / name).write_bytes(data)
    assert list_audio(tmp_path) == [tmp_path / name]
    outcome = encode_file(codec, tmp_path / name, tmp_path / "a.bin", EncodeOptions())
    assert outcome.notes == ["resampled from 48000 to 16000 Hz"]
    pieces: list[bytes] = []
    outcome = encode_pipe(codec, io.BytesIO(data), pieces.append, EncodeOptions())
    assert b"".join(pieces) == (tmp_path / "a.bin").read_bytes()
    assert outcome.notes[-1] == "this kind of file is read to its end before it is coded"


def test_channels_and_tracks(reader: str, tmp_path: Path) -> None:
    x = sound(0.5, 6)
    x[:, [0, 1, 3, 4, 5]] = 0  # a voice in the centre
    path = tmp_path / "a.mkv"
    path.write_bytes(media(".mkv", x, tracks=2))
    wave, _, notes = read_audio(path)
    assert_like(wave, x[:, 2], 5000)
    assert any("downmixed 6 channels" in note for note in notes)
    if reader == "PyAV":
        assert "has 2 sound tracks: took the first" in notes


def test_cut_and_damaged(reader: str, tmp_path: Path) -> None:
    """What can be read is read, and a note says that it is not all."""
    whole = media(".aac", sound(3.0))
    path = tmp_path / "a.aac"
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(300) + whole[half + 300 :])
    wave, _, _ = read_audio(path)
    assert len(wave) > 2.5 * RATE
    path = tmp_path / "a.webm"
    whole = media(".webm", sound(3.0))
    path.write_bytes(whole[: len(whole) // 2])
    wave, _, notes = read_audio(path)
    assert RATE < len(wave) < 2 * RATE
    assert notes and "used" in notes[0]


def test_what_cannot_be_read(reader: str, tmp_path: Path) -> None:
    m4a = media(".m4a", sound(0.5))
    silent = io.BytesIO()
    with av.open(silent, "w", format="matroska") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        file.mux([*video.encode(av.VideoFrame(64, 64, "yuv420p")), *video.encode(None)])
    for data, words in (
        (m4a[: len(m4a) // 2], f"neither libsndfile nor {reader} can read"),  # its index is last
        (b"\0\0\0\x20ftypM4A " + bytes(100), "is MP4, M4A or MOV"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "is WebM or Matroska"),
        (silent.getvalue(), "without a sound track"),
    ):
        path = tmp_path / "a.m4a"
        path.write_bytes(data)
        with pytest.raises(AudioError, match=words) as caught:
            read_audio(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: ") and "\n" not in text and "; " in text
        assert text.count(str(path)) == 1


def test_neither_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert str(caught.value) == (
        f"{path}: is MP4, M4A or MOV, which libsndfile cannot read; install PyAV (pip install "
        "'.[media]') or ffmpeg, or convert it to WAV first"
    )


def test_a_reader_that_is_closed_early_leaves_nothing(reader: str, tmp_path: Path) -> None:
    """No process goes on, and no file stays open."""
    path = tmp_path / "a.mka"
    path.write_bytes(media(".mkv", sound(30.0)))
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    with AudioReader(path) as file:
        assert len(next(file.blocks()))
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        for child in children.read_text().split():
            name = Path(f"/proc/{child}/comm")
            assert not name.exists() or name.read_text().strip() != "ffmpeg"


@pytest.mark.skipif(
    shutil.which("sox") is None or shutil.which("ffmpeg") is None, reason="needs sox and ffmpeg"
)
def test_amr(codec: Codec, tmp_path: Path) -> None:
    """Speech of mobile phones, as sox writes and ffmpeg reads it."""
    soundfile.write(tmp_path / "in.wav", sound()[::6, 0], 8000)
    path = tmp_path / "a.amr"
    made = subprocess.run(["sox", tmp_path / "in.wav", "-t", "amr-nb", path], capture_output=True)
    if made.returncode != 0:
        pytest.skip("sox has no coder for AMR")
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "f32le", "-"]
    wanted = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")
    waveform, rate, _ = read_audio(path)
    assert rate == 8000 and len(waveform) == 12000
    np.testing.assert_allclose(waveform, wanted, atol=1e-6)
    encode_file(codec, path, tmp_path / "a.bin", EncodeOptions())
    pieces: list[bytes] = []
    outcome = encode_pipe(codec, io.BytesIO(path.read_bytes()), pieces.append, EncodeOptions())
    assert b"".join(pieces) == (tmp_path / "a.bin").read_bytes() and outcome.seconds == 1.5
