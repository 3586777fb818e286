"""Run the codec from the command line: encode, decode, info, eval, train.

Everything heavy (torch, numba, scipy, libsndfile) is imported inside the commands, so that
`codec --help` and `codec info` answer at once. What every command promises:

- a mistake of the user is one line `codec: error: ...` on stderr and exit code 2, no traceback;
- an output file is either complete or not there: it is written beside its place and renamed;
- over a directory, one bad file does not stop the others; they are listed at the end, exit code 1;
- Ctrl-C is one line and exit code 130.
"""

import contextlib
import inspect
import io
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn, get_type_hints

import typer
from typer.core import TyperGroup

from codec.config import (
    DEFAULT_KBPS,
    MAX_KBPS,
    MAX_SOURCE_RATE,
    MIN_KBPS,
    MIN_SOURCE_RATE,
    OURS,
    SAMPLE_RATE,
)
from codec.errors import BitstreamError, CodecError
from models.training.config import TrainConfig

if TYPE_CHECKING:
    from codec import Codec
    from codec.io.wav import Samples
    from codec.pieces import DecodeOptions, EncodeOptions, Outcome
    from codec.transcode import Work
    from evaluation.results import EvalResult

STANDARD = Path("-")  # standard input or output
DEFAULT_RATES = "8,9.6,13.2,16.4,24.4,32"
DEFAULT_PAGE_CLIPS = 4

EXIT_SOME_FILES = 1  # a directory run in which at least one file failed
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something that the user can put right; the message says what is wrong and what to do."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; the message says what to do next."""


class Rate(StrEnum):
    """Name the sample rate to decode to."""

    codec = "codec"
    source = "source"


class SampleFormat(StrEnum):
    """Name samples without a header."""

    s16le = "s16le"
    s24le = "s24le"
    s32le = "s32le"
    u8 = "u8"
    f32le = "f32le"
    alaw = "alaw"
    mulaw = "mulaw"


class OutputFormat(StrEnum):
    """Name what to write."""

    wav = "wav"
    raw = "raw"
    flac = "flac"
    ogg = "ogg"
    opus = "opus"
    mp3 = "mp3"
    aiff = "aiff"
    au = "au"
    caf = "caf"
    w64 = "w64"
    rf64 = "rf64"
    sph = "sph"


# --------------------------------------------------------------------------------------------------
# Errors and exit codes


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _escaped(text: object) -> str:
    """Return text for one line: names of files may hold newlines, and bytes that are no text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _complain(message: object) -> None:
    """Print one error line on stderr."""
    print(f"codec: error: {_escaped(message)}", file=sys.stderr)


def _note(message: object) -> None:
    """Print one remark on stderr."""
    print(f"codec: note: {_escaped(message)}", file=sys.stderr)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _describe_os_error(error: OSError) -> str:
    """Return what the system said, with the file first and without the errno."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


_closed: set[str] = set()  # names of standard streams that were closed


