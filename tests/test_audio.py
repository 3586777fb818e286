"""Files in and out: containers, channels, rates, broken files, atomic writes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec import audio
from codec.audio import (
    AudioError,
    atomic_open,
    atomic_write,
    from_codec_rate,
    is_direct,
    list_audio,
    read_audio,
    to_codec_rate,
    write_wav,
)


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


def test_downmix_is_the_mean_and_is_said(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = sine(300, 48000, 100_000), sine(500, 48000, 100_000)  # more than one block
    soundfile.write(path, np.stack([left, right, right], axis=1), 48000, subtype="FLOAT")
    y, rate, notes = read_audio(path)
    assert rate == 48000
    assert notes == ["downmixed 3 channels to mono"]
    np.testing.assert_allclose(y, (left + 2 * right) / 3, atol=1e-7)


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
        ("text.wav", b"hello, this is not audio"),
        ("zero.flac", b""),
        ("noise.bin", bytes(range(256)) * 8),
        ("headless.raw", bytes(1000)),
    ]:
        (tmp_path / name).write_bytes(data)
        assert "libsndfile" in _refused(tmp_path / name)


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
    with pytest.raises(AudioError, match="outside"):
        to_codec_rate(np.zeros(10), rate)


def test_list_audio(tmp_path: Path) -> None:
    names = ["b.wav", "a/z.FLAC", "a/c.ogg", "a/b/d.mp3"]
    for name in [*names, "readme.txt", ".hidden.wav", ".git/x.wav", "a/x.wav.part"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_audio(tmp_path)]
    assert found == ["a/b/d.mp3", "a/c.ogg", "a/z.FLAC", "b.wav"]
    with pytest.raises(AudioError, match="no such directory"):
        list_audio(tmp_path / "b.wav")


# ---------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44101, 15999, 1000])
@pytest.mark.parametrize("num_samples", [0, 1, 2, 159, 4801])
def test_lengths_are_exact(rate: int, num_samples: int) -> None:
    x = np.ones(num_samples, np.float32)
    y = to_codec_rate(x, rate)
    assert y.shape == (ceil(num_samples * 16000 / rate),)
    assert y.dtype == np.float32
    assert from_codec_rate(y, rate, num_samples).shape == (num_samples,)


def test_codec_rate_is_untouched() -> None:
    x = sine(1000, 16000, 1234)
    np.testing.assert_array_equal(to_codec_rate(x, 16000), x)
    np.testing.assert_array_equal(from_codec_rate(x, 16000, 1234), x)


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 44101])
def test_a_sine_keeps_frequency_phase_and_level(rate: int) -> None:
    y = to_codec_rate(sine(1000, rate, rate // 2), rate)
    middle = slice(200, -200)
    assert np.abs(y - sine(1000, 16000, y.size))[middle].max() < 2e-3
    back = from_codec_rate(y, rate, rate // 2)
    assert np.abs(back - sine(1000, rate, rate // 2))[600:-600].max() < 4e-3


def test_no_aliasing() -> None:
    y = to_codec_rate(sine(9000, 48000, 24000), 48000)
    assert np.abs(y[200:-200]).max() < 1e-3


@pytest.mark.parametrize("old, new", [(44100, 16000), (8000, 16000), (16000, 22050)])
def test_both_resamplers_agree(old: int, new: int) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 3000).astype(np.float32)
    ours = audio._sinc_resample(x, old, new)
    np.testing.assert_allclose(ours, audio._resample(x, old, new), atol=1e-4)


# ---------------------------------------------------------------------------- writing


def test_write_wav_rounds_and_clips(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, np.array([0, 0.4 / 32768, 0.6 / 32768, 1.0, -1.0, 7.0, -7.0, -0.5]), 16000)
    y, rate = soundfile.read(path, dtype="int16")
    assert rate == 16000
    assert y.tolist() == [0, 0, 1, 32767, -32768, 32767, -32768, -16384]
    assert soundfile.info(path).subtype == "PCM_16"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("num_samples", [0, 1, 1000])
@pytest.mark.parametrize("rate", [8000, 16000, 768000])
def test_wav_is_that_of_libsndfile(tmp_path: Path, num_samples: int, rate: int) -> None:
    x = sine(440, rate, num_samples)
    write_wav(tmp_path / "ours.wav", x, rate)
    soundfile.write(tmp_path / "theirs.wav", audio.to_int16(x), rate, subtype="PCM_16")
    assert (tmp_path / "ours.wav").read_bytes() == (tmp_path / "theirs.wav").read_bytes()


def test_int16_survives_a_round_trip(tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "in.wav", x, 16000)
    write_wav(tmp_path / "out.wav", read_audio(tmp_path / "in.wav")[0], 16000)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav", dtype="int16")[0], x)


def test_failed_writes_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept.wav"
    kept.write_bytes(b"old")
    with pytest.raises(AudioError, match="NaN"):
        write_wav(kept, np.array([np.nan]), 16000)
    with pytest.raises(AudioError, match="cannot be written"):
        atomic_write(tmp_path / "no" / "dir.bin", b"x")
    with pytest.raises(AudioError, match="cannot be written"):
        atomic_write(tmp_path, b"x")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audio.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(kept, b"new")
    assert kept.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.wav"]


@pytest.fixture(params=["unnamed", "named", "no links"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways of writing: without a name, with one, and without one but no way to link."""
    if request.param == "named":
        monkeypatch.delattr(audio.os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no files without a name")
    if request.param == "no links":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(audio.os, "link", refuse)
    return request.param


@pytest.mark.parametrize("old", [None, b"old and longer than the new one" * 1000])
def test_atomic_open(tmp_path: Path, way: str, old: bytes | None) -> None:
    path = tmp_path / "out.bin"
    if old is not None:
        path.write_bytes(old)
    with atomic_open(path) as file:
        file.write(b"head")
        file.write(bytes(100_000))
        file.seek(0)
        file.write(b"HE")
        file.seek(0)
        assert file.read(4) == b"HEad"
        assert (path.read_bytes() if path.exists() else None) == old
        if way == "unnamed":
            assert [p.name for p in tmp_path.iterdir()] == ["out.bin"] * (old is not None)
    assert path.read_bytes() == b"HEad" + bytes(100_000)
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_atomic_open_given_up(tmp_path: Path, way: str, error: type[BaseException]) -> None:
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(error, match="^mine$"), atomic_open(tmp_path / name) as file:
            file.write(bytes(100_000))
            raise error("mine")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"old": b"old"}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_a_new_file(tmp_path: Path, way: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_bytes(b"")
        atomic_write(tmp_path / "ours", b"")
        atomic_write(tmp_path / "ours again", b"1")
        atomic_write(tmp_path / "ours again", b"2")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_a_link_stays_a_link(tmp_path: Path, way: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("there", "not there"):
        (tmp_path / name).symlink_to(Path("folder") / name)
    (tmp_path / "folder" / "there").write_bytes(b"old")
    for name in ("there", "not there"):
        atomic_write(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "folder" / name).read_bytes() == b"new"
    assert len(list(tmp_path.rglob("*"))) == 5


def test_longest_name(tmp_path: Path, way: str) -> None:
    path = tmp_path / ("n" * 255)
    for data in (b"1", b"2"):
        atomic_write(path, data)
        assert path.read_bytes() == data


def test_open_files_and_pipes_are_written_to_directly(tmp_path: Path) -> None:
    """A redirected /dev/stdout must not be replaced: the link in /dev belongs to everybody."""
    code = (
        "import sys; from codec.audio import atomic_write\n"
        "print('before', flush=True); atomic_write(sys.argv[1], b'ours\\n'); print('after')"
    )
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    for name in ("/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", str(link)):
        assert is_direct(name)
        command = [sys.executable, "-c", code, name]
        root = Path(audio.__file__).parent.parent
        with open(tmp_path / "out", "wb") as out:
            subprocess.run(command, check=True, stdout=out, cwd=root)
        assert (tmp_path / "out").read_bytes() == b"before\nours\nafter\n"
        piped = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root)
        assert piped.stdout == b"before\nours\nafter\n"
    assert os.readlink(link) == "/dev/stdout"
    assert is_direct("/dev/null")
    for name in ("new", "out", "no/folder/here"):
        assert not is_direct(tmp_path / name)
    with pytest.raises(AudioError, match="/dev/full: cannot be written"):
        atomic_write("/dev/full", b"x")


def test_too_long_for_a_wav_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MAX_WAV_SAMPLES", 10)
    write_wav(tmp_path / "a.wav", np.zeros(10), 16000)
    with pytest.raises(AudioError, match="more than a WAV file can hold"):
        write_wav(tmp_path / "b.wav", np.zeros(11), 16000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_import_is_light() -> None:
    root = Path(audio.__file__).parent
    code = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('audio', r'{root / 'audio.py'}')\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
