"""Hostile weights files: mutate the shipped one, and check that it is refused or works.

Whatever the file holds, ``load_weights`` returns or raises ``WeightsError`` with one line, and a
decoder with what it accepts decodes any packets to finite samples.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from codec import decoder
from codec.bitstream import intra_packets
from codec.decoder import FrameDecoder
from codec.errors import WeightsError
from codec.weights import Weights, load_weights

MAX_MESSAGE = 300

Mutator = Callable[[np.random.Generator, "Source"], bytes]

EXTREMES = (
    0, 1, -1, 2, 255, 1 << 15, -(1 << 15), 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 63, 10**400,
    0.5, -0.0, float("nan"), float("inf"), True, None, "160", [], [160], {}, "",
)  # fmt: skip


class Finding(Exception):
    """A promise was broken."""


class Source:
    """The shipped weights, to begin with.

    Attributes
    ----------
    data : bytes
    config : dict      as the file's metadata hold it
    tensors : dict of arrays
    """

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        length = int.from_bytes(self.data[:8], "little")
        header = json.loads(self.data[8 : 8 + length])
        self.header_end = 8 + length
        self.config = json.loads(header["__metadata__"]["config"])
        self.tensors = load(self.data)

    def with_config(self, config: object) -> bytes:
        """Return the file with another config: any object, or text."""
        text = config if isinstance(config, str) else json.dumps(config)
        return save(self.tensors, {"config": text})

    def with_tensors(self, changes: dict[str, np.ndarray | None]) -> bytes:
        """Return the file with other tensors; None leaves one out."""
        tensors = {k: v for k, v in (self.tensors | changes).items() if v is not None}
        return save(tensors, {"config": json.dumps(self.config)})


def header_bytes(rng: np.random.Generator, source: Source) -> bytes:
    """Other bytes in the JSON header."""
    out = bytearray(source.data)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(8, source.header_end))
        likely = b'0189,:"}]-'
        out[place] = rng.integers(256) if rng.random() < 0.5 else likely[rng.integers(10)]
    return bytes(out)


def header_length(rng: np.random.Generator, source: Source) -> bytes:
    """Another length of the JSON header."""
    length = source.header_end - 8
    values = (0, 1, length - 1, length + 1, len(source.data), (1 << 63) - 1, (1 << 64) - 1)
    return struct.pack("<Q", int(values[rng.integers(len(values))])) + source.data[8:]


def cut(rng: np.random.Generator, source: Source) -> bytes:
    """The end is missing, or something follows."""
    if rng.random() < 0.2:
        return source.data + rng.bytes(int(rng.integers(1, 100)))
    ends = (len(source.data), source.header_end + 10, 20)
    return source.data[: int(rng.integers(0, ends[rng.integers(3)]))]


def other_files(rng: np.random.Generator, source: Source) -> bytes:
    """A pickle, a ZIP archive, noise, or JSON."""
    kind = rng.integers(5)
    if kind == 0:
        return pickle.dumps({"context.cdf": list(range(100)), "config": {}}, int(rng.integers(6)))
    if kind == 1:
        return b"PK\x03\x04" + rng.bytes(200)  # what torch.save writes
    if kind == 2:
        return struct.pack("<Q", 64) + rng.bytes(int(rng.integers(0, 200)))
    if kind == 3:
        text = json.dumps({"__metadata__": {"config": "[" * int(rng.choice([1, 100, 100_000]))}})
        return struct.pack("<Q", len(text)) + text.encode()
    return rng.bytes(int(rng.integers(0, 500)))


def config_value(rng: np.random.Generator, source: Source) -> bytes:
    """A field of the config is missing, unknown, or has another value."""
    config = dict(source.config)
    name = str(rng.choice(list(config)))
    kind = rng.random()
    if kind < 0.1:
        del config[name]
    elif kind < 0.15:
        config["unknown\nfield"] = 1
    elif kind < 0.2:
        return source.with_config(rng.choice(["", "{", "null", "[]", "{}", "5", '"x"', "[[1, 2]]"]))
    elif kind < 0.5 and isinstance(config[name], int):
        config[name] += int(rng.integers(-3, 4))
    else:
        config[name] = EXTREMES[rng.integers(len(EXTREMES))]
    return source.with_config(config)


def tensor_shape(rng: np.random.Generator, source: Source) -> bytes:
    """A tensor is missing, has another name, shape or type, or is one too many."""
    name = str(rng.choice(list(source.tensors)))
    value = source.tensors[name]
    kind = rng.integers(8)
    if kind == 0:
        return source.with_tensors({name: None})
    if kind == 1:
        return source.with_tensors({name: None, f"{name}\n{'x' * 300}": value})
    if kind == 2:
        other = (np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16, np.int32)
        with np.errstate(over="ignore", invalid="ignore"):
            return source.with_tensors({name: value.astype(other[rng.integers(len(other))])})
    if kind == 3:
        return source.with_tensors({name: value.reshape(-1)})
    if kind == 4:
        return source.with_tensors({name: np.ascontiguousarray(value[: int(rng.integers(3))])})
    if kind == 5:
        return source.with_tensors({name: np.zeros((), value.dtype)})
    if kind == 6:
        return source.with_tensors({name: np.ascontiguousarray(value.T)})
    prefix = rng.choice(["context.", "intra.", "analysis.", "enhancer.", ""])
    return source.with_tensors({f"{prefix}extra": np.zeros(3, np.float16)})


def values(rng: np.random.Generator, source: Source) -> bytes:
    """Some values of a tensor are extreme."""
    name = str(rng.choice(list(source.tensors)))
    value = source.tensors[name].copy()
    flat = value.reshape(-1)
    places = rng.integers(0, flat.size, int(rng.choice([1, 3, flat.size])))
    if value.dtype == np.float16:
        choice = [np.nan, np.inf, -np.inf, 65504, -65504, 16, -16, 17, 0]
    else:
        info = np.iinfo(value.dtype)
        choice = [info.min, info.max, 0, -1, 1, 1 << 14, 8192, -8192, 255, -4097]
    flat[places] = rng.choice(np.array(choice).astype(value.dtype), len(places))
    return source.with_tensors({name: value})


def small_changes(rng: np.random.Generator, source: Source) -> bytes:
    """Wrong bits in the tensors."""
    out = bytearray(source.data)
    for _ in range(int(rng.integers(1, 30))):
        out[rng.integers(source.header_end, len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


MUTATORS: dict[str, tuple[float, Mutator]] = {
    "header_bytes": (4, header_bytes), "header_length": (0.5, header_length), "cut": (1, cut),
    "other_files": (1, other_files), "config_value": (3, config_value),
    "tensor_shape": (3, tensor_shape), "values": (4, values), "small_changes": (1, small_changes),
}  # fmt: skip


def make_case(seed: int, index: int, source: Source) -> tuple[str, bytes, np.random.Generator]:
    """Return what was done, the file, and the generator for what follows, of one case."""
    rng = np.random.default_rng([seed, index, 1])
    names = list(MUTATORS)
    weights = np.array([weight for weight, _ in MUTATORS.values()])
    name = names[rng.choice(len(names), p=weights / weights.sum())]
    return name, MUTATORS[name][1](rng, source), rng


def check(path: Path, data: bytes, rng: np.random.Generator) -> str:
    """Write a weights file and check what is made of it: 'refused' or 'decoded'.

    Raises
    ------
    Finding   anything but a WeightsError of one line, or a decoder that works
    """
    path.write_bytes(data)
    try:
        weights = load_weights(path)
    except WeightsError as error:
        message = str(error).replace(str(path), "FILE")
        if not message or "\n" in message or len(message) > MAX_MESSAGE:
            raise Finding(f"the message is {message!r}") from None
        return "refused"
    except BaseException as error:  # a panic inside safetensors is no Exception
        raise Finding(f"{type(error).__name__}: {error}") from error
    decode_anything(weights, rng)
    return "decoded"


def decode_anything(weights: Weights, rng: np.random.Generator, count: int = 15) -> None:
    """Decode random packets, two of them lost, with a set of weights.

    Raises
    ------
    Finding   samples are not finite, or something was raised
    """
    sizes = rng.choice([1, 20, 80, 255], count)
    fill = b"\xff" if rng.random() < 0.3 else b""
    packets: list[bytes | None] = [(fill * 9 + rng.bytes(int(size)))[:size] for size in sizes]
    packets[5:7] = None, None
    for independent in (False, True):
        try:
            model, config = decoder.make_model(weights), weights.config
            frames = FrameDecoder(model, config, config.num_stages)
            samples = frames.decode(packets, intra_packets(count, independent))
        except Exception as error:
            raise Finding(f"decoding: {type(error).__name__}: {error}") from error
        if not np.isfinite(samples).all():
            raise Finding("samples are not finite")
