"""Files decode to the same samples, and samples are coded to the same bytes, to the last bit."""

import json

import make_golden
import numpy as np
import pytest

from codec import BitstreamError, Codec
from codec.bitstream import num_groups, num_packets, read_stream
from codec.config import REPORT_RATES_KBPS

HASHES = json.loads(make_golden.HASHES.read_text())


@pytest.fixture(autouse=True)
def right_weights(codec: Codec) -> None:
    if HASHES["weights"] != codec.fingerprint:
        pytest.fail(
            f"the golden files were made with the weights {HASHES['weights']}, those shipped are "
            f"{codec.fingerprint}: if they were replaced on purpose, run "
            "'python tests/golden/make_golden.py' and commit what it writes"
        )


def test_stages(codec: Codec) -> None:
    assert make_golden.stages(codec) == HASHES["stages"]


@pytest.mark.parametrize("name", make_golden.NAMES)
def test_decoded(codec: Codec, name: str) -> None:
    assert make_golden.decoded(codec, name) == HASHES["decoded"][name]


@pytest.mark.parametrize("name", make_golden.CASES)
def test_encoded(codec: Codec, name: str) -> None:
    data = make_golden.encode(codec, make_golden.CASES[name])
    assert make_golden.sha256(data) == HASHES["encoded"][name]
    if name in make_golden.FILES:
        assert data == make_golden.read(name)


def test_streams_are_coded_like_files(codec: Codec) -> None:
    """The golden stream was pushed in pieces of 777 samples; its packets are those of a file."""
    case = make_golden.FILES["open_16.4"]
    closed = make_golden.encode(codec, case._replace(open_end=False))
    assert read_stream(closed)[1] == read_stream(make_golden.read("open_16.4"))[1]


# --- what the golden files cover ------------------------------------------------------------------


def test_every_feature_of_the_format_has_a_file() -> None:
    cases = make_golden.FILES.values()
    assert {case.rate for case in cases if not case.vbr} >= set(REPORT_RATES_KBPS)
    assert {case.length for case in cases} >= {0, 1, 160, 321}
    assert {(case.vbr, case.independent) for case in cases} == {
        (False, False), (False, True), (True, False), (True, True),
    }  # fmt: skip
    assert any(case.open_end for case in cases)
    assert any(case.source_rate != 16000 for case in cases)
    # Intra frames after some that are not.
    assert num_groups(num_packets(max(case.length or 0 for case in cases))) >= 3
    for name, case in make_golden.FILES.items():
        header, packets = read_stream(make_golden.read(name))
        flags = (header.vbr, header.independent, header.open_end)
        assert flags == (case.vbr, case.independent, case.open_end)
        assert header.nominal_bitrate_bps == round(1000 * case.rate)
        assert header.source_sample_rate == case.source_rate
        if case.length is not None and case.source_rate == 16000:
            assert header.num_samples == case.length
            assert len(packets) == num_packets(case.length)


@pytest.mark.parametrize("name", make_golden.DAMAGED)
def test_damaged_files_are_damaged(codec: Codec, name: str) -> None:
    data = make_golden.read(name)
    with pytest.raises(BitstreamError):
        codec.decode(data)
    assert codec.salvage(data)[2]
    whole = codec.decode(make_golden.read(make_golden.DAMAGED[name][0]))
    saved = make_golden.decode(codec, name, data)
    same = (whole[: len(saved)] == saved).sum()
    assert 0 < same < len(whole)


def test_files_are_few_and_small() -> None:
    files = {path.stem: path.stat().st_size for path in make_golden.GOLDEN.glob("*.bin")}
    assert set(files) == set(make_golden.NAMES) - {make_golden.LOST}
    assert sum(files.values()) < 60_000
    for part, names in (("decoded", make_golden.NAMES), ("encoded", make_golden.CASES)):
        assert set(HASHES[part]) == set(names)


def test_the_signals_are_not_trivial(codec: Codec) -> None:
    for name in ("vowels", "sweep", "bursts"):
        samples = make_golden.signal(name)
        assert samples.dtype == np.int16 and len(np.unique(samples)) > 100
        assert np.abs(samples.astype(np.int32)).max() > 8000
    for rate in REPORT_RATES_KBPS:
        data = make_golden.read(f"cbr_{rate:g}")
        assert (codec.decode_integers(data)[1].levels != 0).mean() > 0.02
        assert np.abs(codec.decode(data)).max() > 0.03
