"""Audio files: containers, channels, rates, links, folders."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.errors import AudioError
from codec.io import audio
from codec.io.audio import AudioReader, list_audio, read_audio
from codec.io.mpeg import frame_length

ROOT = Path(audio.__file__).parents[2]


def sine(frequency: float, rate: int, num_samples: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(num_samples) / rate)).astype(np.float32)


# ---------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "ogg", "mp3"])
def test_reads_containers(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    x = sine(440, 44100, 20000)
    soundfile.write(path, x, 44100)
    y, rate, notes = read_audio(path)
    assert (rate, notes, y.dtype) == (44100, [], np.float32)
    if suffix in ("ogg", "mp3"):  # lossy: the level must hold
        assert abs(np.std(y[5000:15000]) / np.std(x) - 1) < 0.05
    else:
        assert y.shape == x.shape
        assert np.abs(y - x).max() <= 1 / 32768


def test_downmix_is_said(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = sine(300, 48000, 100_000), sine(500, 48000, 100_000)  # more than one block
    soundfile.write(path, np.stack([left, right, right], axis=1), 48000, subtype="FLOAT")
    y, rate, notes = read_audio(path)
    assert rate == 48000
    assert notes == ["downmixed 3 channels to mono"]
    expected = (left + right) / 2 + 0.5**0.5 * right
    share = np.dot(y, expected) / np.dot(expected, expected)  # no louder than the loudest channel
    assert 0.5 < share < 1
    np.testing.assert_allclose(y, share * expected, atol=1e-5)


def test_empty_file_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0), 16000)
    y, rate, notes = read_audio(path)
    assert (y.shape, y.dtype, rate, notes) == ((0,), np.float32, 16000, ["the file has no samples"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "bad.wav"
    x = np.zeros(100_000)
    x[99_999] = bad
    soundfile.write(path, x, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        read_audio(path)


def _refused(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_bad_files_give_one_line_with_the_name(tmp_path: Path) -> None:
    assert "no such file" in _refused(tmp_path / "missing.wav")
    assert "is a directory" in _refused(tmp_path)
    for name, data in [
        ("zero.flac", b""),
        ("noise.bin", bytes(range(256)) * 8),
        ("headless.raw", bytes(1000)),
    ]:
        (tmp_path / name).write_bytes(data)
        assert "libsndfile" in _refused(tmp_path / name)
    (tmp_path / "text.wav").write_bytes(b"hello, this is not audio")
    assert "is text, no audio" in _refused(tmp_path / "text.wav")


def test_header_without_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(10), 16000)
    data = bytearray(path.read_bytes())
    data[22:24] = b"\0\0"
    path.write_bytes(data)
    _refused(path)


@pytest.mark.parametrize("rate", [999, 768001])
def test_rates_out_of_range(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(10), rate)
    assert f"{rate} Hz is outside" in _refused(path)


def test_list_audio(tmp_path: Path) -> None:
    names = ["b.wav", "a/z.FLAC", "a/c.ogg", "a/b/d.mp3"]
    for name in [*names, "readme.txt", ".hidden.wav", ".git/x.wav", "a/x.wav.part"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_audio(tmp_path)]
    assert found == ["a/b/d.mp3", "a/c.ogg", "a/z.FLAC", "b.wav"]
    with pytest.raises(AudioError, match="no such directory"):
        list_audio(tmp_path / "b.wav")


def test_one_channel_of_choice(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    left, right = sine(300, 16000, 5000), sine(500, 16000, 5000)
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    wave, _, notes = read_audio(path, channel=2)
    np.testing.assert_array_equal(wave, right)
    assert notes == ["took channel 2 of 2"]
    for channel in (0, 3):
        with pytest.raises(AudioError, match=f"a.wav: has 2 channels, no channel {channel}"):
            read_audio(path, channel)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_antiphase_and_one_sided_stereo(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    x = sine(300, 48000, 100_000)
    for right, word in ((-x, "sign changed"), (0 * x, "only channel 1")):
        soundfile.write(path, np.stack([x, right], axis=1), 48000)
        wave, _, notes = read_audio(path)
        assert word in notes[0]
        assert np.std(wave) == pytest.approx(np.std(x), rel=0.02)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_surround_with_a_voice_in_the_centre(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    frames = np.zeros((60_000, 6), np.float32)
    centre = 1 if suffix == "ogg" else 2  # the order of Vorbis
    frames[:, centre] = sine(300, 48000, 60_000)
    soundfile.write(path, frames, 48000)
    wave, _, notes = read_audio(path)
    assert np.std(wave) == pytest.approx(np.std(frames[:, centre]), rel=0.02)
    assert notes == [f"downmixed 6 channels to mono: only channel {centre + 1} has sound"]


def encoded(x: np.ndarray, rate: int, container: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, x, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    """As encoders write it into a pipe: STREAMINFO has 0 for the number of samples."""
    x = sine(440, 16000, 100_000)
    data = bytearray(encoded(x, 16000, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    wave, _, notes = read_audio(path)
    assert (len(wave), notes) == (100_000, [])
    np.testing.assert_allclose(wave, x, atol=1 / 32768)
    path.write_bytes(data + b"TAG" + bytes(125))  # ID3v1, as some programs append it
    assert len(read_audio(path)[0]) == 100_000


@pytest.mark.parametrize("known", [False, True])
def test_cut_flac(tmp_path: Path, known: bool) -> None:
    """A recorder that died in the middle of a frame: what came before is right and is used."""
    x = sine(440, 16000, 100_000)
    data = bytearray(encoded(x, 16000, "FLAC"))
    if not known:
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    path = tmp_path / "a.flac"
    path.write_bytes(data[: len(data) // 2])
    wave, _, notes = read_audio(path)
    assert 45_000 < len(wave) < 55_000
    np.testing.assert_allclose(wave, x[: len(wave)], atol=1 / 32768)
    where = f"{len(wave) / 16000:.1f} s after its start"
    assert notes == [f"the file is damaged {where}: what can be read is used"]


@pytest.mark.parametrize("kind", ["changed", "lost", "inserted"])
def test_flac_with_damage_in_the_middle(tmp_path: Path, kind: str) -> None:
    """Silence of the same length stands for what is lost; all else is exact."""
    x = 0.1 * np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    data = encoded(x, 16000, "FLAC")
    half = len(data) // 2
    middle = {"changed": bytes(100), "lost": b"", "inserted": bytes(500) + data[half : half + 100]}
    path = tmp_path / "a.flac"
    path.write_bytes(data[:half] + middle[kind] + data[half + 100 :])
    wave, _, notes = read_audio(path)
    assert len(wave) == 100_000
    wrong = np.flatnonzero(np.abs(wave - x) > 1 / 32768)
    assert len(wrong) and wrong[-1] - wrong[0] < 4096
    assert not wave[wrong].any()
    assert "damaged 3.1 s after its start" in notes[0] or "damaged 2.8 s" in notes[0]


def test_joined_flac(tmp_path: Path) -> None:
    first, second = sine(440, 16000, 20_000), sine(600, 16000, 10_000)
    path = tmp_path / "a.flac"
    path.write_bytes(encoded(first, 16000, "FLAC") + encoded(second, 16000, "FLAC"))
    wave, _, notes = read_audio(path)
    np.testing.assert_allclose(wave, np.concatenate([first, second]), atol=1 / 32768)
    assert notes == ["a chain of 2 recordings: read one after the other"]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg(tmp_path: Path, subtype: str) -> None:
    first, second = sine(440, 48000, 60_000), sine(600, 48000, 30_000)
    links = [encoded(x, 48000, "OGG", subtype) for x in (first, second, first)]
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(links))
    wave, rate, notes = read_audio(path)
    assert (len(wave), rate) == (150_000, 48000)
    assert notes == ["a chain of 3 recordings: read one after the other"]
    for start, x in ((0, first), (60_000, second), (90_000, first)):
        found = wave[start + 2000 : start + 25_000]
        assert np.corrcoef(found, x[2000:25_000])[0, 1] > 0.98
    path.write_bytes(b"".join(links)[:-100])
    assert "the file is cut off: what is there is used" in read_audio(path)[2]


def test_chained_ogg_of_several_rates_and_channels(tmp_path: Path) -> None:
    stereo = np.stack([sine(440, 22050, 22050)] * 2, axis=1)
    links = [(sine(440, 16000, 16000), 16000), (stereo, 22050)]
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(encoded(x, rate, "OGG", "VORBIS") for x, rate in links))
    wave, rate, notes = read_audio(path)
    assert (len(wave), rate) == (32_000, 16000)
    assert "part 2 has 22050 Hz: resampled to 16000" in notes
    spectrum = np.abs(np.fft.rfft(wave[17_000:31_000] * np.hanning(14_000)))
    assert abs(np.argmax(spectrum) * 16000 / 14_000 - 440) < 2


def test_cut_ogg_is_said(tmp_path: Path) -> None:
    data = encoded(0.1 * np.random.default_rng(0).standard_normal(60_000), 16000, "OGG")
    path = tmp_path / "a.ogg"
    path.write_bytes(data)
    assert read_audio(path)[2] == []
    path.write_bytes(data[: len(data) // 2])
    wave, _, notes = read_audio(path)
    assert 1000 < len(wave) < 60_000
    assert notes == ["the file is cut off: what is there is used"]


def test_mp3_with_junk_in_the_middle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What can be read is read, and libmpg123 does not print lines of its own."""
    x = 0.3 * np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    data = encoded(x, 16000, "MP3")
    half = len(data) // 2
    path = tmp_path / "a.mp3"
    whole = encoded_and_read(data, path)
    for junk in (bytes(100_000), bytes(range(256)) * 400, np.random.default_rng(1).bytes(3000)):
        path.write_bytes(data[:half] + junk + data[half:])
        wave, _, notes = read_audio(path)
        assert len(wave) == len(x)
        count = int(notes[0].split()[0])
        assert len(junk) <= count < len(junk) + 500  # and the frame that it broke
        assert notes[0].endswith("bytes between its frames are not MP3: left out")
        differs = np.flatnonzero(np.abs(wave - whole) > 1e-3)
        assert differs[-1] - differs[0] < 5 * 576
    assert capfd.readouterr().err == ""


