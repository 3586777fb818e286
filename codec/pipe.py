"""Standard input and output: encode while the signal passes through.

Raw samples and WAV of any rate are coded in constant memory while they come in, with 30 ms of
delay at 16 kHz; anything else is read to its end first. (Decoding needs nothing of its own: see
:func:`codec.pieces.decode_stream`.)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from codec.config import SAMPLE_RATE
from codec.errors import AudioError
from codec.io.audio import AudioReader, loud_note
from codec.io.channels import (
    BLOCK_SAMPLES,
    MAX_PEAK,
    MIX,
    Downmix,
    FloatArray,
    check_samples,
    downmix,
    one_channel,
)
from codec.io.files import WriteThrough
from codec.io.resample import check_rate
from codec.io.sniff import HEAD_BYTES, head_size, is_audio_file
from codec.io.wav import Samples, parse_wav
from codec.pieces import CHUNK_BYTES, EncodeOptions, Outcome, encode_blocks
from codec.two_pass import IN_MEMORY_BYTES

if TYPE_CHECKING:
    from codec.api import Codec

RAW_DEFAULT = Samples("s16le", SAMPLE_RATE, 1)
# Such chunks may follow where there really are no samples.
_CHUNKS = (
    b"LIST", b"fact", b"bext", b"iXML", b"id3 ", b"ID3 ", b"cue ", b"smpl", b"PEAK", b"JUNK",
    b"afsp", b"PAD ", b"FLLR", b"cart", b"DISP", b"acid", b"inst", b"axml", b"chna", b"_PMX",
)  # fmt: skip
_HEADER_SPACE = 1 << 16  # a header that is longer is not read while it comes in
_LISTEN_SECONDS = 1.0  # of several channels, by which their downmix is chosen
_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_LAST_BYTES = 1 << 20  # that may lie in a pipe when a recording is stopped


class PipeInput:
    """A readable pipe to which bytes that were looked at can be given back.

    Parameters
    ----------
    file : binary file
    stop : LiveStop or None   ends the input where a signal asks for it
    """

    def __init__(self, file: IO[bytes], stop: LiveStop | None = None) -> None:
        self._file = getattr(file, "raw", file)  # what lies in a buffer, `select` does not see
        self._stop = stop
        self._first = b""

    def peek(self, size: int) -> bytes:
        """Return the first bytes, fewer at the end of the pipe, and leave them there."""
        while len(self._first) < size:
            piece = self._take(size - len(self._first))
            if not piece:
                break
            self._first += piece
        return self._first[:size]

    def skip(self, size: int) -> None:
        """Leave out bytes that were looked at."""
        self._first = self._first[size:]

    def read_some(self, size: int) -> bytes:
        """Return what is there, at least one byte but at the end."""
        if self._first:
            first, self._first = self._first[:size], self._first[size:]
            return first
        return self._take(size)

    def look(self, position: int, size: int) -> bytes:
        """Return bytes from a place on, as `peek`."""
        return self.peek(position + size)[position:]

    def drain(self) -> int:
        """Read on to the end: whoever writes would be told that nobody listens. Return how far."""
        count = 0
        while data := self.read_some(CHUNK_BYTES):
            count += len(data)
        return count

    def _take(self, size: int) -> bytes:
        if self._stop is not None and not self._stop.wait():
            return b""
        return bytes(self._file.read(size) or b"")


class LiveStop:
    """Let INT, TERM and HUP end the input instead of the program.

    A recording that is stopped is coded to its end and kept. A second INT or TERM does what it did
    before; HUP may come twice, from the shell and from the system, when a terminal is closed.

    Parameters
    ----------
    file : binary file   the input

    Attributes
    ----------
    signal : int   that came; 0: none
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.signal = 0
        self._former: dict[int, Any] = {}
        self._file = file
        self._left = _LAST_BYTES
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)

    @contextlib.contextmanager
    def listening(self) -> Iterator[LiveStop]:
        """Take the signals over within the block; nothing is done outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        for number in filter(None, (signal.SIGINT, signal.SIGTERM, _HANGUP)):
            if signal.getsignal(number) != signal.SIG_IGN:  # a background job, or nohup
                self._former[number] = signal.signal(number, self._note)
        wakeup = signal.set_wakeup_fd(self._woken)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in self._former.items():
                signal.signal(number, handler)
            os.close(self._wake)
            os.close(self._woken)

    def wait(self) -> bool:
        """Wait for input; return whether there is more to read.

        What lies in the pipe when the signal comes is still taken.
        """
        try:
            if not self.signal:
                select.select([self._file.fileno(), self._wake], [], [])
                if not self.signal:
                    return True
            self._left -= CHUNK_BYTES
            ready, _, _ = select.select([self._file.fileno()], [], [], 0)
            return bool(ready) and self._left > 0
        except (OSError, ValueError):  # no descriptor, or none that can be waited for
            return not self.signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == _HANGUP:
            return
        if self.signal:
            signal.signal(number, self._former[number])
            signal.raise_signal(number)
        self.signal = number


def encode_pipe(
    codec: Codec,
    source: IO[bytes],
    write: Callable[[bytes], object],
    options: EncodeOptions,
    seek: Callable[[int], object] | None = None,
    raw: Samples | None = None,
    stop: LiveStop | None = None,
    name: str = "standard input",
    cut: Callable[[Sequence[int]], int] | None = None,
) -> Outcome:
    """Encode what comes in from a pipe.

    What cannot come in again is kept: where input fails after its first samples, the stream ends
    well, and the error is in the outcome.

    Parameters
    ----------
    codec : Codec
    source : binary file   an audio file, or samples without a header
    write : callable       takes the bytes of the coded file, piece by piece
    options : EncodeOptions
    seek : callable        moves to a place in what was written; None: it cannot, and the stream
                           ends with its length instead of beginning with it
    raw : Samples or None  what samples without a header are; None: look whether it is an audio
                           file, else 16-bit samples at 16 kHz, mono, little-endian
    stop : LiveStop        ends the input where a signal asks for it
    name : str             what messages call the input
    cut : callable         keeps what fits where no more can be written; see `encode_blocks`

    Returns
    -------
    Outcome

    Raises
    ------
    AudioError   not audio
    """
    if _is_regular(source):
        cut = None  # it is still there
    pipe = PipeInput(source, stop)
    outcome = Outcome(Path("-"), Path("-"))
    samples, size = raw, None
    if raw is None:
        samples, size = _look_at_header(pipe, outcome, name, stop)
    if samples is None:
        return _encode_spooled(codec, pipe, options, outcome, name, write, seek, cut)
    check_rate(samples.rate, f"{name}: sample rate")
    frames = _frames(pipe, samples, size, outcome)
    blocks = _mono_blocks(frames, samples, options.channel, outcome, name)
    if not _is_regular(source):
        blocks = _until_it_fails(blocks, outcome)
    outcome.sample_rate = samples.rate
    encode_blocks(codec, blocks, options, outcome, write, seek, cut)
    if outcome.num_samples == 0:
        outcome.notes.append("no samples came in")
    return outcome


def _look_at_header(
    pipe: PipeInput, outcome: Outcome, name: str, stop: LiveStop | None
) -> tuple[Samples | None, int | None]:
    """Say what samples come next, and in how many bytes (None: to the end).

    No samples: it is an audio file that cannot be read while it comes in.

    Raises
    ------
    AudioError   not audio, or nothing at all
    """
    head = pipe.peek(HEAD_BYTES)
    if not head and not (stop and stop.signal):
        raise AudioError(f"{name}: is empty; look at the program that should write to it")
    if not is_audio_file(pipe.peek(head_size(head)), name):
        if head:
            outcome.notes.append(
                "no header of an audio file: taken as 16-bit samples at 16 kHz, mono (--raw says "
                "what they are)"
            )
        return RAW_DEFAULT, None
    header = parse_wav(pipe.look, _HEADER_SPACE)
    if header is None or header.samples is None:
        return None, None
    pipe.skip(header.offset)
    if header.size == 0 and not _is_chunk(pipe.peek(4)):
        outcome.notes.append("the header announces no audio: read to the end")
        return header.samples, None
    return header.samples, header.size


def _is_chunk(name: bytes) -> bool:
    """Tell whether a RIFF chunk may begin so, or the file ends here."""
    return not name or name in _CHUNKS


def _is_regular(file: IO[bytes]) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _until_it_fails(blocks: Iterator[FloatArray], outcome: Outcome) -> Iterator[FloatArray]:
    """Yield blocks; end where they cannot be read on, so that what came before is kept."""
    begun = False
    try:
        for block in blocks:
            begun = begun or len(block) > 0
            yield block
    except (AudioError, OSError) as error:
        if not begun:
            raise
        outcome.error = str(error)


def _frames(
    pipe: PipeInput, samples: Samples, num_bytes: int | None, outcome: Outcome
) -> Iterator[FloatArray]:
    """Yield samples of all channels, shape [T, channels], as they come in; None: all."""
    rest, left = b"", num_bytes
    while left is None or left > 0:
        data = pipe.read_some(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
        if not data:
            break
        if left is not None:
            left -= len(data)
        data = rest + data
        whole = len(data) - len(data) % samples.frame_bytes
        rest = data[whole:]
        yield samples.to_float(data[:whole])
    if left and num_bytes is not None:
        if left > 1:  # one: a pad byte left out
            there = num_bytes - left
            outcome.notes.append(
                f"the file is cut off: {there} of {num_bytes} bytes of audio are there and are used"
            )
    elif left == 0 and num_bytes is not None:
        known = _is_chunk(pipe.peek(num_bytes % 2 + 4)[num_bytes % 2 :])
        surplus = pipe.drain() - num_bytes % 2
        if not known:
            outcome.notes.append(f"{surplus} bytes behind the announced audio are left out")
    elif rest:
        outcome.notes.append(f"{_bytes(len(rest))} at the end are no whole sample: left out")


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"


def _mono_blocks(
    frames: Iterator[FloatArray],
    samples: Samples,
    channel: str | int,
    outcome: Outcome,
    name: str,
) -> Iterator[FloatArray]:
    """Yield mono samples; a downmix is chosen by the first second in which there is sound."""
    peak = 0.0
    problems: list[Exception] = []
    first: list[FloatArray] = []
    gains: Downmix | None = None
    if samples.channels == 1:
        gains = Downmix((1.0,))
    if channel != MIX:
        gains = one_channel(int(channel), samples.channels, name)
    for block in _up_to_a_problem(frames, name, problems):
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        if gains is not None:
            yield gains(block)
            continue
        if block.any() or first:
            first.append(block)
        else:
            yield block[:, 0]
        if sum(map(len, first)) >= _LISTEN_SECONDS * samples.rate:
            gains = _choose(first, samples.channels)
            yield from (gains(kept) for kept in first)
    if gains is None:
        gains = _choose(first, samples.channels)
        yield from (gains(kept) for kept in first)
    outcome.notes += [gains.note] if gains.note else []
    outcome.notes += loud_note(peak)
    if problems:
        raise problems[0]


def _up_to_a_problem(
    frames: Iterator[FloatArray], name: str, problems: list[Exception]
) -> Iterator[FloatArray]:
    """Yield samples up to the first that cannot be read or coded; `problems` gets the reason."""
    try:
        for block in frames:
            good = (np.abs(block) <= MAX_PEAK).all(axis=1)  # NaN is not
            if good.all():
                yield block
            else:
                yield block[: int(good.argmin())]
                check_samples(block, name)  # says what is wrong
    except (AudioError, OSError) as error:
        problems.append(error)


def _choose(blocks: list[FloatArray], channels: int) -> Downmix:
    size = max(1, BLOCK_SAMPLES // channels)
    cut = (block[i : i + size] for block in blocks for i in range(0, len(block), size))
    return downmix(cut, channels)


def _encode_spooled(
    codec: Codec,
    pipe: PipeInput,
    options: EncodeOptions,
    outcome: Outcome,
    name: str,
    write: Callable[[bytes], object],
    seek: Callable[[int], object] | None,
    cut: Callable[[Sequence[int]], int] | None,
) -> Outcome:
    """Encode an audio file that cannot be read while it comes in."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(buffering=0))
        _spool(pipe, file, outcome)
        reader = stack.enter_context(AudioReader(file.name, options.channel, name))
        outcome.sample_rate = reader.sample_rate
        if seek is not None:
            encode_blocks(codec, reader.blocks(), options, outcome, write, seek, cut)
        else:
            coded = stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES))
            encode_blocks(codec, reader.blocks(), options, outcome, coded.write, coded.seek)
            coded.seek(0)
            while data := coded.read(CHUNK_BYTES):
                write(data)
        outcome.notes += reader.notes
    outcome.notes.append("this kind of file is read to its end before it is coded")
    return outcome


def _spool(pipe: PipeInput, file: IO[bytes], outcome: Outcome) -> None:
    """Read the pipe into a file, to the end or as far as there is room."""
    out = WriteThrough(file)
    while data := pipe.read_some(CHUNK_BYTES):
        try:
            out.write(data)
        except OSError as error:
            folder = tempfile.gettempdir()
            outcome.error = (
                f"{folder}: cannot be written ({error.strerror}); name another in TMPDIR"
            )
            return
