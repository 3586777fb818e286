"""Training data: loading, torchaudio corpora, seeded crops."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.errors import AudioError
from models.training.data import CropSampler, load_directory, load_torchaudio


def tone(seconds: float, level: float = 0.1) -> np.ndarray:
    t = np.arange(int(16000 * seconds)) / 16000
    return level * np.sin(2 * np.pi * 300 * t)


def test_load_directory_resamples_and_keeps_level(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0), 16000)
    t = np.arange(8000) / 8000
    soundfile.write(tmp_path / "b.flac", 0.1 * np.sin(2 * np.pi * 300 * t), 8000)
    recordings = load_directory(tmp_path)
    assert [len(r) for r in recordings] == [16000, 16000]
    for recording in recordings:
        assert recording.dtype == np.int16
        assert np.abs(recording[2000:-2000]).max() == pytest.approx(3277, rel=0.02)


def test_broken_files_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them at once; only where nothing is left is that an error."""
    for name in ("a.wav", "d.wav"):
        soundfile.write(tmp_path / name, tone(0.5), 16000)
    (tmp_path / "b\n.wav").write_bytes(b"RIFF, or so it says")
    (tmp_path / "c.flac").write_bytes(bytes(100))
    said: list[str] = []
    assert [len(r) for r in load_directory(tmp_path, report=said.append)] == [8000, 8000]
    assert [
        str(tmp_path / name) in text for name, text in zip(("b", "c.flac"), said, strict=False)
    ] == [True] * 2
    assert said[2:] == [f"2 of 4 files in {tmp_path} cannot be read and are left out"]
    load_directory(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("codec: note: ") for line in lines)
    for name in ("a.wav", "d.wav"):
        (tmp_path / name).unlink()
    with pytest.raises(AudioError, match="none of the 2 audio files"):
        load_directory(tmp_path)


def test_no_audio(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no speech here")
    with pytest.raises(AudioError, match="no audio files"):
        load_directory(tmp_path)


def test_too_little_audio() -> None:
    with pytest.raises(AudioError, match="give more audio"):
        CropSampler([np.zeros(100, np.int16)], 16000, 0)


def test_librispeech_through_torchaudio(tmp_path: Path) -> None:
    folder = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    folder.mkdir(parents=True)
    soundfile.write(folder / "84-121123-0000.flac", tone(0.5), 16000)
    (folder / "84-121123.trans.txt").write_text("84-121123-0000 A TONE\n")
    recordings = load_torchaudio("librispeech:dev-clean", tmp_path, download=False)
    assert [len(r) for r in recordings] == [8000]


@pytest.mark.parametrize("name", ["librispeech:train-clean-100", "yesno"])
def test_missing_corpus_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError) as caught:
        load_torchaudio(name, tmp_path, download=False)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown dataset 'timit'"):
        load_torchaudio("timit", tmp_path)


def test_crops_depend_on_seed_and_step_only() -> None:
    rng = np.random.default_rng(0)
    recordings = [rng.normal(0, 3000, 40000).astype(np.int16) for _ in range(3)]
    first, second = (CropSampler(recordings, 8000, 5) for _ in range(2))
    first.batch(1, 4)
    assert (first.batch(7, 4) == second.batch(7, 4)).all()
    assert (first.batch(7, 4) != first.batch(8, 4)).any()
    assert (first.batch(7, 4) != CropSampler(recordings, 8000, 6).batch(7, 4)).any()


def test_crops_avoid_silence_and_stay_in_range() -> None:
    rng = np.random.default_rng(1)
    loud = rng.normal(0, 9000, 16000).clip(-32768, 32767).astype(np.int16)
    sampler = CropSampler([np.zeros(48000, np.int16), loud, np.zeros(48000, np.int16)], 4000, 0)
    crops = sampler.batch(0, 32).numpy()
    assert crops.shape == (32, 4000) and crops.dtype == np.float32
    assert np.abs(crops).max() <= 1.0
    # 14 % of the recordings are not silent; without the check 1 crop in 6 would be.
    assert (crops.std(-1) > 1e-3).mean() > 0.8
    levels = 20 * np.log10(crops.std(-1)[crops.std(-1) > 1e-3])
    assert np.ptp(levels) > 8  # dB: the level is varied


def test_recordings_of_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match="have no samples"):
        load_directory(tmp_path)
    with pytest.raises(AudioError, match="digital silence"):
        CropSampler([np.zeros(16000, np.int16)], 8000, 0)
