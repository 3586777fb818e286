"""What training hears beside clean speech: each change is what it says, and is drawn."""

import numpy as np
import pytest
from conftest import synthetic_speech

from codec.config import SAMPLE_RATE
from models.training import augment as a

CHANGES = ("NOISY", "BAND_LIMITED", "CLICKS", "CLIPPED", "GATED", "QUIET")
SPEECH = synthetic_speech(1.0, 3)
ONE_STEP = 1 / a.FULL_SCALE


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Return a function that makes one change certain, and the others impossible."""

    def choose(*names: str) -> None:
        for name in CHANGES:
            monkeypatch.setattr(a, name, 1.0 if name in names else 0.0)

    return choose


def changed(seed: int, crop: np.ndarray = SPEECH) -> np.ndarray:
    out = a.augment(crop, np.random.default_rng(seed))
    assert out.dtype == np.float32 and out.shape == crop.shape
    return out


def fitted(out: np.ndarray, crop: np.ndarray = SPEECH) -> tuple[float, np.ndarray]:
    """Return the gain that brings a crop closest to a result, and what is left over it."""
    gain = float(out @ crop / (crop @ crop))
    return gain, out / gain - crop


def power_above(x: np.ndarray, frequency: float) -> float:
    spectrum = np.square(np.abs(np.fft.rfft(x)))
    return float(spectrum[np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE) > frequency].sum())


def longest_run_of_zeros(x: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], x == 0, [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def test_the_same_rng_gives_the_same_crop() -> None:
    before = SPEECH.copy()
    assert np.array_equal(changed(5), changed(5))
    assert not np.array_equal(changed(5), changed(6))
    assert np.array_equal(SPEECH, before)  # the recording itself is not touched


@pytest.mark.parametrize("quiet", [False, True])
def test_levels(only, quiet: bool) -> None:  # type: ignore[no-untyped-def]
    """A gain within its range, never beyond full scale, and noise of a converter; nothing else."""
    only(*(["QUIET"] if quiet else []))
    low, high = a.QUIET_DB if quiet else a.GAIN_DB
    gains = []
    for seed in range(40):
        out = changed(seed)
        gain, rest = fitted(out)
        assert np.abs(out).max() <= 0.98 + ONE_STEP
        assert np.abs(rest * gain).max() <= 1.1 * ONE_STEP
        gains.append(20 * np.log10(gain))
    most = min(high, 20 * np.log10(0.98 / np.abs(SPEECH).max()))
    assert low - 0.1 <= min(gains) < low + 0.2 * (most - low)
    assert most - 0.2 * (high - low) < max(gains) <= most + 0.1


def test_silence_gets_the_noise_of_a_converter(only) -> None:  # type: ignore[no-untyped-def]
    only()
    out = changed(0, np.zeros(4000, np.float32))
    assert 0 < np.abs(out).max() <= ONE_STEP
    assert (out != 0).mean() > 0.99


def test_noise_is_as_loud_as_drawn(only) -> None:  # type: ignore[no-untyped-def]
    """8 to 40 dB below the speech."""
    only("NOISY")
    ratios = []
    for seed in range(40):
        _, rest = fitted(changed(seed))
        ratios.append(20 * np.log10(SPEECH.std() / rest.std()))
    assert 7.5 <= min(ratios) < 15 and 30 < max(ratios) <= 41


def test_coloured_noise_has_its_level_and_falls() -> None:
    for seed in range(5):
        noise = a.coloured_noise(np.random.default_rng(seed), 32000, 0.1)
        assert noise.std() == pytest.approx(0.1, rel=1e-3)
    shares = [
        power_above(a.coloured_noise(np.random.default_rng(s), 16000, 1.0), 4000)
        / power_above(a.coloured_noise(np.random.default_rng(s), 16000, 1.0), 0)
        for s in range(30)
    ]
    assert max(shares) < 0.55 and min(shares) < 0.05  # white has half above 4 kHz, brown hardly any


def test_narrow_bands(only) -> None:  # type: ignore[no-untyped-def]
    """Cut off somewhere from 3 to 6.5 kHz: above there is nothing, below all is left."""
    only("BAND_LIMITED")
    crop = a.coloured_noise(np.random.default_rng(0), 16000, 0.1)
    for seed in range(5):
        out = changed(seed, crop)
        gain = np.sqrt(
            (power_above(out, 0) - power_above(out, 2000))
            / (power_above(crop, 0) - power_above(crop, 2000))
        )
        assert power_above(out / gain, 7800) < 0.1 * power_above(crop, 7800)
        low = np.fft.rfft(out / gain)[100:2000] - np.fft.rfft(crop)[100:2000]
        assert np.square(np.abs(low)).mean() < 1e-2 * np.square(np.abs(np.fft.rfft(crop))).mean()


def test_clicks_are_few_and_single_samples(only) -> None:  # type: ignore[no-untyped-def]
    only("CLICKS")
    for seed in range(8):
        out = changed(seed)
        touched = np.median(out[SPEECH != 0] / SPEECH[SPEECH != 0])
        rest = out / touched - SPEECH
        clicks = np.flatnonzero(np.abs(rest) > 0.15 * np.abs(SPEECH).max())
        assert 1 <= len(clicks) <= 11
        others = np.delete(rest, clicks) * touched
        assert np.abs(others).max() <= 2 * ONE_STEP + 1e-3 * np.abs(out).max()


def test_clipping_cuts_the_peaks(only) -> None:  # type: ignore[no-untyped-def]
    only("CLIPPED")
    for seed in range(8):
        out = changed(seed)
        at_limit = np.abs(out) > np.abs(out).max() - 3 * ONE_STEP
        assert 0.004 < at_limit.mean() < 0.12  # 0.5 to 5 % and what is close to it


def test_gates_are_digital_silence(only) -> None:  # type: ignore[no-untyped-def]
    """Zeros, at least 50 ms of them, and everything else as it was."""
    runs = []
    for seed in range(30):
        only()
        plain = changed(seed)
        only("GATED")
        out = changed(seed)
        open_ = out != 0
        assert 0.3 < open_.mean() < 0.96
        assert np.array_equal(out[open_], plain[open_])
        runs.append(longest_run_of_zeros(out))
    assert min(runs) >= 0.04 * SAMPLE_RATE and max(runs) > 0.2 * SAMPLE_RATE


def test_how_often() -> None:
    """With the shares as they are, gates and quiet crops come as often as they say."""
    outs = [changed(seed, SPEECH[:4000]) for seed in range(600)]
    gated = np.mean([longest_run_of_zeros(out) > 0.01 * SAMPLE_RATE for out in outs])
    assert abs(gated - a.GATED) < 0.03
    levels = [20 * np.log10(np.abs(out).max() / np.abs(SPEECH[:4000]).max()) for out in outs]
    assert abs(np.mean(np.array(levels) < a.GAIN_DB[0] - 1) - a.QUIET) < 0.07


# --------------------------------------------------------------------------------------------------
# Signals that are not speech


def tonality(x: np.ndarray) -> float:
    """Return the share of the power in the 1 % of the bins that have most."""
    power = np.sort(np.square(np.abs(np.fft.rfft(x * np.hanning(len(x))))))
    return float(power[-len(power) // 100 :].sum() / power.sum())


@pytest.mark.parametrize("kind", ["tones", "chord", "sweep", "pulses", "noise"])
def test_synthetic_signals(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Each kind is what it is called, at a peak from -50 to -1 dBFS."""

    class Certain(np.random.Generator):
        def choice(self, *_: object, **__: object) -> str:  # type: ignore[override]
            return kind

    peaks, tonal = [], []
    for seed in range(12):
        signal = a.synthetic(16000, Certain(np.random.PCG64(seed)))
        assert signal.dtype == np.float32 and signal.shape == (16000,)
        assert np.isfinite(signal).all()
        peaks.append(20 * np.log10(np.abs(signal).max()))
        tonal.append(tonality(signal[:4000]) if kind == "sweep" else tonality(signal))
        if kind == "pulses":
            held = np.abs(signal) > 0.5 * np.abs(signal).max()
            assert 1 <= held.sum() <= 300 and not (held[1:] & held[:-1]).any()
    assert -51 <= min(peaks) and max(peaks) <= -0.9
    assert max(peaks) - min(peaks) > 10
    if kind in ("tones", "chord"):
        assert np.median(tonal) > 0.7
    if kind == "noise":
        assert np.median(tonal) < 0.7


def test_some_segments_are_silent() -> None:
    signal = a._segments(16000 * 20, np.random.default_rng(1), np.ones)
    assert set(np.unique(signal)) == {0.0, 1.0}
    assert 0.02 < (signal == 0).mean() < 0.4
