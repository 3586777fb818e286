"""Functions of + - x / alone: how accurate they are, also at their ends; tables without ties."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest

from codec.config import HOP_LENGTH, LPC_ORDER, SAMPLE_RATE
from codec.dsp import fixed, lpc, ltpf, mdct
from codec.dsp.fixed import exp2, exp2_q8, gelu, log2, on_grid, sigmoid, tanh
from codec.model import COST_ONE, TOTAL, frequency_costs

GRID = 1 << fixed.GRID_BITS
TIE_MARGIN = 1e-5  # of a grid step; the libraries' disagreement is some 1e-7


def applied(function: Callable[[np.ndarray], None], x: np.ndarray) -> np.ndarray:
    out = x.copy()
    function(out)
    return out


def test_exp2() -> None:
    x = np.linspace(-120, 120, 200_001).astype(np.float32)
    out = np.empty_like(x)
    exp2(x, out)
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(out / exact - 1).max() < 3e-7
    whole = np.arange(-120, 121, dtype=np.float32)
    out = np.empty_like(whole)
    exp2(whole, out)
    np.testing.assert_allclose(out, np.exp2(whole), rtol=1.3e-7)
    ends = np.array([-np.inf, -1e30, 1e30, np.inf], np.float32)
    exp2(ends, ends)
    np.testing.assert_allclose(ends, np.exp2(np.array([-120.0, -120, 120, 120])), rtol=3e-7)


def test_exp2_of_q8() -> None:
    for x in range(-9000, 9000, 7):
        assert exp2_q8(x) == pytest.approx(2.0 ** (x / 256), rel=1e-7)
    assert exp2_q8(-(1 << 20)) == 0 and np.isfinite(exp2_q8(1 << 20))
    assert exp2_q8(256 * 100) == 2.0**100 and exp2_q8(-256 * 126) == 2.0**-126


def test_log2() -> None:
    tiny, huge = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    x = np.exp2(np.linspace(-125.9, 127.9, 200_001)).astype(np.float32)
    near_one = (1 + np.linspace(-0.01, 0.01, 20_001)).astype(np.float32)
    x = np.concatenate([x, near_one, np.float32([tiny, huge])])
    out = np.empty_like(x)
    log2(x, out)
    exact = np.log2(x.astype(np.float64))
    # The last bit of the result, and near 1 the absolute error of the series.
    assert (np.abs(out - exact) <= 1.5e-7 + 6e-8 * np.abs(exact)).all()
    powers = np.exp2(np.arange(-126, 128)).astype(np.float32)
    log2(powers, powers)
    np.testing.assert_array_equal(powers, np.arange(-126, 128))


def test_log2_of_its_own_output() -> None:
    x = np.linspace(0.1, 9, 1000).astype(np.float32)
    out = np.empty_like(x)
    log2(x, out)
    log2(x, x)
    np.testing.assert_array_equal(x, out)


def test_tanh_and_sigmoid() -> None:
    x = np.linspace(-12, 12, 200_001).astype(np.float32)
    exact = np.tanh(x.astype(np.float64))
    got = applied(tanh, x)
    assert np.abs(got - exact).max() < 6e-7
    small = np.linspace(-1e-3, 1e-3, 1001).astype(np.float32)
    np.testing.assert_allclose(applied(tanh, small), np.tanh(small), rtol=1e-6)
    np.testing.assert_array_equal(got, -applied(tanh, -x))
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    got = applied(sigmoid, x)
    assert np.abs(got - exact).max() < 4e-7
    ends = applied(sigmoid, np.array([-1e30, -np.inf, np.inf, 0.0], np.float32))
    np.testing.assert_allclose(ends, [0, 0, 1, 0.5], atol=4e-7)
    assert (np.abs(applied(tanh, np.float32([-1e30, np.inf]))) <= 1.0000003).all()


def test_tanh_up_to_its_limit() -> None:
    x = np.linspace(-8, 8, 200_001).astype(np.float32)
    assert np.abs(applied(tanh, x) - np.tanh(x.astype(np.float64))).max() < 5e-7


def test_gelu() -> None:
    x = np.linspace(-12, 12, 50_001).astype(np.float32)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float)])
    got = applied(gelu, x)
    assert np.abs(got - exact).max() < 5e-5
    assert np.abs(got - exact)[np.abs(x) < 4].max() < 2e-5
    assert applied(gelu, np.zeros(1, np.float32))[0] == 0


@pytest.mark.parametrize("function", [tanh, sigmoid, gelu])
def test_values_do_not_depend_on_their_neighbours(function: Callable) -> None:
    """Vectors and the rest of a loop compute the same."""
    x = np.random.default_rng(0).normal(0, 3, 67).astype(np.float32)
    whole = applied(function, x)
    for start in range(0, 67, 5):
        for length in (1, 3, 8, 17):
            part = slice(start, start + length)
            np.testing.assert_array_equal(applied(function, x[part]), whole[part])


# --------------------------------------------------------------------------------------------------
# Tables


def from_ties(values: np.ndarray, scale: float = GRID) -> float:
    """Return the distance of the nearest value to a rounding tie, in grid steps."""
    return float(np.abs(np.abs(np.asarray(values) * scale) % 1 - 0.5).min())


def test_no_entry_of_a_table_is_near_a_rounding_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """So all machines round it alike, whatever their sine and power make of the last bits."""
    seen: list[np.ndarray] = [np.exp2(np.arange(256) / 256)]

    def recorded(values: np.ndarray) -> np.ndarray:
        seen.append(np.asarray(values, np.float64))
        return on_grid(values)

    for module in (mdct, lpc, ltpf):
        monkeypatch.setattr(module, "on_grid", recorded)
    mdct.make_transform()
    lpc.make_prediction()
    ltpf.band_response()  # calls band_filters
    # Six of the MDCT, five of linear prediction, two of the postfilter.
    assert len(seen) == 1 + 6 + 5 + 2
    assert sum(values.size for values in seen) > 4500
    for values in seen:
        assert from_ties(values) > TIE_MARGIN


def test_code_lengths_are_not_near_ties() -> None:
    exact = COST_ONE * (15 - np.log2(np.arange(1, TOTAL + 1)))
    assert from_ties(exact, 1.0) > 1e-7  # float64 is right to 1e-11 here
    np.testing.assert_array_equal(frequency_costs()[1:], np.round(exact))


def series_cos(turn: Decimal) -> Decimal:
    """Return the cosine of an angle in turns, by its power series."""
    angle = 2 * PI * turn
    total = term = Decimal(1)
    for n in range(1, 40):
        term *= -angle * angle / ((2 * n - 1) * (2 * n))
        total += term
    return total


with localcontext() as _context:
    _context.prec = 50
    PI = Decimal("3.14159265358979323846264338327950288419716939937511")


def rounded(values: list[Decimal]) -> np.ndarray:
    return np.array([float((v * GRID).to_integral_value()) / GRID for v in values])


def test_tables_are_those_of_exact_arithmetic() -> None:
    """Computed with 50 digits, rounded once: equal entry by entry."""
    with localcontext() as context:
        context.prec = 50
        n = range(2 * HOP_LENGTH)
        quarter = Decimal(1) / 4
        window = rounded([series_cos(Decimal(2 * i + 1) / (8 * HOP_LENGTH) - quarter) for i in n])
        period = 8 * HOP_LENGTH
        cosine = rounded([series_cos(Decimal(i) / period) for i in range(period)])
        i, k = np.arange(2 * HOP_LENGTH), np.arange(HOP_LENGTH)
        table = cosine[(2 * i[:, None] + 1 + HOP_LENGTH) * (2 * k + 1) % period]
        basis = np.sqrt(2.0 / HOP_LENGTH) * window[:, None] * table
        np.testing.assert_array_equal(mdct.make_transform()["forward"], basis.astype(np.float32))

        angles = [2 * PI * Decimal(lpc.LAG_WINDOW_HZ) * lag / SAMPLE_RATE
                  for lag in range(LPC_ORDER + 1)]  # fmt: skip
        lag_window = rounded([(-a * a / 2).exp() for a in angles])
        np.testing.assert_array_equal(lpc.make_prediction()["lag_window"][1:], lag_window[1:])
        power = rounded([Decimal(2) ** (Decimal(i) / 256) for i in range(256)])
        np.testing.assert_array_equal(fixed.EXP2_FRACTION, power.astype(np.float32))


def test_grid() -> None:
    values = np.array([0.0, 1.0, 0.3, -0.3, 1 / GRID])
    assert (on_grid(values) * GRID == np.round(values * GRID)).all()
    assert on_grid(np.pi) == on_grid(np.pi + 1e-13)
