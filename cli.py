"""Run the codec from the command line: encode, decode, info, eval, ratings, train.

Here options are taken, the library is called, and what came of it is printed. Options are explained
in `commands/options.py`; everything heavy (torch, numba, scipy, libsndfile) is imported inside the
commands, so that `codec --help` and `codec info` answer at once. What every command promises:

- a mistake of the user is one line `codec: error: ...` on stderr and exit code 2, no traceback;
- an output file is either complete or not there: it is written beside its place and renamed;
- over a directory, one bad file does not stop the others; they are listed at the end, exit code 1;
- Ctrl-C is one line and exit code 130.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from codec.config import DEFAULT_KBPS, OURS, SAMPLE_RATE, Effort
from codec.io.storage import is_directory, is_shards
from commands import options as opt
from commands.evaluating import (
    count_cpus,
    find_clips,
    installed_codecs,
    needs_evaluation,
    report,
    stopped_evaluation,
)
from commands.parsers import DEFAULT_RATES
from commands.terminal import (
    EXIT_SOME_FILES,
    STANDARD,
    Group,
    Interrupted,
    UserError,
    brought_by,
    find_input,
    one_voice,
    progress,
    run_program,
    start_quickly,
)
from models.training.config import TrainConfig

app = typer.Typer(
    name="codec",
    cls=Group,
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


@app.command()
def encode(
    source: opt.AudioArgument,
    target: opt.OutArgument = None,
    bitrate: opt.BitrateOption = DEFAULT_KBPS,
    vbr: opt.VbrOption = False,
    intra_only: opt.IntraOption = False,
    keep_offset: opt.KeepOffsetOption = False,
    effort: opt.EffortOption = Effort.normal,
    channel: opt.ChannelOption = "mix",
    raw: opt.RawInputOption = None,
    sample_rate: opt.RawRateOption = SAMPLE_RATE,
    channels: opt.RawChannelsOption = 1,
    weights: opt.WeightsOption = None,
    jobs: opt.JobsOption = 1,
    scheduler: opt.SchedulerOption = None,
    skip_existing: opt.SkipOption = False,
    force: opt.ForceOption = False,
    dry_run: opt.DryRunOption = False,
) -> None:
    """Encode audio of any sample rate and channel count.

    A directory is encoded file by file into OUT: the tree is kept, NAME.wav becomes NAME.bin.
    Standard input is an audio file, or samples (16 bits, 16 kHz, mono, little-endian, unless --raw
    says otherwise); samples and WAV are coded while they come in.
    """
    start_quickly()
    place = find_input(source)
    samples = None
    if raw is not None:
        from codec.io.wav import Samples

        samples = Samples(raw.value, sample_rate, channels)
        if place != STANDARD and is_directory(place):
            raise UserError("--raw: one file at a time, or standard input; leave it out")
    elif sample_rate != SAMPLE_RATE or channels != 1:
        raise UserError("--sample-rate, --channels: describe samples without a header; add --raw")
    from codec.pieces import EncodeOptions
    from commands.coding import CodingRun

    coding = EncodeOptions(bitrate, vbr, intra_only, channel, keep_offset, effort)
    where = opt.place_of(jobs, scheduler)
    run = CodingRun(coding, weights, where, skip_existing, dry_run, force)
    run(place, target, samples)


@app.command()
def decode(
    source: opt.StreamArgument,
    target: opt.OutArgument = None,
    rate: opt.RateOption = opt.Rate.codec,
    sample_rate: opt.SampleRateOption = None,
    format: opt.FormatOption = None,
    raw: opt.RawOption = False,
    salvage: opt.SalvageOption = False,
    weights: opt.WeightsOption = None,
    jobs: opt.JobsOption = 1,
    scheduler: opt.SchedulerOption = None,
    skip_existing: opt.SkipOption = False,
    force: opt.ForceOption = False,
    dry_run: opt.DryRunOption = False,
) -> None:
    """Decode a stream into a mono audio file.

    Nothing of the encoding need be repeated: the stream carries it. OUT's suffix names the format:
    .wav, .flac, .ogg, .opus, .mp3, .aiff and others. A directory is decoded file by file into OUT:
    the tree is kept, NAME.bin becomes NAME.wav. Standard input is decoded while it comes in.
    """
    start_quickly()
    if raw and format is not None:
        raise UserError("--raw and --format: the one is --format raw; leave one of them out")
    place = find_input(source)
    from codec.pieces import DecodeOptions
    from commands.coding import CodingRun

    kind = "raw" if raw else None if format is None else format.value
    wanted = sample_rate or (None if rate is opt.Rate.source else SAMPLE_RATE)
    coding = DecodeOptions(wanted, salvage, kind)
    where = opt.place_of(jobs, scheduler)
    CodingRun(coding, weights, where, skip_existing, dry_run, force)(place, target)


@app.command()
def info(
    source: opt.InfoArgument,
    as_json: opt.JsonOption = False,
    weights: opt.WeightsOption = None,
    jobs: opt.JobsOption = 1,
    scheduler: opt.SchedulerOption = None,
) -> None:
    """Show a stream's header, duration, rate and where its bits went.

    Of a directory or of shards, each stream gets a line, and all together get one.
    """
    start_quickly()
    if is_shards(source):
        from commands.inspecting import describe_shards

        describe_shards(source, as_json, weights, opt.place_of(jobs, scheduler))
        return
    place = find_input(source)
    if place != STANDARD and is_directory(place):
        from commands.inspecting import describe_directory

        describe_directory(place, as_json, weights, opt.place_of(jobs, scheduler))
        return
    from commands.inspecting import describe

    describe(place, as_json, weights)


@app.command("eval")
def evaluate(
    test_dir: opt.TestArgument,
    rates: opt.RatesOption = DEFAULT_RATES,  # type: ignore[assignment]
    against: opt.AgainstOption = "",
    scores: opt.ScoresOption = None,
    baseline: opt.BaselineOption = None,
    name: opt.NameOption = OURS,
    metrics: opt.MetricsOption = "",
    out: opt.EvalOutOption = None,
    page_clips: opt.PageOption = 4,
    save_audio: opt.SaveAudioOption = False,
    resume: opt.ResumeOption = False,
    sample: opt.SampleOption = None,
    seed: opt.SeedOption = 0,
    jobs: opt.EvalJobsOption = None,
    scheduler: opt.SchedulerOption = None,
    vbr: opt.EvalVbrOption = False,
    independent: opt.EvalIntraOption = False,
    effort: opt.EffortOption = Effort.normal,
    loss: opt.LossOption = "",  # type: ignore[assignment]
    weights: opt.WeightsOption = None,
) -> None:
    """Code a test set at several rates; print rate, quality and speed, beside other codecs.

    Every clip is encoded to bytes and decoded from those bytes. A run with --out that was stopped
    goes on with --resume.
    """
    if out is None and save_audio:
        raise UserError("--save-audio: nowhere to write; name a directory with --out")
    place = opt.place_of(jobs, scheduler)
    with needs_evaluation(), stopped_evaluation(out):
        from commands.coding import load_codec
        from evaluation import run as evaluation
        from evaluation.published import read_scores
        from evaluation.tables import all_tables

        config = evaluation.EvalConfig(
            partial(load_codec, weights),
            find_clips(test_dir, sample, seed),
            rates,
            jobs=jobs or count_cpus(),
            scheduler=place.scheduler,
            journal=out,
            resume=resume,
            vbr=vbr,
            independent=independent,
            effort=effort,
            losses=loss,
            metrics=metrics,
            name=name.strip(),
            baselines=installed_codecs(against),
            published=read_scores(scores or ()),
            baseline=baseline,
            save_audio=out / "decoded" if out is not None and save_audio else None,
            page_clips=page_clips if out is not None else 0,
        )
        with progress("eval", "clip") as show:
            result = evaluation.run(config, show)
        print(all_tables(result))
        if not report(result, Path(test_dir), out):
            raise typer.Exit(EXIT_SOME_FILES)


@app.command()
def ratings(files: opt.RatingsArgument, out: opt.RatingsOutOption = None) -> None:
    """Sum up what listeners said in the blind test of the listening page."""
    with needs_evaluation():
        from evaluation.listening.mushra import ratings_table, summarise, write_ratings
        from evaluation.listening.ratings import read_ratings

        summary = summarise(read_ratings(files))
        print(ratings_table(summary))
        if out is not None:
            written = write_ratings(summary, out)
            print(f"{' and '.join(path.name for path in written)} are in {out}")


def _check_directory(path: Path) -> None:
    find_input(str(path))
    if not path.is_dir():
        raise UserError(f"{path}: not a directory; name a directory with audio files")


@app.command()
@one_voice()
@opt.options_of(TrainConfig)
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
    if config.init_from and not Path(config.init_from).is_file():
        raise UserError(f"--init-from: {config.init_from}: no such file; check the path")
    command = "pip install '.[train]'"
    try:
        with brought_by(command):
            from models.training.recipe import train_recipe
            from models.training.trainer import CHECKPOINT
            from models.training.trainer import train as run
    except OSError as error:  # torchaudio was built for another torch
        raise UserError(f"torch and torchaudio do not fit together ({error}): {command}") from error

    try:
        exported = train_recipe(config) if config.recipe else run(config)
    except KeyboardInterrupt:
        checkpoints = out.glob(f"*/{CHECKPOINT}" if config.recipe else CHECKPOINT)
        saved = max(checkpoints, default=None, key=os.path.getmtime)
        hint = f"{saved} is saved, continue with --resume" if saved else "nothing saved"
        raise Interrupted(hint) from None
    except ValueError as error:
        raise UserError(str(error)) from error
    if os.environ.get("RANK", "0") == "0":
        print(f"weights exported to {exported}")


def main() -> NoReturn:
    """Be the program `codec`."""
    run_program(app)


if __name__ == "__main__":
    main()
