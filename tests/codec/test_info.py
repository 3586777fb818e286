"""What is told of a coded file."""

import copy
from pathlib import Path

import numpy as np
import pytest

from codec import BitstreamError, Codec
from codec.bitstream import read_stream
from codec.config import FORMAT_VERSION, HEADER_BYTES
from codec.errors import WeightsError
from codec.info import describe_stream, stream_info

KINDS = {
    "cbr": {},
    "vbr": {"vbr": True},
    "independent": {"independent": True},
    "both": {"vbr": True, "independent": True},
}


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, codec: Codec, speech: np.ndarray) -> bytes:
    return codec.encode(speech, 16000, 13.2, **KINDS[request.param])


def test_a_file_is_described(codec: Codec, file: bytes) -> None:
    info = stream_info(file)
    header, packets = read_stream(file)
    assert info["version"] == FORMAT_VERSION and info["fingerprint"] == codec.fingerprint
    assert info["nominal_kbps"] == 13.2 and info["duration_s"] == 3.0
    assert (info["num_samples"], info["source_sample_rate"]) == (48000, 16000)
    assert info["num_packets"] == len(packets) == 151
    assert (info["vbr"], info["independent"]) == (header.vbr, header.independent)
    assert info["num_stages"] == header.num_stages and not info["open_end"]
    assert info["header_bytes"] == HEADER_BYTES and info["file_bytes"] == len(file)
    payload = sum(map(len, packets))
    assert info["overhead_bytes"] == len(file) - payload
    assert info["measured_kbps"] == pytest.approx(8 * len(file) / 3000)
    assert info["payload_kbps"] == pytest.approx(8 * payload / 151 * 50 / 1000)


def test_shares_of_the_payload(codec: Codec, file: bytes) -> None:
    share = stream_info(file)["share"]
    assert list(share) == ["envelope", "step", "bins"]
    assert sum(share.values()) == pytest.approx(1.0)
    assert 0.05 < share["envelope"] < 0.4 and 0 < share["step"] < 0.1
    assert describe_stream(file, codec.weights)["share"] == share


def test_more_bits_go_to_the_levels(codec: Codec, speech: np.ndarray) -> None:
    low, high = (
        stream_info(codec.encode(speech[:16000], 16000, rate))["share"] for rate in (8.0, 32.0)
    )
    assert high["bins"] > low["bins"] and high["envelope"] < low["envelope"]


def test_an_empty_file(codec: Codec) -> None:
    info = stream_info(codec.encode(np.zeros(0), 44100, 8.0))
    assert info["duration_s"] == info["measured_kbps"] == 0 and info["num_samples"] == 0
    assert info["source_sample_rate"] == 44100


def test_refusals(codec: Codec, tmp_path: Path) -> None:
    data = codec.encode(np.zeros(1000))
    other = copy.copy(codec.weights)
    other.fingerprint = b"\0\1\2\3"
    with pytest.raises(BitstreamError, match=f"{codec.fingerprint}.*00010203"):
        describe_stream(data, other)
    with pytest.raises(BitstreamError):
        stream_info(data[:-1])
    missing = tmp_path / "none.safetensors"
    with pytest.raises(WeightsError, match="cannot read"):
        stream_info(data, missing)
    with pytest.raises(BitstreamError):  # what is not ours at all is said first
        stream_info(b"RIFF", missing)
