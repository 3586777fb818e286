"""Channels to one, and arrays of any shape and type."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from codec.errors import AudioError
from codec.io.channels import BLOCK_SAMPLES, Downmix, downmix, to_mono

RNG = np.random.default_rng(0)
VOICE = (0.1 * RNG.standard_normal(48000)).astype(np.float32)
OTHER = (0.1 * RNG.standard_normal(48000)).astype(np.float32)
SILENCE = np.zeros_like(VOICE)


def in_blocks(frames: np.ndarray, size: int = 999) -> Iterator[np.ndarray]:
    return (frames[start : start + size] for start in range(0, len(frames), size))


def level(wave: np.ndarray) -> float:
    """Return the level beside that of VOICE in dB."""
    return 10 * np.log10(float(np.square(wave, dtype=np.float64).sum()
                               / np.square(VOICE, dtype=np.float64).sum()))  # fmt: skip


def mixed(*channels: np.ndarray, ogg: bool = False) -> tuple[np.ndarray, str]:
    frames = np.stack(channels, axis=1)
    mix = downmix(in_blocks(frames), len(channels), ogg)
    return mix(frames), mix.note


# --- what is in the channels ----------------------------------------------------------------------


def test_stereo_is_the_mean() -> None:
    wave, note = mixed(VOICE, OTHER)
    assert note == "downmixed 2 channels to mono"
    expected = ((VOICE.astype(np.float64) + OTHER) / 2).astype(np.float32)
    np.testing.assert_array_equal(wave, expected)
    np.testing.assert_array_equal(mixed(VOICE, VOICE)[0], VOICE)
    assert mixed(VOICE)[1] == ""


@pytest.mark.parametrize("share", [1.0, 0.99, 0.7])
def test_antiphase_stereo_is_not_silent(share: float) -> None:
    wave, note = mixed(VOICE, -share * VOICE)
    assert "channel 2 with the sign changed" in note
    assert level(wave) > -2
    wave, note = mixed(-0.9 * share * VOICE, VOICE)  # the louder one keeps its sign
    assert "channel 1 with the sign changed" in note
    assert np.dot(wave, VOICE) > 0


@pytest.mark.parametrize("count", [2, 3, 6, 8, 16])
@pytest.mark.parametrize("place", [0, 1, 2, -1])
def test_one_channel_of_many_keeps_its_level(count: int, place: int) -> None:
    channels = [SILENCE] * count
    channels[place % count] = VOICE
    wave, note = mixed(*channels)
    np.testing.assert_array_equal(wave, VOICE)
    assert f"only channel {place % count + 1} has sound" in note


def test_one_loud_channel_keeps_its_level_and_the_other_is_heard() -> None:
    wave, note = mixed(VOICE, 0.01 * OTHER)
    assert "at the level of the loudest one, channel 1" in note
    assert abs(level(wave)) < 0.1
    assert np.corrcoef(wave - VOICE, OTHER)[0, 1] > 0.9


def test_surround_takes_the_standard_coefficients() -> None:
    music = [0.02 * RNG.standard_normal(48000).astype(np.float32) for _ in range(5)]
    left, right, low, back_left, back_right = music
    wave, note = mixed(left, right, VOICE, low, back_left, back_right)
    assert note == "downmixed 6 channels to mono"
    expected = 0.5 * (left + right) + 0.5**0.5 * VOICE + 0.5**1.5 * (back_left + back_right)
    np.testing.assert_allclose(wave, expected, atol=1e-6)
    assert -3.2 < level(wave) < 0
    # Vorbis and Opus: left, centre, right, surrounds, low frequencies.
    again, _ = mixed(left, VOICE, right, back_left, back_right, low, ogg=True)
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_the_same_in_all_channels_is_not_louder() -> None:
    for count in (2, 3, 4, 5, 6, 7, 8, 20):
        assert -6.0 <= level(mixed(*[VOICE] * count)[0]) < 0.01


def test_many_that_have_nothing_in_common() -> None:
    voices = [0.1 * RNG.standard_normal(20000).astype(np.float32) for _ in range(20)]
    frames = np.stack(voices, axis=1)
    wave = downmix(in_blocks(frames), 20)(frames)
    assert 0.9 < np.std(wave) / 0.1 < 1.1


def test_silence() -> None:
    wave, note = mixed(SILENCE, SILENCE)
    assert not wave.any()
    assert note == "downmixed 2 channels to mono"


def test_how_the_signal_is_cut_does_not_matter() -> None:
    frames = np.stack([VOICE, 0.001 * OTHER, -VOICE], axis=1)
    whole = downmix([frames], 3)
    pieces = downmix(in_blocks(frames), 3)
    assert whole == pieces
    cut = np.concatenate([pieces(block) for block in in_blocks(frames, 7)])
    np.testing.assert_array_equal(whole(frames), cut)


# --- arrays ---------------------------------------------------------------------------------------


def test_shapes_that_are_clear() -> None:
    stereo = np.stack([VOICE, OTHER])
    mean = ((VOICE.astype(np.float64) + OTHER) / 2).astype(np.float32)
    for wave in (VOICE, VOICE[None], VOICE[:, None], VOICE.tolist(), VOICE.astype(np.float64)):
        np.testing.assert_array_equal(to_mono(wave), VOICE)
    for wave in (stereo, stereo.T, np.asfortranarray(stereo)):
        np.testing.assert_array_equal(to_mono(wave), mean)
        np.testing.assert_array_equal(to_mono(wave, 2), OTHER)
    assert to_mono(np.zeros((1, 5))).shape == (5,)
    assert to_mono(np.zeros((2, 9))).shape == to_mono(np.zeros((9, 2))).shape == (9,)
    assert to_mono(np.zeros((16, 4000))).shape == (4000,)
    for empty in (np.zeros(0), np.zeros((0, 2)), np.zeros((2, 0)), np.zeros((1, 0)), []):
        assert to_mono(empty).shape == (0,)


@pytest.mark.parametrize(
    "shape", [(), (2, 2), (2, 1), (5, 3), (3, 8), (100, 200), (2, 3, 4), (1, 1, 100)]
)
def test_shapes_that_are_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioError, match="has shape"):
        to_mono(np.zeros(shape))


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "uint16"])
def test_pcm_is_scaled_by_its_type(dtype: str) -> None:
    limits = np.iinfo(dtype)
    middle = 0 if limits.min else limits.max // 2 + 1
    quarter = (limits.max + 1 - middle) // 4
    pcm = np.array([limits.min, middle - quarter, middle, middle + quarter, limits.max], dtype)
    wave = to_mono(pcm)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave[:4], [-1, -0.25, 0, 0.25])
    assert 0.99 < wave[4] <= 1
    np.testing.assert_array_equal(to_mono(np.stack([pcm] * 4000)[:, :2]).shape, (4000,))


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "complex128", "U3"])
def test_types_that_are_not_clear(dtype: str) -> None:
    with pytest.raises(AudioError, match="give floats"):
        to_mono(np.zeros(100).astype(dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e6, -1e6, 1e300])
def test_values_that_cannot_be_coded(bad: float) -> None:
    wave = np.zeros((2, 100))
    wave[1, 50] = bad
    with pytest.raises(AudioError, match="NaN|full scale"):
        to_mono(wave)


def test_a_channel_that_is_not_there() -> None:
    for number in (0, 3, -1):
        with pytest.raises(AudioError, match=f"has 2 channels, no channel {number}"):
            to_mono(np.zeros((2, 100)), number)


def test_more_samples_than_a_block() -> None:
    stereo = np.zeros((2, BLOCK_SAMPLES), np.float32)
    stereo[0, -1] = 0.5
    assert to_mono(stereo)[-1] == 0.5
    assert Downmix((0.5, 0.5))(stereo.T)[-1] == 0.25
