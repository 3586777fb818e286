"""docs/bitstream.md is complete: a decoder written from it decodes the golden files' integers."""

import make_golden
import numpy as np
import pytest
from reference import packet_decoder

from codec import Codec
from codec.bitstream import intra_packets, read_stream

FRAMES = 8


@pytest.mark.parametrize("name", ["cbr_8", "cbr_32", "independent_vbr_24.4", "full_scale_9.6"])
def test_a_decoder_from_the_page(codec: Codec, name: str) -> None:
    header, packets = read_stream(make_golden.read(name))
    tensors = {
        kind: {
            field: value.astype(np.int64)
            for field, value in codec.weights.of_kind(kind).items()
            if value.dtype != np.float16
        }
        for kind in (False, True)
    }
    wanted = codec.decode_integers(make_golden.read(name))[1]
    past = None
    for p, intra in enumerate(intra_packets(min(FRAMES, len(packets)), header.independent)):
        w = tensors[bool(intra)]
        stages = header.num_stages
        if intra:
            past = packet_decoder.first_past(w)
            stages = min(stages + 1, len(w["envelope.codebooks"]))
        assert past is not None
        past = packet_decoder.decode_frame(w, packets[p], stages, past, bool(intra))
        assert np.array_equal(past.envelope, wanted.envelope[p])
        assert np.array_equal(past.offset, wanted.offset[p])
        np.testing.assert_array_equal(past.detail, wanted.detail[p])
        assert past.step == wanted.step[p] and past.long == wanted.long[p]
        assert np.array_equal(past.levels, wanted.levels[p])
