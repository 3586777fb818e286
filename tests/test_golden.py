"""Files of an earlier build decode to the same integers and, within 1 LSB, the same PCM."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from codec import Codec
from codec.bitstream import num_groups, num_packets, read_stream
from codec.config import REPORT_RATES_KBPS

GOLDEN = Path(__file__).resolve().parent / "golden"

_spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
assert _spec is not None and _spec.loader is not None
make_golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_golden)

NAMES = list(make_golden.CASES)


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest, codec: Codec) -> tuple[bytes, dict[str, np.ndarray]]:
    """A coded file and what it must decode to."""
    data = (GOLDEN / f"{request.param}.bin").read_bytes()
    header, _ = read_stream(data)
    if header.fingerprint != codec.weights.fingerprint:
        pytest.fail(
            f"the golden files were made with the weights {header.fingerprint.hex()}, those "
            f"shipped are {codec.fingerprint}: if they were replaced on purpose, run "
            "'python tests/golden/make_golden.py' and commit what it writes"
        )
    with np.load(GOLDEN / f"{request.param}.npz", allow_pickle=False) as file:
        return data, dict(file)


@pytest.mark.parametrize("threads", [1, 4])
def test_golden(codec: Codec, golden: tuple[bytes, dict[str, np.ndarray]], threads: int) -> None:
    data, wanted = golden
    torch.set_num_threads(threads)
    try:
        _, integers = codec.decode_integers(data)
        waveform = codec.decode(data)
    finally:
        torch.set_num_threads(1)
    for part in ("envelope", "offset", "step", "bins"):
        np.testing.assert_array_equal(getattr(integers, part), wanted[part], err_msg=part)
    pcm = make_golden.to_pcm(waveform)
    assert pcm.shape == wanted["pcm"].shape
    difference = np.abs(pcm.astype(np.int32) - wanted["pcm"])
    assert difference.max(initial=0) <= 1


def test_golden_files_cover_what_they_should() -> None:
    cases = make_golden.CASES.values()
    assert {case.rate for case in cases if not case.vbr} >= set(REPORT_RATES_KBPS)
    assert any(case.vbr for case in cases)
    assert {case.length for case in cases} >= {0, 1, 321}
    assert {case.rate for case in cases if case.independent} >= {13.2, 24.4}
    assert any(case.open_end for case in cases)
    # Packets that need no other after some that do.
    assert num_groups(num_packets(max(case.length for case in cases))) >= 3
    files = [*GOLDEN.glob("*.bin"), *GOLDEN.glob("*.npz")]
    assert {file.stem for file in files} == set(NAMES)
    assert sum(file.stat().st_size for file in files) < 150_000
    for name, case in make_golden.CASES.items():
        header, packets = read_stream((GOLDEN / f"{name}.bin").read_bytes())
        flags = (header.vbr, header.independent, header.open_end, header.num_samples)
        assert flags == (case.vbr, case.independent, case.open_end, case.length)
        assert header.nominal_bitrate_bps == round(1000 * case.rate)
        assert len(packets) == num_packets(case.length)


def test_the_golden_signal_is_not_trivial() -> None:
    for rate in REPORT_RATES_KBPS:
        with np.load(GOLDEN / f"cbr_{rate:g}.npz") as file:
            assert (file["bins"] != 0).mean() > 0.02
            assert np.abs(file["pcm"].astype(np.int32)).max() > 1000
