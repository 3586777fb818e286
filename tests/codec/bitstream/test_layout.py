"""How many packets a file has, of which sizes, and which are intra frames."""

import pytest
from made import make_file, make_header

from codec.bitstream import (
    FrameLayout,
    cbr_packet_sizes,
    intra_packets,
    num_codec_samples,
    num_groups,
    num_packets,
    overhead_bytes,
)

NAMED_RATES = {8000: 20, 9600: 24, 13200: 33, 16400: 41, 24400: 61, 32000: 80}


@pytest.mark.parametrize(("rate", "size"), NAMED_RATES.items())
def test_named_rates_have_equal_packets(rate: int, size: int) -> None:
    assert cbr_packet_sizes(rate, 500) == [size] * 500


@pytest.mark.parametrize("rate", [8000, 8001, 12345, 13200, 31999, 32000])
def test_cbr_sizes_meet_any_rate_exactly(rate: int) -> None:
    sizes = cbr_packet_sizes(rate, 400)
    total = 0
    for i, size in enumerate(sizes):
        total += size
        assert 0 <= rate * (i + 1) - 400 * total < 400  # never behind by a whole byte
        assert 0 < size <= 80
    assert total == rate  # 400 packets are 8 s


def test_sample_and_packet_counts() -> None:
    counts = {0: 0, 1: 1, 159: 1, 160: 1, 161: 2, 320: 2, 480: 2, 481: 3, 160000: 501}
    assert {samples: num_packets(samples) for samples in counts} == counts
    for samples, rate, expected in [
        (44100, 44100, 16000), (44101, 44100, 16001), (1, 48000, 1), (3, 48000, 1), (4, 48000, 2),
        (1, 1000, 16), (0, 8000, 0), ((1 << 40) - 1, 1000, 16 * ((1 << 40) - 1)),
    ]:  # fmt: skip
        header = make_header(num_samples=samples, source_sample_rate=rate)
        assert num_codec_samples(header) == expected
    assert [num_groups(n) for n in (0, 1, 50, 51, 501)] == [0, 1, 1, 2, 11]


def test_overhead_of_ten_seconds_is_below_one_percent() -> None:
    header = make_header(num_samples=160_000)
    data = make_file(num_samples=160_000)
    assert overhead_bytes(header) == 46
    assert len(data) == 10066  # docs/bitstream.md
    assert len(data) * 8 / 10 < 1.01 * 8000


def test_intra_frames() -> None:
    assert intra_packets(101, False).nonzero()[0].tolist() == [0, 50, 100]
    assert intra_packets(60, False, 45).nonzero()[0].tolist() == [5, 55]
    assert intra_packets(60, True).all()


@pytest.mark.parametrize("rate", [8000, 8003, 13201, 31999])
def test_frame_layout_agrees_with_the_sizes(rate: int) -> None:
    layout = FrameLayout.of(make_header(nominal_bitrate_bps=rate, num_samples=160_000))
    sizes = layout.sizes()
    assert layout.num_packets == len(sizes) == 501 and layout.num_groups == 11
    assert sizes == [layout.packet_bytes(i) for i in range(501)]
    assert layout.intra().tolist() == intra_packets(501, False).tolist()
    start = 0
    for group in range(11):
        first, count = 50 * group, layout.group_packets(group)
        assert count == (50 if group < 10 else 1)
        assert layout.group_start(group) == start
        assert layout.group_bytes(group) == sum(sizes[first : first + count])
        start += layout.group_bytes(group) + 2
    assert layout.group_packets(11) == 0
    for packets in (0, 1, 49, 50, 51, 99, 101):  # whole groups with their CRC
        size = sum(sizes[50 : 50 + packets]) + 2 * (packets // 50)
        assert layout.packets_in(size, 1) == packets
        assert layout.packets_in(size - 1, 1) == max(packets - 1, 0) or size == 0


def test_layout_of_an_open_end() -> None:
    header = make_header(open_end=True)
    layout = FrameLayout.of(header, open_end=True)
    assert layout.num_packets is None and layout.num_groups is None
    assert layout.group_packets(12345) == 50
    assert FrameLayout.of(header).num_packets == 13