def _open_standard_streams() -> None:
    """Give every standard stream that is closed a place to go, and let file names be any bytes.

    Else a file that is opened next would get the descriptor of standard error, and what libraries
    print there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, open(os.devnull, mode))  # the lowest descriptor that is free
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")


class _Group(TyperGroup):
    """A typer group that turns every mistake into one line on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; see `TyperGroup.main`."""
        _open_standard_streams()
        try:
            result = super().main(
                args, prog_name, complete_var, False, windows_expand_args, **extra
            )
            sys.stdout.flush()
        except typer.TyperException as error:  # wrong options: click's three lines become one
            hint = "see `codec --help`"
            context = getattr(error, "ctx", None)
            if context is not None:
                hint = f"see `{context.command_path} --help`"
            self._leave(EXIT_USER, f"{_one_line(error.format_message()).rstrip('.')}; {hint}")
        except (UserError, CodecError) as error:
            self._leave(EXIT_USER, str(error))
        except Interrupted as stop:
            print(f"codec: interrupted; {_one_line(stop)}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # whoever read our output has enough; that is theirs to judge
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_SOME_FILES)
        except OSError as error:  # the disk is full, no permission, ...
            self._leave(EXIT_USER, _describe_os_error(error))
        code = result if isinstance(result, int) else 0
        if code == EXIT_INTERRUPTED:
            print("codec: interrupted", file=sys.stderr)
        if standalone_mode:
            sys.exit(code)
        return result

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        """Find a command; `codec eval --ratings` is what `codec ratings` was called."""
        if args[0] == "eval" and "--ratings" in args:
            args = ["ratings", *(arg for arg in args[1:] if arg != "--ratings")]
        return super().resolve_command(context, args)

    @staticmethod
    def _leave(code: int, message: str) -> NoReturn:
        _complain(message)
        sys.exit(code)


app = typer.Typer(
    name="codec",
    cls=_Group,
    add_completion=False,
    rich_markup_mode=None,  # rich would double the start-up time
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(version("nsvq-speech-codec"))
        except PackageNotFoundError:
            print("unknown (run from a source tree that is not installed)")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """A learned speech codec: 16 kHz speech at any rate from 8 to 32 kbit/s."""
    if context.invoked_subcommand is None:
        print(context.get_help())


# --------------------------------------------------------------------------------------------------
# Arguments


def _check_kbps(value: float) -> float:
    """Return the bitrate, or raise `UserError` when it is outside 8..32 kbit/s."""
    if not (math.isfinite(value) and MIN_KBPS <= value <= MAX_KBPS):
        raise UserError(
            f"bitrate {value:g} kbit/s is out of range; "
            f"give a value from {MIN_KBPS:g} to {MAX_KBPS:g}"
        )
    return value


def _parse_rates(text: str) -> list[float]:
    """Return the bitrates of a comma-separated list, each inside 8..32 kbit/s."""
    try:
        rates = [_check_kbps(float(item)) for item in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} are not numbers; give kbit/s such as {DEFAULT_RATES}"
        ) from None
    if len(set(rates)) < len(rates):
        raise typer.BadParameter(f"a rate is named twice in {text!r}; name each once")
    return rates


def _parse_losses(text: str) -> list[float]:
    """Return percentages of lost packets, 0 first; none for an empty list."""
    if not text.strip():
        return []
    try:
        losses = {0.0, *map(float, text.split(","))}
    except ValueError:
        losses = {math.nan}
    if not all(0 <= loss <= 100 for loss in losses):
        raise typer.BadParameter(
            f"something in {text!r} is not a percentage; give numbers from 0 to 100, such as 3,6,10"
        )
    return sorted(losses)


def _parse_names(text: str) -> list[str]:
    """Return the names of a comma-separated list, in small letters."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if text and not names:
        raise typer.BadParameter(f"no name in {text!r}")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"one is named twice in {text!r}; name each once")
    return names


def _check_input(path: Path) -> None:
    if path != STANDARD and not path.exists():
        raise UserError(f"{path}: no such file or directory; check the path")


def _check_file(path: Path | None, option: str) -> None:
    """Raise unless the path that an option names is a file (None: the option was not given)."""
    if path is not None and not path.is_file():
        raise UserError(f"{option}: {path}: no such file; check the path")


def _check_directory(path: Path) -> None:
    _check_input(path)
    if not path.is_dir():
        raise UserError(f"{path}: not a directory; name a directory with audio files")


