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
from collections.abc import Callable, Generator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn, get_type_hints

import typer
from typer.core import TyperGroup

from codec.config import OURS
from models.training.config import TrainConfig

if TYPE_CHECKING:
    from codec import Codec
    from evaluation.results import EvalResult

STANDARD = Path("-")  # standard input or output
MIN_KBPS, MAX_KBPS = 8.0, 32.0
DEFAULT_KBPS = 13.2
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


# --------------------------------------------------------------------------------------------------
# Errors and exit codes


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _complain(message: object) -> None:
    """Print one error line on stderr."""
    print(f"codec: error: {_one_line(message)}", file=sys.stderr)


def _note(message: object) -> None:
    """Print one remark on stderr."""
    print(f"codec: note: {_one_line(message)}", file=sys.stderr)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _describe_os_error(error: OSError) -> str:
    """Return what the system said, with the file first and without the errno."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


@contextlib.contextmanager
def _no_interrupt_lost() -> Generator[None]:
    """Deliver Ctrl-C again where it arrived in code that cannot pass an exception on.

    Python reports exceptions of destructors, and of callbacks of compiled code such as pydantic's,
    to a hook and goes on as if nothing had been.
    """
    import threading

    former = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            # A moment later: what is raised within the hook would be ignored, too.
            threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
        else:
            former(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = former


@contextlib.contextmanager
def _interrupt_held() -> Generator[None]:
    """Let Ctrl-C wait for the end of the block.

    Where it arrives while torch starts, in Python code that its C++ code calls, torch would abort
    the process.
    """
    came = False

    def hold(*_: object) -> None:
        nonlocal came
        came = True

    former = signal.getsignal(signal.SIGINT)
    if not callable(former):  # ignored: a background job, or a worker that follows its parent
        yield
        return
    try:
        signal.signal(signal.SIGINT, hold)
    except ValueError:  # not the main thread: Ctrl-C does not come here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if came:
        raise KeyboardInterrupt


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
        for output in (sys.stdout, sys.stderr):  # file names may be no valid text
            if isinstance(output, io.TextIOWrapper):
                output.reconfigure(errors="backslashreplace")
        try:
            with _no_interrupt_lost():
                result = super().main(
                    args, prog_name, complete_var, False, windows_expand_args, **extra
                )
        except typer.TyperException as error:  # wrong options: click's three lines become one
            hint = "see `codec --help`"
            context = getattr(error, "ctx", None)
            if context is not None:
                hint = f"see `{context.command_path} --help`"
            self._leave(EXIT_USER, f"{error.format_message().rstrip('.')}; {hint}")
        except UserError as error:
            self._leave(EXIT_USER, str(error))
        except Interrupted as stop:
            print(f"codec: interrupted; {_one_line(stop)}", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except OSError as error:  # the disk is full, no permission, ...
            self._leave(EXIT_USER, _describe_os_error(error))
        code = result if isinstance(result, int) else 0
        if code == EXIT_INTERRUPTED:
            print("codec: interrupted", file=sys.stderr)
        if standalone_mode:
            sys.exit(code)
        return result

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        """Find a command; `codec eval --ratings` was the name of `codec ratings`."""
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
    if not path.exists():
        raise UserError(f"{path}: no such file or directory; check the path")


def _check_file(path: Path | None, option: str) -> None:
    """Raise unless the path that an option names is a file (None: the option was not given)."""
    if path is not None and not path.is_file():
        raise UserError(f"{option}: {path}: no such file; check the path")


def _check_directory(path: Path) -> None:
    _check_input(path)
    if not path.is_dir():
        raise UserError(f"{path}: not a directory; name a directory with audio files")


def _check_output(source: Path, target: Path, suffix: str) -> None:
    """Raise unless a command may write `target`, given what it reads from `source`."""
    if target.exists():
        if source.samefile(target):
            raise UserError(f"{target}: is the input; name another output")
        if source.is_dir() and not target.is_dir():
            raise UserError(
                f"{target}: is a file, but the input is a directory; name a directory as output"
            )
        if not source.is_dir() and target.is_dir():
            example = target / (source.stem + suffix)
            raise UserError(f"{target}: is a directory; name the output file, such as {example}")
    for parent in target.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"{parent}: is not a directory; name another output")
            return


# --------------------------------------------------------------------------------------------------
# One file


@dataclass(frozen=True)
class _Coding:
    """What a worker process needs to know to code a file."""

    weights: Path | None = None
    kbps: float = DEFAULT_KBPS
    vbr: bool = False
    independent: bool = False
    source_rate: bool = False
    salvage: bool = False
    raw: bool = False
    skip_existing: bool = False


@dataclass
class _Outcome:
    """What became of one file: a line to print, notes, or an error."""

    path: Path
    message: str = ""
    error: str = ""
    notes: list[str] = field(default_factory=list)


@lru_cache(maxsize=1)
def _load_codec(weights: Path | None) -> "Codec":
    """Load the codec once per process."""
    with _interrupt_held():
        import torch

        from codec import Codec
        from codec.weights import WeightsError

        # Its tensors are small: threads would only wait for each other. Use --jobs for more cores.
        torch.set_num_threads(1)
    try:
        with _interrupt_held():
            codec = Codec.load(weights)
        if sys.stderr.isatty() and not codec.is_compiled():
            _note("compiling the packet coder; this takes about half a minute, once")
        return codec
    except WeightsError as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # wrong shapes, say
        name = "the shipped weights" if weights is None else str(weights)
        what = f"{name}: cannot be loaded ({_one_line(error)})"
        raise UserError(f"{what}; use the weights of this release or train new ones") from error


def _follow_parent() -> None:
    """End this worker process when its parent ends.

    A parent that was killed cannot end its workers, and they would wait for it for ever.
    """
    import multiprocessing
    import threading

    def follow() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=follow, daemon=True).start()


def _read_stream(path: Path) -> bytes:
    """Return the bytes of a stream; of anything else only the start, which is enough to refuse it.

    Else a huge file, or /dev/zero, would fill the memory before it is refused.
    """
    from codec.bitstream import MAGIC

    with path.open("rb") as file:
        start = file.read(64)
        return start + file.read() if start.startswith(MAGIC) else start


def _encode_file(source: Path, target: Path, coding: _Coding) -> _Outcome:
    """Encode one audio file, and write the stream in one step."""
    from codec.config import SAMPLE_RATE as CODEC_RATE
    from codec.io.audio import read_audio
    from codec.io.files import atomic_write

    codec = _load_codec(coding.weights)
    wave, sample_rate, notes = read_audio(source)
    data = codec.encode(wave, sample_rate, coding.kbps, coding.vbr, coding.independent)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, data)
    seconds = len(wave) / sample_rate
    measured = f", {8e-3 * len(data) / seconds:.2f} kbit/s" if seconds else ""
    message = f"{source} -> {target}: {seconds:.2f} s, {len(data)} bytes{measured}"
    if sample_rate != CODEC_RATE:
        notes = [*notes, f"resampled from {sample_rate} to {CODEC_RATE} Hz"]
    return _Outcome(source, message, notes=notes)


def _decode_file(source: Path, target: Path, coding: _Coding) -> _Outcome:
    """Decode one stream, and write the WAV in one step."""
    from codec.io.wav import write_wav

    codec = _load_codec(coding.weights)
    data = _read_stream(source)
    problems: list[str] = []
    if coding.salvage:
        wave, sample_rate, problems = codec.salvage(data, source_rate=coding.source_rate)
    else:
        wave, sample_rate = codec.decode_with_rate(data, source_rate=coding.source_rate)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_wav(target, wave, sample_rate)
    seconds = len(wave) / sample_rate
    message = f"{source} -> {target}: {seconds:.2f} s at {sample_rate} Hz"
    if problems:
        message += f", salvaged ({_count(len(problems), 'problem')})"
    return _Outcome(source, message, notes=[f"{source}: {problem}" for problem in problems])


def _is_done(target: Path) -> bool:
    """Tell whether an output is there: a regular file that is not empty.

    An output is complete or not there, so that nothing more need be asked.
    """
    from codec.io.files import is_direct

    return target.is_file() and target.stat().st_size > 0 and not is_direct(target)


def _attempt(
    work: Callable[[Path, Path, _Coding], _Outcome], coding: _Coding, pair: tuple[Path, Path]
) -> _Outcome:
    """Do the work on one (source, target) pair; bad data becomes an outcome, not an exception."""
    source, target = pair
    try:
        return work(source, target, coding)
    except UserError:
        raise  # the weights are wrong: that stops every file
    except OSError as error:
        text = _describe_os_error(error)
    except (ValueError, MemoryError) as error:  # BitstreamError and AudioError are ValueErrors
        text = str(error) or "not enough memory"
    named = str(source) in text or str(target) in text or text.startswith(str(target.parent) + ":")
    return _Outcome(source, error=text if named else f"{source}: {text}")


def _attempt_all(
    work: Callable[[Path, Path, _Coding], _Outcome], coding: _Coding, pair: tuple[Path, Path]
) -> _Outcome:
    """Do the same within a directory, where even a bug of ours must not stop the other files."""
    try:
        return _attempt(work, coding, pair)
    except UserError:
        raise
    except Exception as error:
        return _Outcome(pair[0], error=f"{pair[0]}: internal error ({error!r}); please report it")


def _run_one(
    work: Callable[[Path, Path, _Coding], _Outcome], source: Path, target: Path, coding: _Coding
) -> None:
    """Code a single file and report it."""
    from codec.io.files import is_direct

    if coding.skip_existing and _is_done(target):
        print(f"{target}: exists, skipped")
        return
    outcome = _attempt(work, coding, (source, target))
    if outcome.error:
        raise UserError(outcome.error)
    for text in outcome.notes:
        _note(text)
    if not is_direct(target):  # in /dev/stdout this line would mix with the data
        print(outcome.message)


# --------------------------------------------------------------------------------------------------
# Standard input and output


def _write_through(file: BinaryIO, data: bytes) -> None:
    """Write and flush, so that the next program has it at once."""
    if data:
        file.write(data)
        file.flush()


def _encode_through(source: BinaryIO, target: BinaryIO, coding: _Coding, seekable: bool) -> str:
    """Encode from one open file to another; returns what there is to say."""
    from codec.pipe import encode_pipe

    codec = _load_codec(coding.weights)
    count, rate, notes = encode_pipe(
        codec, source, partial(_write_through, target), coding.kbps, coding.vbr,
        coding.independent, target.seek if seekable else None,
    )  # fmt: skip
    for text in notes:
        _note(text)
    return f"{count / rate:.2f} s encoded"


def _decode_through(source: BinaryIO, target: BinaryIO, coding: _Coding, seekable: bool) -> str:
    """Decode from one open file to another; returns what there is to say."""
    from codec.config import SAMPLE_RATE as CODEC_RATE
    from codec.io.wav import to_int16, wav_header
    from codec.pipe import decode_pipe

    codec = _load_codec(coding.weights)
    rate = CODEC_RATE
    begun = coding.raw

    def write(data: bytes) -> None:
        nonlocal begun  # the header comes with the first samples: a fault before leaves nothing
        _write_through(target, data if begun else wav_header(rate) + data)
        begun = True

    if coding.salvage or coding.source_rate:  # these look at the whole file
        data = source.read()
        problems: list[str] = []
        if coding.salvage:
            wave, rate, problems = codec.salvage(data, coding.source_rate)
        else:
            wave, rate = codec.decode_with_rate(data, coding.source_rate)
        for text in problems:
            _note(text)
        write(to_int16(wave).astype("<i2").tobytes())
        count = len(wave)
    else:
        count = decode_pipe(codec, source, write)
    if seekable and not coding.raw:
        target.seek(0)
        _write_through(target, wav_header(rate, count))
    return f"{count / rate:.2f} s at {rate} Hz decoded"


def _run_pipe(
    work: Callable[[BinaryIO, BinaryIO, _Coding, bool], str],
    source: Path,
    target: Path,
    coding: _Coding,
) -> None:
    """Code from or to standard input or output, or both."""
    from codec.io.files import atomic_open, is_direct

    if coding.skip_existing:
        raise UserError("--skip-existing: is for files and directories; leave it out with -")
    if source != STANDARD:
        _check_input(source)
        if source.is_dir():
            raise UserError(f"{source}: is a directory; name one file to go to standard output")
    elif sys.stdin.isatty():
        raise UserError("standard input is a terminal; pipe a file or another program into it")
    if target == STANDARD and sys.stdout.isatty():
        raise UserError("standard output is a terminal; redirect it to a file or a program")
    name = "standard input" if source == STANDARD else str(source)
    with contextlib.ExitStack() as stack:
        try:
            if source == STANDARD:
                reader: BinaryIO = sys.stdin.buffer
            else:
                reader = stack.enter_context(source.open("rb"))
            if target == STANDARD:
                writer: BinaryIO = sys.stdout.buffer
                seekable = False
            else:
                _check_output(source, target, "")
                target.parent.mkdir(parents=True, exist_ok=True)
                seekable = not is_direct(target)
                writer = stack.enter_context(atomic_open(target))
            message = work(reader, writer, coding, seekable)
        except BrokenPipeError:
            # Whoever read our output has enough; that is theirs to judge.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_SOME_FILES) from None
        except ValueError as error:  # BitstreamError and AudioError
            text = str(error)
            raise UserError(text if name in text else f"{name}: {text}") from error
    if target != STANDARD:
        print(f"{name} -> {target}: {message}")


# --------------------------------------------------------------------------------------------------
# A directory


def _start_worker() -> None:
    """Prepare a worker process: one thread, quiet on Ctrl-C, gone when its parent is gone."""
    _follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_INTERRUPTED))  # clean up a half file
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)


def _map_jobs(
    task: Callable[[tuple[Path, Path]], _Outcome], pairs: list[tuple[Path, Path]], jobs: int
) -> Generator[_Outcome]:
    """Yield the outcome of each pair as it is ready, from `jobs` processes."""
    if jobs == 1 or len(pairs) < 2:
        yield from map(task, pairs)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")  # fork and torch threads do not mix
    pool = ProcessPoolExecutor(min(jobs, len(pairs)), context, _start_worker)
    try:
        for future in as_completed([pool.submit(task, pair) for pair in pairs]):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process died (out of memory?); use fewer --jobs, and --skip-existing to go on"
        ) from None
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _name_outputs(
    sources: list[Path], source_dir: Path, target_dir: Path, suffix: str
) -> tuple[list[tuple[Path, Path]], list[_Outcome]]:
    """Return (source, target) pairs with the tree kept, and the files whose target is taken."""
    taken: dict[Path, Path] = {}
    clashes = []
    for source in sources:
        target = (target_dir / source.relative_to(source_dir)).with_suffix(suffix)
        if target in taken:
            text = f"{source}: {taken[target].name} has the same output name; rename one of them"
            clashes.append(_Outcome(source, error=text))
        else:
            taken[target] = source
    return [(source, target) for target, source in taken.items()], clashes


def _run_directory(
    work: Callable[[Path, Path, _Coding], _Outcome],
    verb: str,
    sources: list[Path],
    source_dir: Path,
    target_dir: Path,
    suffix: str,
    coding: _Coding,
    jobs: int,
) -> None:
    """Code every file of a directory tree; go on past bad files and list them at the end."""
    from tqdm import tqdm

    pairs, failures = _name_outputs(sources, source_dir, target_dir, suffix)
    skipped = ""
    if coding.skip_existing:
        wanted = [(source, target) for source, target in pairs if not _is_done(target)]
        skipped = f", {_count(len(pairs) - len(wanted), 'existing file')} skipped"
        pairs = wanted
    notes: dict[str, list[Path]] = {}
    done = 0
    task = partial(_attempt_all, work, coding)
    with (
        contextlib.closing(_map_jobs(task, pairs, jobs)) as outcomes,
        tqdm(total=len(pairs), desc=verb, unit="file", disable=None) as progress,
    ):
        for outcome in outcomes:
            progress.update()
            done += not outcome.error
            for text in outcome.notes:
                notes.setdefault(text, []).append(outcome.path)
            if outcome.error:
                failures.append(outcome)
    for text, paths in notes.items():
        if len(paths) > 1:
            text = f"{text} ({len(paths)} files)"
        elif str(paths[0]) not in text:
            text = f"{paths[0]}: {text}"
        _note(text)
    for outcome in sorted(failures, key=lambda outcome: outcome.path):
        _complain(outcome.error)
    print(f"{verb}d {done} of {len(sources)} files into {target_dir}{skipped}")
    if failures:
        raise typer.Exit(EXIT_SOME_FILES)


# --------------------------------------------------------------------------------------------------
# Options that several commands share

WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Use this .safetensors file in place of the weights that ship with the codec."
    ),
]
JobsOption = Annotated[
    int,
    typer.Option(min=1, help="Work on this many files at once, each in its own process."),
]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Leave out what is done, to go on with an interrupted run: an output that is a "
        "regular file and not empty. What it was made of, and how, is not compared.",
    ),
]


@app.command()
def encode(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="Audio file, a directory of them, or - (standard input)"),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Stream to write (.bin), a directory, or - (standard output)."
        ),
    ],
    bitrate: Annotated[
        float, typer.Option(help="Rate in kbit/s, any value from 8 to 32.")
    ] = DEFAULT_KBPS,
    vbr: Annotated[
        bool,
        typer.Option("--vbr", help="Spend the same average rate where it helps most in the file."),
    ] = False,
    independent: Annotated[
        bool,
        typer.Option(
            "--independent-packets",
            help="Let no packet need another, for networks that lose some; at 3 to 12 % more rate.",
        ),
    ] = False,
    weights: WeightsOption = None,
    jobs: JobsOption = 1,
    skip_existing: SkipOption = False,
) -> None:
    """Encode audio of any sample rate and channel count.

    A directory is encoded file by file into OUT: the tree is kept, NAME.wav becomes NAME.bin.
    Standard input is raw 16-bit samples (16 kHz, mono, little-endian) or an audio file; raw samples
    and 16-bit WAV at 16 kHz are coded while they come in.
    """
    coding = _Coding(
        weights, _check_kbps(bitrate), vbr, independent=independent, skip_existing=skip_existing
    )
    _check_file(weights, "--weights")
    if source == STANDARD or target == STANDARD:
        _run_pipe(_encode_through, source, target, coding)
        return
    _check_input(source)
    _check_output(source, target, ".bin")
    if not source.is_dir():
        _run_one(_encode_file, source, target, coding)
        return
    from codec.io.audio import list_audio

    sources = [Path(path) for path in list_audio(source)]
    if not sources:
        raise UserError(f"{source}: no audio files in this directory; check the path")
    _run_directory(_encode_file, "encode", sources, source, target, ".bin", coding, jobs)


@app.command()
def decode(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Stream (.bin), a directory of them, or - (standard input)."
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="WAV file to write, a directory, or - (standard output)."
        ),
    ],
    rate: Annotated[
        Rate,
        typer.Option(help="Sample rate to write: 16 kHz (codec) or that of the input (source)."),
    ] = Rate.codec,
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Decode a damaged stream as far as possible: conceal what is lost, and say what.",
        ),
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write samples only, without a WAV header (with -).")
    ] = False,
    weights: WeightsOption = None,
    jobs: JobsOption = 1,
    skip_existing: SkipOption = False,
) -> None:
    """Decode a stream into a 16-bit mono WAV file.

    Nothing of the encoding need be repeated: the stream carries it. A directory is decoded file by
    file into OUT: the tree is kept, NAME.bin becomes NAME.wav. From standard input it is decoded
    while it comes in.
    """
    coding = _Coding(
        weights,
        source_rate=rate is Rate.source,
        salvage=salvage,
        raw=raw,
        skip_existing=skip_existing,
    )
    _check_file(weights, "--weights")
    if source == STANDARD or target == STANDARD:
        _run_pipe(_decode_through, source, target, coding)
        return
    if raw:
        raise UserError("--raw: is for pipes; name - (standard input or output)")
    _check_input(source)
    _check_output(source, target, ".wav")
    if not source.is_dir():
        _run_one(_decode_file, source, target, coding)
        return
    sources = sorted(path for path in source.rglob("*.bin") if path.is_file())
    if not sources:
        raise UserError(f"{source}: no .bin files in this directory; check the path")
    _run_directory(_decode_file, "decode", sources, source, target, ".wav", coding, jobs)


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
    _check_file(weights, "--weights")
    from codec.bitstream import BitstreamError
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
        Path, typer.Argument(metavar="TEST_DIR", help="Directory of clean speech to code.")
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
    ] = "",
    weights: WeightsOption = None,
) -> None:
    """Code a test set at several rates; print rate, quality and speed, beside other codecs.

    Every clip is encoded to bytes and decoded from those bytes.
    """
    if out is None and save_audio:
        raise UserError("--save-audio: nowhere to write; name a directory with --out")
    if test_dir.is_file() and test_dir.suffix.lower() == ".csv":
        raise UserError(f"{test_dir}: is a file; `codec ratings` reads ratings")
    _check_directory(test_dir)
    _check_file(weights, "--weights")
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
    except ImportError as error:  # an installation without what `codec eval` needs
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
    with _interrupt_held():
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