def encoded_and_read(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    return read_audio(path)[0]


def test_joined_mp3(tmp_path: Path) -> None:
    """The first one says how many frames it has, and libmpg123 would stop there."""
    first, second = sine(440, 16000, 40_000), sine(600, 16000, 20_000)
    files = [encoded(first, 16000, "MP3"), encoded(second, 16000, "MP3")]
    frames = files[1][frame_length(files[1]) :]  # without the one that counts them
    tag = b"ID3\3\0\0\0\0\1\0" + bytes(128)
    path = tmp_path / "a.mp3"
    for joined in (files[0] + files[1], files[0] + b"TAG" + bytes(125) + tag + files[1]):
        wave = encoded_and_read(joined, path)
        assert len(wave) == 60_000
        assert np.corrcoef(wave[45_000:55_000], second[5000:15_000])[0, 1] > 0.98
        assert read_audio(path)[2] == ["a chain of 2 recordings: read one after the other"]
    assert len(encoded_and_read(files[0] + frames, path)) > 60_000
    # Of a variable bitrate, and without a count: libsndfile would guess the length.
    wave = encoded_and_read(frames, path)
    assert 20_000 <= len(wave) < 22_000
    assert np.abs(wave[6000:15_000]).max() > 0.1


def test_samples_are_not_taken_for_mp3(tmp_path: Path) -> None:
    """Of which any that begin with -1 look like a frame to libmpg123."""
    path = tmp_path / "a.sln"
    pcm = np.random.default_rng(0).integers(-500, 500, 40_000).astype("<i2")
    pcm[:2] = -1, 4
    path.write_bytes(pcm.tobytes())
    with pytest.raises(AudioError, match="--raw"):
        read_audio(path)


def test_blocks_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((100_000, 4)), 16000)
    with AudioReader(path) as reader:
        sizes = [len(block) for block in reader.blocks()]
    assert sum(sizes) == reader.num_samples == 100_000
    assert sizes == [1 << 16, 100_000 - (1 << 16)]


def test_not_a_regular_file() -> None:
    for device in ("/dev/null", "/dev/zero"):
        with pytest.raises(AudioError, match=f"{device}: is no regular file; pipe it in"):
            read_audio(device)


def test_import_is_light() -> None:
    code = (
        "import sys; import codec.io.audio\n"
        "sys.exit(', '.join({'torch', 'scipy', 'numba', 'soxr'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
