"""The options of all commands: how they are written, what they may be, what help says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from codec.config import MAX_SOURCE_RATE, MIN_SOURCE_RATE, Effort
from codec.places import Place
from commands.parsers import parse_channel, parse_kbps, parse_losses, parse_names, parse_rates
from commands.terminal import UserError


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
    s16le = "s16le"
    f32le = "f32le"
    alaw = "alaw"
    mulaw = "mulaw"
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
# What several options say together


def place_of(jobs: int | None, scheduler: str | None) -> Place:
    """Return where to work: in so many processes, or on a cluster."""
    if scheduler is None:
        return Place(jobs or 1)
    if jobs not in (None, 1):
        raise UserError("--jobs, --scheduler: work is done here or on a cluster; leave out one")
    return Place(1, scheduler)


# --------------------------------------------------------------------------------------------------
# Coding

AudioArgument = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Audio file, a directory or shards (.tar) of them, a URL, or - (standard input).",
    ),
]
StreamArgument = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Stream (.bin), a directory or shards (.tar) of them, a URL, or - (standard input).",
    ),
]
InfoArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Stream (.bin) to look at, a directory or shards (.tar) of them, a URL, or -.",
    ),
]
OutArgument = Annotated[
    str | None,
    typer.Argument(metavar="[OUT]", help="File, directory, URL, or - (standard output); without "
                   "it: beside IN."),
]  # fmt: skip
BitrateOption = Annotated[
    float,
    typer.Option(parser=parse_kbps, metavar="KBPS", help="Rate in kbit/s, any value from 8 to 32."),
]
VbrOption = Annotated[
    bool,
    typer.Option("--vbr", help="Spend the same average rate where it helps most in the file."),
]
IntraOption = Annotated[
    bool,
    typer.Option(
        "--intra-only",
        "--independent-packets",
        help="Let no packet need another, for networks that lose some; at 3 to 6 % more rate, "
        "at 8 kbit/s more.",
    ),
]
KeepOffsetOption = Annotated[
    bool,
    typer.Option("--keep-offset", help="Encode the mean of the signal (DC), too."),
]
EffortOption = Annotated[
    Effort,
    typer.Option(
        help="What the encoder tries: high is a little better, and takes several times as long."
    ),
]
ChannelOption = Annotated[
    str,
    typer.Option(
        parser=parse_channel,
        metavar="mix|N",
        help="Channel to encode, counted from 1; mix: all, none of them lost.",
    ),
]
RawInputOption = Annotated[
    SampleFormat | None,
    typer.Option(help="The input has no header: its samples are these, interleaved."),
]
RawRateOption = Annotated[
    int,
    typer.Option(
        min=MIN_SOURCE_RATE, max=MAX_SOURCE_RATE, metavar="HZ", help="Rate of --raw samples."
    ),
]
RawChannelsOption = Annotated[int, typer.Option(min=1, max=1024, help="Channels of --raw samples.")]
RateOption = Annotated[
    Rate,
    typer.Option(help="Sample rate to write: 16 kHz (codec) or that of what was encoded (source)."),
]
SampleRateOption = Annotated[
    int | None,
    typer.Option(
        min=MIN_SOURCE_RATE,
        max=MAX_SOURCE_RATE,
        metavar="HZ",
        help="Sample rate to write, any; in place of --rate.",
    ),
]
FormatOption = Annotated[
    OutputFormat | None,
    typer.Option(help="What to write; without it what OUT's suffix says, else wav."),
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Write samples only: the same as --format raw.")
]
SalvageOption = Annotated[
    bool,
    typer.Option(
        "--salvage",
        help="Decode a damaged stream as far as possible: conceal what is lost, and say what.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object, for programs to read; for each file."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="Use this .safetensors file in place of the weights that ship with the codec.",
    ),
]
JobsOption = Annotated[
    int, typer.Option(min=1, help="Processes to work in, for a directory or shards.")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Dask cluster, whose scheduler is at tcp://HOST:8786 say, in place of "
        "--jobs (needs the extra 'cluster').",
    ),
]
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

# --------------------------------------------------------------------------------------------------
# Evaluation

TestArgument = Annotated[
    str,
    typer.Argument(
        metavar="TEST_DIR",
        help="Directory or shards (.tar) of clean speech, or URL.",
    ),
]
RatesOption = Annotated[
    Sequence[float],
    typer.Option(parser=parse_rates, metavar="LIST", help="Rates in kbit/s, separated by commas."),
]
AgainstOption = Annotated[
    Sequence[str],
    typer.Option(
        parser=parse_names,
        metavar="LIST",
        help="Codecs to run on the same clips where their programs are installed, separated by "
        "commas: opus, opus-audio, opus-lace, opus-nolace, lc3, speex, g722.",
    ),
]
ScoresOption = Annotated[
    list[Path] | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="CSV with published scores of other codecs for the same clips, or scores.csv of "
        "an earlier run; may be given several times.",
    ),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        help="Codec to compare with rate by rate; without it the first of --against or --scores."
    ),
]
NameOption = Annotated[str, typer.Option(help="What to call this codec in tables and files.")]
MetricsOption = Annotated[
    Sequence[str],
    typer.Option(
        parser=parse_names,
        metavar="LIST",
        help="Further metrics, separated by commas: visqol, dnsmos, distillmos (they need the "
        "extra 'eval'; they have processes of their own); none: no metric, only rates and speeds.",
    ),
]
EvalOutOption = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        help="Write scores.csv, summary.json, plots (PNG, SVG) and the listening page here; "
        "before, each clip's scores as they come (clips.jsonl).",
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in --out that was stopped."),
]
SampleOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Score N clips drawn at random, not all."),
]
SeedOption = Annotated[
    int, typer.Option(min=0, metavar="S", help="Of --sample: another seed draws other clips.")
]
PageOption = Annotated[
    int,
    typer.Option(min=0, help="Clips on the listening page, listen.html in --out; 0: no page."),
]
SaveAudioOption = Annotated[
    bool,
    typer.Option("--save-audio", help="Keep the decoded WAV of every clip and rate in --out."),
]
EvalJobsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes to work in; without it one for each CPU."),
]
EvalVbrOption = Annotated[bool, typer.Option("--vbr", help="Encode with variable bitrate.")]
EvalIntraOption = Annotated[
    bool, typer.Option("--independent-packets", help="Encode packets that need no other.")
]
LossOption = Annotated[
    Sequence[float],
    typer.Option(
        parser=parse_losses,
        metavar="LIST",
        help="Percentages of packets to lose, separated by commas, such as 3,6,10: each rate "
        "is scored without losses and with each of these (with independent packets).",
    ),
]
RatingsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILES",
        exists=True,
        dir_okay=False,
        help="CSV files that the listening page exported.",
    ),
]
RatingsOutOption = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Write ratings.csv and ratings.json here."),
]

# --------------------------------------------------------------------------------------------------
# Training


def options_of(config: type) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
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