def _parse_kbps(text: str) -> float:
    """Return a bitrate inside 8..32 kbit/s."""
    try:
        return _check_kbps(float(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number; give kbit/s such as 13.2") from None


def _parse_channel(text: str) -> str | int:
    """Return 'mix', or the number of a channel."""
    if text == "mix" or text.isdecimal() and int(text) > 0:
        return text if text == "mix" else int(text)
    raise typer.BadParameter(f"{text!r} is no channel; give mix, or a number from 1 on")


def _is_pipe(path: Path) -> bool:
    """Tell whether a path is a pipe, which can be read once only."""
    return path.is_fifo() or path.is_socket()


# --------------------------------------------------------------------------------------------------
# Encode and decode


@lru_cache(maxsize=1)
def _load_codec(weights: Path | None) -> "Codec":
    """Load the codec once per process."""
    from codec import Codec, jit

    jit.announce = _announce_compiling
    return Codec.load(weights)


@lru_cache(maxsize=1)
def _announce_compiling() -> None:
    """Say on a terminal, once, why it takes a while."""
    if sys.stderr.isatty():
        _note("compiling for this processor; this takes about 20 seconds, once")


def _read_stream(path: Path) -> bytes:
    """Return the bytes of a stream; of anything else only the start, which is enough to refuse it.

    Else a huge file, or /dev/zero, would fill the memory before it is refused.
    """
    from codec.bitstream import MAGIC

    with path.open("rb") as file:
        start = file.read(64)
        return start + file.read() if start.startswith(MAGIC) else start


def _describe(outcome: "Outcome", name: object, encoding: bool) -> str:
    """Return the line that says what became of one file."""
    text = f"{name} -> {outcome.target}: {outcome.seconds:.2f} s"
    if not encoding:
        text += f" at {outcome.sample_rate} Hz"
    elif outcome.num_bytes:
        rate = (
            f", {8e-3 * outcome.num_bytes / outcome.seconds:.2f} kbit/s" if outcome.seconds else ""
        )
        text += f", {outcome.num_bytes} bytes{rate}"
    if outcome.problems:
        text += f", salvaged ({_count(len(outcome.problems), 'problem')})"
    return text


@dataclass(frozen=True)
class _Run:
    """One `encode` or `decode`: what to do with a file, and what was asked for beside it."""

    encoding: bool
    work: "Work"
    suffix: str
    suffixes: Collection[str]
    jobs: int
    skip_existing: bool
    dry_run: bool

    @property
    def verb(self) -> str:
        """Return what is done."""
        return "encode" if self.encoding else "decode"

    def choose(self, source: Path, target: str | None, force: bool) -> Path:
        """Return where the output goes."""
        from codec.transcode import choose_target

        chosen = choose_target(source, target, self.suffix, force)
        if self.encoding and chosen.suffix.lower() in self.suffixes:
            _note(f"{chosen}: is to be a coded stream, not audio; .bin is the usual suffix")
        return chosen

    def check_pipe(self, source: Path, target: str | None) -> None:
        """Raise unless standard input and output can be what was asked for."""
        if self.skip_existing or self.dry_run:
            option = "--skip-existing" if self.skip_existing else "--dry-run"
            raise UserError(f"{option}: is for files and directories; leave it out with -")
        if source == STANDARD and target is None:
            raise UserError("name an output for what comes from standard input, or -")
        if source.is_dir():
            raise UserError(f"{source}: is a directory; name one file to go to standard output")

    def __call__(self, source: Path, target: str | None, force: bool) -> None:
        """Code a file or a directory."""
        chosen = self.choose(source, target, force)
        _end_cleanly()
        if source.is_dir():
            self.directory(source, chosen)
        else:
            self.file(source, chosen)

    def file(self, source: Path, target: Path) -> None:
        """Code a single file and report it."""
        from codec.io.files import is_direct
        from codec.transcode import attempt, is_done

        if self.dry_run:
            print(_escaped(f"{source} -> {target}"))
            return
        if self.skip_existing and is_done(target):
            print(_escaped(f"{target}: exists, skipped"))
            return
        outcome = attempt(self.work, source, target, threading.Event())
        if outcome.error:
            raise UserError(outcome.error)
        for text in [*outcome.notes, *(f"{source}: {problem}" for problem in outcome.problems)]:
            _note(text)
        if not is_direct(target):  # in /dev/stdout this line would mix with the data
            print(_escaped(_describe(outcome, source, self.encoding)))

    def directory(self, source: Path, target: Path) -> None:
        """Code every file of a directory tree; go on past bad files and list them at the end."""
        from codec.transcode import is_done, list_files, pair_up, run_pairs

        sources, notes = list_files(source, self.suffixes)
        if not sources:
            what = "audio" if self.encoding else ".bin"
            raise UserError(f"{source}: no {what} files in this directory; check the path")
        pairs, failures = pair_up(sources, source, target, self.suffix)
        skipped = ""
        if self.skip_existing:
            wanted = [pair for pair in pairs if not is_done(pair[1])]
            skipped = f", {_count(len(pairs) - len(wanted), 'existing file')} skipped"
            pairs = wanted
        for text in notes:
            _note(text)
        if self.dry_run:
            for pair in pairs:
                print(_escaped(f"{pair[0]} -> {pair[1]}"))
            return
        started = time.monotonic()
        done: list[Outcome] = []
        with (
            contextlib.closing(run_pairs(self.work, pairs, self.jobs)) as outcomes,
            _progress(self.verb, "file") as show,
        ):
            for number, outcome in enumerate(outcomes, 1):
                show(number, len(pairs))
                (failures if outcome.error else done).append(outcome)
        _note_alike(done)
        for outcome in sorted(failures, key=lambda outcome: outcome.source):
            _complain(outcome.error)
        totals = _totals(done, time.monotonic() - started)
        text = f"{self.verb}d {len(done)} of {len(sources)} files into {target}{skipped}{totals}"
        print(_escaped(text))
        if failures:
            raise typer.Exit(EXIT_SOME_FILES)


def _note_alike(outcomes: "Sequence[Outcome]") -> None:
    """Print the notes of many files, each once."""
    notes: dict[str, list[Path]] = {}
    for outcome in outcomes:
        for text in outcome.notes:
            notes.setdefault(text, []).append(outcome.source)
        for text in outcome.problems:
            notes.setdefault(f"{outcome.source}: {text}", []).append(outcome.source)
    for text, paths in notes.items():
        if len(paths) > 1:
            text = f"{text} ({len(paths)} files)"
        elif str(paths[0]) not in text:
            text = f"{paths[0]}: {text}"
        _note(text)


def _totals(outcomes: "Sequence[Outcome]", elapsed: float) -> str:
    """Return hours, bytes, rate and speed of all files together."""
    seconds = sum(outcome.seconds for outcome in outcomes)
    num_bytes = sum(outcome.num_bytes for outcome in outcomes)
    if not seconds:
        return ""
    return (
        f": {seconds / 3600:.2f} h, {num_bytes} bytes, {8e-3 * num_bytes / seconds:.2f} kbit/s, "
        f"{seconds / elapsed:.0f} times real time"
    )


def _end(number: int, frame: object) -> NoReturn:
    """Leave on a signal as on an error: what is half written goes."""
    sys.exit(128 + number)


def _end_cleanly() -> None:
    """Let TERM and HUP clean up."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def _can_seek(file: BinaryIO) -> bool:
    """Tell whether an open file begins here and can be gone back in."""
    try:
        import fcntl

        appended = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND
        return file.seekable() and file.tell() == 0 and not appended
    except (ImportError, OSError, ValueError):
        return False


@contextlib.contextmanager
def _open_output(target: Path) -> Generator[tuple[BinaryIO, bool]]:
    """Open an output, or standard output; yield it, and whether it can seek."""
    from codec.io.files import atomic_open, is_direct

    if target != STANDARD:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(target) as file:
            yield file, not is_direct(target)
        return
    if "stdout" in _closed:
        raise UserError("standard output is closed; redirect it to a file or a program")
    if sys.stdout.isatty():
        raise UserError("standard output is a terminal; redirect it to a file or a program")
    out = sys.stdout.buffer
    seekable = _can_seek(out)
    yield out, seekable
    if seekable:
        out.seek(0, os.SEEK_END)  # whoever shares it goes on writing there
    out.flush()


@contextlib.contextmanager
def _open_input(source: Path) -> Generator[BinaryIO]:
    if source != STANDARD:
        with source.open("rb") as file:
            yield file
        return
    if "stdin" in _closed:
        raise UserError("standard input is closed; pipe a file or another program into it")
    if sys.stdin.isatty():
        raise UserError("standard input is a terminal; pipe a file or another program into it")
    yield sys.stdin.buffer


def _report(outcome: "Outcome", name: object, encoding: bool) -> None:
    """Say what became of what went through standard input or output."""
    for text in [*outcome.notes, *outcome.problems]:
        _note(text)
    if outcome.target != STANDARD:
        print(_escaped(_describe(outcome, name, encoding)))


def _encode_pipe(
    codec: "Codec", source: Path, target: Path, options: "EncodeOptions", raw: "Samples | None"
) -> None:
    """Encode from standard input, or from what is to be read as it is."""
    from codec.pipe import LiveStop, encode_pipe
    from codec.transcode import encode_file

    if source.is_file() and raw is None:
        with _open_output(target) as (writer, _):
            _report(encode_file(codec, source, writer, options), source, encoding=True)
        return
    with _open_input(source) as reader, LiveStop(reader).listening() as stop:
        with _open_output(target) as (writer, seekable):
            outcome = encode_pipe(
                codec, reader, partial(_write_through, writer), options,
                writer.seek if seekable else None, raw, stop,
            )  # fmt: skip
            if stop.signal and not outcome.num_samples:
                sys.exit(128 + stop.signal)  # there is nothing to keep
    outcome.target = target
    _report(outcome, _name(source), encoding=True)
    if stop.signal:
        where = "the output" if target == STANDARD else target
        name = signal.Signals(stop.signal).name
        _note(f"stopped by {name}: {where} holds the {outcome.seconds:.2f} s that came in")
        raise typer.Exit(128 + stop.signal)


def _decode_pipe(codec: "Codec", source: Path, target: Path, options: "DecodeOptions") -> None:
    """Decode from standard input, to standard output, or both."""
    from codec.pieces import Outcome, decode_stream

    outcome = Outcome(source, target)
    try:
        with _open_input(source) as reader, _open_output(target) as (writer, seekable):
            decode_stream(codec, reader, writer, options, outcome, seekable)
    except BitstreamError as error:
        hint = "" if options.salvage else "; --salvage keeps what is intact"
        raise UserError(f"{_name(source)}: {error}{hint}") from error
    _report(outcome, _name(source), encoding=False)


def _write_through(file: BinaryIO, data: bytes) -> None:
    """Write and flush, so that the next program has it at once."""
    if data:
        file.write(data)
        file.flush()


def _name(source: Path) -> str:
    return "standard input" if source == STANDARD else str(source)


# --------------------------------------------------------------------------------------------------
# Options that several commands share

WeightsOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="Use this .safetensors file in place of the weights that ship with the codec.",
    ),
]
JobsOption = Annotated[int, typer.Option(min=1, help="Work on this many files at once.")]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Leave out what is done, to go on with an interrupted run: an output that is a "
        "regular file and not empty. What it was made of, and how, is not compared.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Without OUT: replace an output that is there.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
]
OutArgument = Annotated[
    str | None,
    typer.Argument(metavar="[OUT]", help="File, directory, or - (standard output); without it: "
                   "beside IN."),
]  # fmt: skip


@app.command()
def encode(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="Audio file, a directory of them, or - (standard input)",
        ),
    ],
    target: OutArgument = None,
    bitrate: Annotated[
        float,
        typer.Option(
            parser=_parse_kbps, metavar="KBPS", help="Rate in kbit/s, any value from 8 to 32."
        ),
    ] = DEFAULT_KBPS,
    vbr: Annotated[
        bool,
        typer.Option("--vbr", help="Spend the same average rate where it helps most in the file."),
    ] = False,
    intra_only: Annotated[
        bool,
        typer.Option(
            "--intra-only",
            "--independent-packets",
            help="Let no packet need another, for networks that lose some; at 3 to 12 % more rate.",
        ),
    ] = False,
    channel: Annotated[
        str,
        typer.Option(
            parser=_parse_channel,
            metavar="mix|N",
            help="Channel to encode, counted from 1; mix: all, none of them lost.",
        ),
    ] = "mix",
    raw: Annotated[
        SampleFormat | None,
        typer.Option(help="The input has no header: its samples are these, interleaved."),
    ] = None,
    sample_rate: Annotated[
        int,
        typer.Option(
            min=MIN_SOURCE_RATE, max=MAX_SOURCE_RATE, metavar="HZ", help="Rate of --raw samples."
        ),
    ] = SAMPLE_RATE,
    channels: Annotated[int, typer.Option(min=1, max=1024, help="Channels of --raw samples.")] = 1,
    weights: WeightsOption = None,
    jobs: JobsOption = 1,
    skip_existing: SkipOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Encode audio of any sample rate and channel count.

    A directory is encoded file by file into OUT: the tree is kept, NAME.wav becomes NAME.bin.
    Standard input is an audio file, or samples (16 bits, 16 kHz, mono, little-endian, unless --raw
    says otherwise); samples and WAV are coded while they come in.
    """
    _check_input(source)
    samples = None
    if raw is not None:
        from codec.io.wav import Samples

        samples = Samples(raw.value, sample_rate, channels)
        if source.is_dir():
            raise UserError("--raw: one file at a time, or standard input; leave it out")
    elif sample_rate != SAMPLE_RATE or channels != 1:
        raise UserError("--sample-rate, --channels: describe samples without a header; add --raw")
    from codec.io.audio import AUDIO_SUFFIXES
    from codec.pieces import EncodeOptions
    from codec.transcode import encode_file

    options = EncodeOptions(bitrate, vbr, intra_only, channel)

    def work(path: Path, out: Path | BinaryIO, stop: threading.Event | None = None) -> "Outcome":
        return encode_file(_load_codec(weights), path, out, options, stop)

    run = _Run(True, work, ".bin", AUDIO_SUFFIXES, jobs, skip_existing, dry_run)
    if samples is not None or STANDARD in (source, Path(target or "")) or _is_pipe(source):
        run.check_pipe(source, target)
        codec = _load_codec(weights)
        out = Path(target) if target == "-" else run.choose(source, target, force)
        _encode_pipe(codec, source, out, options, samples)
        return
    run(source, target, force)


@app.command()
def decode(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Stream (.bin), a directory of them, or - (standard input)."
        ),
    ],
    target: OutArgument = None,
    rate: Annotated[
        Rate,
        typer.Option(help="Sample rate to write: 16 kHz (codec) or that of the input (source)."),
    ] = Rate.codec,
    sample_rate: Annotated[
        int | None,
        typer.Option(
            min=MIN_SOURCE_RATE,
            max=MAX_SOURCE_RATE,
            metavar="HZ",
            help="Sample rate to write, any; in place of --rate.",
        ),
    ] = None,
    format: Annotated[
        OutputFormat | None,
        typer.Option(help="What to write; without it what OUT's suffix says, else wav."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write samples only: the same as --format raw.")
    ] = False,
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Decode a damaged stream as far as possible: conceal what is lost, and say what.",
        ),
    ] = False,
    weights: WeightsOption = None,
    jobs: JobsOption = 1,
    skip_existing: SkipOption = False,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Decode a stream into a mono audio file.

    Nothing of the encoding need be repeated: the stream carries it. OUT's suffix names the format:
    .wav, .flac, .ogg, .opus, .mp3, .aiff and others. A directory is decoded file by file into OUT:
    the tree is kept, NAME.bin becomes NAME.wav. Standard input is decoded while it comes in.
    """
    _check_input(source)
    from codec.pieces import DecodeOptions
    from codec.transcode import decode_file

    kind = "raw" if raw else None if format is None else format.value
    wanted = sample_rate or (None if rate is Rate.source else SAMPLE_RATE)
    options = DecodeOptions(wanted, salvage, kind)

    def work(path: Path, out: Path | BinaryIO, stop: threading.Event | None = None) -> "Outcome":
        return decode_file(_load_codec(weights), path, out, options, stop)

    run = _Run(False, work, f".{kind or 'wav'}", {".bin"}, jobs, skip_existing, dry_run)
    if STANDARD in (source, Path(target or "")):
        run.check_pipe(source, target)
        codec = _load_codec(weights)
        out = Path(target) if target == "-" else run.choose(source, target, force)
        _decode_pipe(codec, source, out, options)
        return
    run(source, target, force)


def _format_info(path: Path, info: dict[str, Any]) -> str:
    """Return the lines that `codec info` prints."""
    mode = "variable (VBR)" if info["vbr"] else "constant (CBR)"
    kind = "independent of each other" if info["independent"] else "in groups of 1 s"
    rows = [
        ("file", f"{path}, {info['file_bytes']} bytes, header {info['header_bytes']}"),
        ("format", f"version {info['version']}, weights {info['fingerprint']}"),
        (
            "duration",
            f"{info['duration_s']:.3f} s, {info['num_samples']} samples at "
            f"{info['source_sample_rate']} Hz",
        ),
        ("rate", f"{info['nominal_kbps']:g} kbit/s nominal, {mode}"),
        (
            "measured",
            f"{info['measured_kbps']:.2f} kbit/s for the file, "
            f"{info['payload_kbps']:.2f} for its payload",
        ),
        (
            "packets",
            f"{info['num_packets']} of 20 ms, {kind}, {info['num_stages']} envelope stages",
        ),
    ]
    shares = ", ".join(f"{name} {100 * value:.1f} %" for name, value in info["share"].items())
    rows.append(("bits", shares or "none"))
    return "\n".join(f"{name:<9} {text}" for name, text in rows)


@app.command()
def info(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Stream (.bin) to look at.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, for programs to read.")
    ] = False,
    weights: WeightsOption = None,
) -> None:
    """Show a stream's header, duration, rate and where its bits went."""
    _check_input(source)
    if source.is_dir():
        raise UserError(f"{source}: is a directory; name one stream (.bin)")
    from codec.info import stream_info

    try:
        result = stream_info(_read_stream(source), weights)
    except BitstreamError as error:
        raise UserError(f"{source}: {error}") from error
    except ValueError as error:  # the weights
        raise UserError(str(error)) from error
    if as_json:
        import json

        print(json.dumps(result, indent=2))
    else:
        print(_format_info(source, result))


