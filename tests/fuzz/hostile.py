"""Hostile files: what every reader of them must do.

Used by ``test_fuzz.py`` and ``fuzz.py``; ``mutate.py`` makes the files. What is promised for any
bytes of length B:

- every reader returns, or raises ``BitstreamError`` with one line; nothing else;
- it takes less than ``SECONDS`` of CPU time for files as small as these;
- at most ``max_packets`` packets come out, those that are lost included: twice as many as the bytes
  can hold, B / 10 (CBR) or B (VBR: a length byte and one more), and those of a minute; at most 320
  samples for each at 16 kHz, and 48 times as many at the highest rate of a source;
- reading and range decoding takes at most ``ALLOCATION_BASE + ALLOCATION_PER_BYTE * B`` bytes
  (info, which makes a model of the weights for itself, is not measured);
- samples are finite;
- readers agree: whole file, piece by piece, info, and salvage of what is not damaged; a stream is
  decoded to the file's samples.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codec import BitstreamError, Codec, StreamDecoder
from codec.bitstream import (
    HEADER_BYTES,
    BitstreamReader,
    Header,
    cbr_bytes,
    intra_packets,
    num_codec_samples,
    num_packets,
    read_stream,
    salvage_stream,
)
from codec.bitstream.recovery import SPARE_GROUPS
from codec.config import FRAMES_PER_GROUP
from codec.decoder import DecodedIntegers
from codec.info import describe_stream

SECONDS = 1.0
# 1.5 kB of integers for a packet, of which there may be one for each byte and those of a minute;
# some more for the packets themselves, and for the search for sound groups.
ALLOCATION_BASE, ALLOCATION_PER_BYTE = 1 << 23, 2048
MAX_MESSAGE = 300
# No integers lie outside ± these, whatever the bytes.
LIMITS = {"envelope": 8192, "detail": 8192, "offset": 1024, "step": 1 << 15, "levels": 8443}
STREAMED = 100  # packets that are pushed one by one


class Finding(Exception):
    """A promise was broken."""


@dataclass
class Outcome:
    """What came of a case.

    Attributes
    ----------
    kind : str            'decoded', 'salvaged' or 'refused'
    message : str         of the BitstreamError, empty if there was none
    seconds : float       CPU time of the slowest reader
    slowest : str         its name
    samples : int         most samples that came out
    peak : int            bytes allocated at once, 0 where it was not measured
    """

    kind: str = ""
    message: str = ""
    seconds: float = 0.0
    slowest: str = ""
    samples: int = 0
    peak: int = 0


def max_packets(data: bytes) -> int:
    """Return how many packets may come out of a file at most, those that are lost included."""
    vbr = len(data) > 6 and data[6] & 1
    held = max(len(data) - HEADER_BYTES, 0) // (2 if vbr else cbr_bytes(8000, 1))
    return 2 * held + (SPARE_GROUPS + 2) * FRAMES_PER_GROUP


def max_allocation(data: bytes) -> int:
    """Return how many bytes reading and range decoding may take."""
    return ALLOCATION_BASE + ALLOCATION_PER_BYTE * len(data)


class Checker:
    """Send files through all readers and see whether the promises are kept.

    Parameters
    ----------
    codec : Codec
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        # What is compiled or made but once is not measured.
        data = codec.encode(np.zeros(1600, np.float32), 16000, 8)
        codec.decode_lossy(data, np.arange(2) == 1)
        codec.decode_integers(data)
        describe_stream(data, codec.weights)

    def check(
        self,
        data: bytes,
        rng: np.random.Generator,
        synthesis: bool = False,
        streaming: bool = False,
        memory: bool = False,
        info: bool = True,
    ) -> Outcome:
        """Check one file.

        Parameters
        ----------
        data : bytes
        rng : Generator
        synthesis, streaming : bool   compute samples as well, of the whole or packet by packet
        memory : bool                 measure allocations (slow)
        info : bool                   describe the file, too (slow)

        Raises
        ------
        Finding   a promise was broken
        """
        outcome = Outcome()
        if memory:
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
        try:
            self._read(data, rng, outcome, info and not memory)
        finally:
            if memory:
                outcome.peak = tracemalloc.get_traced_memory()[1] - before
                tracemalloc.stop()
        if outcome.peak > max_allocation(data):
            raise Finding(f"{outcome.peak} bytes were allocated for a file of {len(data)}")
        if synthesis:
            self._synthesise(data, rng, outcome)
        if streaming:
            self._stream(data, rng, outcome)
        # Measured here, where a hang of seconds ends; one without end is the caller's business.
        if outcome.seconds > SECONDS and not memory:
            raise Finding(f"{outcome.slowest} took {outcome.seconds:.2f} s")
        return outcome

    def _run(self, outcome: Outcome, name: str, call: Callable, *arguments: object) -> object:
        """Return what ``call`` returns, or the BitstreamError that it raises."""
        result: object
        start = time.process_time()
        try:
            result = call(*arguments)
        except BitstreamError as error:
            result = error
            message = str(error)
            if not message or "\n" in message or len(message) > MAX_MESSAGE:
                raise Finding(f"{name}: the message is {message!r}") from None
        except Exception as error:
            raise Finding(f"{name}: {type(error).__name__}: {error}") from error
        seconds = time.process_time() - start
        if seconds > outcome.seconds:
            outcome.seconds, outcome.slowest = seconds, name
        return result

    def _integers(self, header: Header, packets: list[bytes | None]) -> int:
        """Range decode packets; returns their number."""
        self.codec.check_header(header)
        intra = intra_packets(len(packets), header.independent)
        integers = self.codec.frame_decoder(header).integers(packets, intra)
        check_integers(integers)
        return len(integers.step)

    def _read(self, data: bytes, rng: np.random.Generator, outcome: Outcome, info: bool) -> None:
        run, limit = self._run, max_packets(data)
        whole = run(outcome, "read_stream", read_stream, data)
        decoded = run(outcome, "decode_integers", self.codec.decode_integers, data)
        if info:
            described = run(outcome, "info", describe_stream, data, self.codec.weights)
            if isinstance(decoded, BitstreamError) != isinstance(described, BitstreamError):
                raise Finding(f"decoder and info disagree: {decoded!r:.200} {described!r:.200}")
        saved = run(outcome, "salvage_stream", salvage_stream, data)
        pieces = run(outcome, "BitstreamReader", read_in_pieces, data, rng)
        accepted = not isinstance(whole, BitstreamError)
        if isinstance(pieces, BitstreamError) == accepted:
            raise Finding(f"whole file and pieces disagree: {whole!r:.200} {pieces!r:.200}")
        if accepted:
            if pieces != whole:
                raise Finding("the file read in pieces is another one")
            if isinstance(saved, BitstreamError) or saved != (*whole, []):
                raise Finding(f"salvage sees problems: {saved!r:.200}")
            if num_packets(num_codec_samples(whole[0])) != len(whole[1]):
                raise Finding(f"{whole[0]} with {len(whole[1])} packets")
        if isinstance(decoded, BitstreamError):
            outcome.message = str(decoded)
        else:
            check_integers(decoded[1])
            outcome.kind = "decoded"
        if not isinstance(saved, BitstreamError):
            header, packets, problems = saved
            if len(packets) > limit:
                raise Finding(f"{len(packets)} packets out of {len(data)} bytes")
            if any(not p or "\n" in p or len(p) > MAX_MESSAGE for p in problems):
                raise Finding(f"salvage says {problems!r:.300}")
            if not accepted:
                count = run(outcome, "integers of salvage", self._integers, header, packets)
                if not isinstance(count, BitstreamError):
                    outcome.kind = "salvaged"
        outcome.kind = outcome.kind or "refused"

    def _synthesise(self, data: bytes, rng: np.random.Generator, outcome: Outcome) -> None:
        at_source = bool(rng.integers(2))
        if outcome.kind == "decoded":
            result = self._run(
                outcome, "decode", self.codec.decode, data, "source" if at_source else "codec"
            )
        else:
            result = self._run(outcome, "salvage", self.codec.salvage, data, at_source)
            if outcome.kind == "salvaged" and not isinstance(result, BitstreamError):
                result = result[0]
        if isinstance(result, BitstreamError):
            if outcome.kind != "refused":
                raise Finding(f"synthesis refused what was decoded: {result}")
            return
        self._check_samples(data, result, 48 if at_source else 1, outcome)

    def _check_samples(
        self, data: bytes, samples: np.ndarray, factor: int, outcome: Outcome
    ) -> None:
        outcome.samples = max(outcome.samples, len(samples))
        if len(samples) > 320 * factor * max_packets(data):
            raise Finding(f"{len(samples)} samples out of {len(data)} bytes")
        if samples.dtype != np.float32 or not np.isfinite(samples).all():
            raise Finding(f"samples are {samples.dtype}, or not finite")

    def _stream(self, data: bytes, rng: np.random.Generator, outcome: Outcome) -> None:
        """Push the file into a reader and its packets into a decoder, half the time with losses."""
        loss = 0.2 if rng.random() < 0.5 else 0.0
        result = self._run(outcome, "StreamDecoder", self._stream_samples, data, rng, loss)
        if isinstance(result, BitstreamError):
            return
        self._check_samples(data, result, 1, outcome)
        if outcome.kind == "decoded" and loss == 0:
            whole = self.codec.decode(data)[: len(result)]
            if not np.array_equal(whole, result[: len(whole)]):
                raise Finding("a stream's samples are not the file's")

    def _stream_samples(self, data: bytes, rng: np.random.Generator, loss: float) -> np.ndarray:
        reader, decoder = BitstreamReader(), None
        out = [np.zeros(0, np.float32)]
        for piece in cut(data, rng):
            try:
                packets = reader.push(piece)
            except BitstreamError:
                break  # what came before it is played
            if decoder is None and reader.header is not None:
                decoder = StreamDecoder(self.codec, reader.header)
            for packet in packets:
                assert decoder is not None
                out.append(decoder.push(None if rng.random() < loss else packet))
                if len(out) > STREAMED:
                    return np.concatenate(out)
        return np.concatenate(out)


def check_integers(integers: DecodedIntegers) -> None:
    """Raise Finding unless the integers lie where all that follows expects them."""
    for name, limit in LIMITS.items():
        values = getattr(integers, name)
        if values.size and not -limit <= values.min() <= values.max() <= limit:
            raise Finding(f"{name} lies within {values.min()}..{values.max()}")


def cut(data: bytes, rng: np.random.Generator) -> list[bytes]:
    """Return the file in pieces: of one byte, of some, or all of it."""
    count = int(rng.choice([0, 1, 4, 20]))
    places = sorted(rng.integers(0, len(data) + 1, count).tolist())
    if rng.random() < 0.05:
        places = list(range(len(data)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def read_in_pieces(data: bytes, rng: np.random.Generator) -> tuple[Header, list[bytes]]:
    """Return what a BitstreamReader makes of a file that comes in pieces."""
    reader = BitstreamReader()
    found = []
    for piece in cut(data, rng):
        found += reader.push(piece)
    reader.finish()
    assert reader.header is not None
    return reader.header, found
