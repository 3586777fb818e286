"""Export: integers as FIELDS says, the same file each time, and the way back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import TINY

from codec.coding.envelope import level_context
from codec.config import MAX_LEVEL_DELTA
from codec.model import FIELDS, TOTAL, field_shape
from models.codec_net import CodecNet
from models.context import ContextModel
from models.training.export import (
    SideStatistics,
    build_tensors,
    context_parameters,
    export_weights,
    import_context,
    import_net,
    net_parameters,
    quantize_cdf,
    restore,
)


@pytest.fixture(scope="module")
def net() -> CodecNet:
    torch.manual_seed(0)
    return CodecNet(TINY)


def test_tensors_are_those_of_the_runtime(net: CodecNet) -> None:
    for intra in (False, True):
        tensors = build_tensors(net, ContextModel(TINY), intra=intra)
        assert tensors.keys() == {field.name for field in FIELDS}
        for field in FIELDS:
            value = tensors[field.name]
            assert value.shape == field_shape(field, TINY), field.name
            assert value.dtype == field.dtype, field.name
            assert value.min() >= field.low and value.max() <= field.high, field.name
            if field.cdf:
                assert (value[..., 0] == 0).all() and (value[..., -1] == TOTAL).all()
                assert (np.diff(value, axis=-1) > 0).all()


def test_export_is_reproducible_and_comes_back(net: CodecNet, tmp_path: Path) -> None:
    """The same weights give the same file, and with it the same fingerprint."""
    context = ContextModel(TINY)
    predicted, intra = (build_tensors(net, context, intra=kind) for kind in (False, True))
    path = tmp_path / "a.safetensors"
    written = [export_weights(path, TINY, predicted, intra, {}) for _ in range(4)]
    assert len({weights.fingerprint for weights in written}) == 1
    again = import_net(written[0])
    for kind, tensors in ((False, predicted), (True, intra)):
        other = build_tensors(again, import_context(written[0], kind), intra=kind)
        for name, value in tensors.items():
            # Frequencies of at least 1 come back as probabilities, and get another one.
            limit = 32 if name == "context.cdf" else 0
            np.testing.assert_allclose(other[name], value, rtol=0, atol=limit, err_msg=name)
    assert not np.array_equal(predicted["envelope.codebooks"], intra["envelope.codebooks"])


def test_every_parameter_is_stored(net: CodecNet) -> None:
    stored = net_parameters(net, False) | net_parameters(net, True)
    known = {id(p) for kind in (False, True) for p in net_parameters(net, kind).values()}
    missing = {
        name
        for name, parameter in net.named_parameters()
        if id(parameter) not in known and not name.startswith("allocation.network")
    }
    assert not missing
    assert sum(v.numel() for n, v in stored.items() if n[:12] in ("allocation.w", "allocation.b"))


def test_wrong_shapes_are_refused(net: CodecNet) -> None:
    parameters = context_parameters(ContextModel(TINY))
    tensors = build_tensors(net, ContextModel(TINY))
    with pytest.raises(ValueError, match="'context.w1' of the weights does not fit this model"):
        restore(parameters, tensors | {"context.w1": tensors["context.w1"][:-1]})


def test_frequencies_leave_nothing_impossible(net: CodecNet) -> None:
    cdf = quantize_cdf(np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]))
    assert (np.diff(cdf) >= 1).all() and (cdf[:, -1] == TOTAL).all()
    indices = np.zeros((500, 8), np.int64)
    none = np.zeros((500, 2), np.int64)
    kinds = np.where(np.arange(500) % 2, 2, 4)  # long after short, short after long
    side = SideStatistics(kinds, none, none, indices, np.full(500, 2), indices, np.full(500, 3))
    tensors = build_tensors(net, ContextModel(TINY), side)
    index = np.diff(tensors["envelope.index_cdf"])
    assert index[0, 0] > 0.5 * TOTAL and index[1, 0] > 0.5 * TOTAL
    assert index[2].max() <= 2 * index[2].min()  # the third stage was never used
    detail = np.diff(tensors["detail.index_cdf"])
    assert (detail[:3, 0] > 0.5 * TOTAL).all() and detail[3].max() <= 2 * detail[3].min()
    assert np.diff(tensors["step.cdf"], axis=-1).argmax() > 0
    blocks, level = np.diff(tensors["blocks.cdf"]), np.diff(tensors["level.cdf"])
    assert blocks[0, 1] > 0.9 * TOTAL and blocks[1, 0] > 0.9 * TOTAL and blocks.min() >= 1
    # A level that stays follows one that stayed.
    assert level[level_context(0)].argmax() == MAX_LEVEL_DELTA and level.min() >= 1