@app.command("eval")
def evaluate(
    test_dir: Annotated[
        Path,
        typer.Argument(
            metavar="TEST_DIR",
            exists=True,
            file_okay=False,
            help="Directory of clean speech to code.",
        ),
    ],
    rates: Annotated[
        Sequence[float],
        typer.Option(
            parser=_parse_rates, metavar="LIST", help="Rates in kbit/s, separated by commas."
        ),
    ] = DEFAULT_RATES,  # type: ignore[assignment]
    against: Annotated[
        Sequence[str],
        typer.Option(
            parser=_parse_names,
            metavar="LIST",
            help="Codecs to run on the same clips where their programs are installed, separated by "
            "commas: opus, opus-audio, lc3, speex, g722.",
        ),
    ] = "",
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="CSV with published scores of other codecs for the same clips, or scores.csv of "
            "an earlier run; may be given several times.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Codec to compare with rate by rate; without it the first of --against or "
            "--scores."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What to call this codec in tables and files.")] = OURS,
    metrics: Annotated[
        Sequence[str],
        typer.Option(
            parser=_parse_names,
            metavar="LIST",
            help="Further metrics, separated by commas: visqol, dnsmos, distillmos (they need the "
            "extra 'eval').",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Write scores.csv, summary.json, plots (PNG, SVG) and the listening page here.",
        ),
    ] = None,
    page_clips: Annotated[
        int,
        typer.Option(min=0, help="Clips on the listening page, listen.html in --out; 0: no page."),
    ] = DEFAULT_PAGE_CLIPS,
    save_audio: Annotated[
        bool,
        typer.Option("--save-audio", help="Keep the decoded WAV of every clip and rate in --out."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes to work in; without it one for each CPU."),
    ] = None,
    vbr: Annotated[bool, typer.Option("--vbr", help="Encode with variable bitrate.")] = False,
    independent: Annotated[
        bool, typer.Option("--independent-packets", help="Encode packets that need no other.")
    ] = False,
    loss: Annotated[
        Sequence[float],
        typer.Option(
            parser=_parse_losses,
            metavar="LIST",
            help="Percentages of packets to lose, separated by commas, such as 3,6,10: each rate "
            "is scored without losses and with each of these (with independent packets).",
        ),
    ] = "",  # type: ignore[assignment]
    weights: WeightsOption = None,
) -> None:
    """Code a test set at several rates; print rate, quality and speed, beside other codecs.

    Every clip is encoded to bytes and decoded from those bytes.
    """
    if out is None and save_audio:
        raise UserError("--save-audio: nowhere to write; name a directory with --out")
    with _needs_evaluation():
        from evaluation import run as evaluation
        from evaluation.baselines.codecs import find_installed
        from evaluation.published import read_scores
        from evaluation.tables import all_tables

        published = read_scores(scores or ())
        baselines, missing = find_installed(against)
        for text in missing:
            _note(f"left out, not installed: {text}")
        config = evaluation.EvalConfig(
            partial(_load_codec, weights),
            _list_audio(test_dir),
            rates,
            root=test_dir,
            jobs=jobs or _count_cpus(),
            vbr=vbr,
            independent=independent,
            losses=loss,
            metrics=metrics,
            name=name.strip(),
            baselines=baselines,
            published=published,
            baseline=baseline,
            save_audio=out / "decoded" if out is not None and save_audio else None,
            page_clips=page_clips if out is not None else 0,
        )
        with _progress("eval", "clip") as show:
            result = evaluation.run(config, show)
        print(all_tables(result))
        for text in result.notes:
            _note(text)
        lost = _report_failures(result)
        if out is not None:
            title = f"Codecs compared on {test_dir.absolute().name or 'speech'}"
            written = evaluation.write(result, out, title)
            print(f"{', '.join(written[:-1])} and {written[-1]} are in {out}")
    if lost:
        raise typer.Exit(EXIT_SOME_FILES)


@contextlib.contextmanager
def _needs_evaluation() -> Generator[None]:
    """Turn what can go wrong in an evaluation into one line."""
    try:
        yield
    except ModuleNotFoundError as error:  # an installation without what `codec eval` needs
        what = f"{error.name or 'a package'} is not installed"
        raise UserError(f"{what}: pip install .") from error
    except ValueError as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def _progress(what: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """Show a bar on a terminal; what it yields is told how many of how many are done."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _list_audio(directory: Path) -> list[Path]:
    """Return the audio files of a directory, at least one."""
    from codec.io.audio import list_audio

    files = list_audio(directory)
    if not files:
        raise UserError(f"{directory}: no audio files in this directory; check the path")
    return files


def _count_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _report_failures(result: "EvalResult") -> bool:
    """Print one line for each failure; return whether some clip is not in the figures at all."""
    lost = False
    for failure in result.failures.itertuples():
        codec = "" if failure.codec == result.info.name else f" in {failure.codec}"
        if failure.metric == "audio" and codec:
            continue  # said already: ours could not read it either
        where = f"{failure.file}{codec} at {failure.rate:g} kbit/s"
        if failure.metric in ("audio", "codec"):
            lost = True
            _complain(f"{where}: {failure.reason}")
        else:
            _note(f"{where}: no {failure.metric}: {failure.reason}")
    return lost


@app.command()
def ratings(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES",
            exists=True,
            dir_okay=False,
            help="CSV files that the listening page exported.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Write ratings.csv and ratings.json here."),
    ] = None,
) -> None:
    """Sum up what listeners said in the blind test of the listening page."""
    with _needs_evaluation():
        from evaluation.listening.ratings import (
            ratings_table,
            read_ratings,
            summarise,
            write_ratings,
        )

        summary = summarise(read_ratings(files))
        print(ratings_table(summary))
        if out is not None:
            written = write_ratings(summary, out)
            print(f"{' and '.join(path.name for path in written)} are in {out}")


@contextlib.contextmanager
def _one_voice() -> Generator[None]:
    """Let only the first process of a machine complain, where torchrun started several."""
    try:
        yield
    except (UserError, Interrupted) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        code = EXIT_USER if isinstance(error, UserError) else EXIT_INTERRUPTED
        raise typer.Exit(code) from None


def _options_of(config: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Give a command that takes a dataclass an option for each field, as its metadata say.

    A field that must be given, and has no option name, is an argument. See
    `models.training.config.option`.
    """
    types = get_type_hints(config)
    parameters = []
    for field_ in fields(config):
        about = dict(field_.metadata)
        name, required = about.pop("name"), field_.default is MISSING
        kind: Any = typer.Argument if required and not name else typer.Option
        made = kind(*([f"--{name}"] if name else []), **about)
        parameters.append(
            inspect.Parameter(
                field_.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if required else field_.default,
                annotation=Annotated[types[field_.name], made],
            )
        )

    def decorate(command: Callable[[Any], None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            command(config(**values))

        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return decorate


@app.command()
@_one_voice()
@_options_of(TrainConfig)
def train(config: TrainConfig) -> None:
    """Train the codec on speech and export its weights.

    Ctrl-C saves a checkpoint; the same command with --resume goes on from there. Several processes
    share the work when started by torchrun; see docs/training.md.
    """
    out = Path(config.out_dir)
    if config.dataset is None:
        _check_directory(Path(config.data_dir))
    if config.valid_dir is not None:
        _check_directory(Path(config.valid_dir))
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a directory with --out")
    _check_file(Path(config.init_from) if config.init_from else None, "--init-from")
    from models.training.trainer import CHECKPOINT
    from models.training.trainer import train as run

    try:
        exported = run(config)
    except KeyboardInterrupt:
        saved = out / CHECKPOINT
        hint = f"{saved} is saved, continue with --resume" if saved.is_file() else "nothing saved"
        raise Interrupted(hint) from None
    except ValueError as error:
        raise UserError(str(error)) from error
    if os.environ.get("RANK", "0") == "0":
        print(f"weights exported to {exported}")


if __name__ == "__main__":
    app()
