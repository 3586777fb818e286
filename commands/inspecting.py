"""Say what coded files tell of themselves: one of them, or all of a directory or shards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import typer

from codec.errors import BitstreamError
from codec.info import StreamReader, read_coded, read_stream_bytes, stream_info
from codec.io.finder import Finder
from codec.io.storage import Location, absolute, join
from codec.places import Place
from codec.weights import load_weights
from commands.terminal import (
    EXIT_SOME_FILES,
    STANDARD,
    UserError,
    complain,
    end_cleanly,
    escaped,
    name_of,
    note,
    open_input,
    say,
)


def describe(place: Location, as_json: bool, weights: Path | None) -> None:
    """Print what there is to say of one stream."""
    try:
        if place == STANDARD:
            with open_input(STANDARD) as file:
                data = read_stream_bytes(file)
        else:
            data = read_coded(place)
        result = stream_info(data, weights)
    except BitstreamError as error:
        raise UserError(f"{name_of(place)}: {error}") from error
    except ValueError as error:  # the weights
        raise UserError(str(error)) from error
    print(json.dumps(result, indent=2) if as_json else _format(place, result))


def describe_directory(root: Location, as_json: bool, weights: Path | None, place: Place) -> None:
    """Print a line for each stream below a directory, as they come, and one for all."""
    if next(Finder(root, {".bin"}).files(), None) is None:
        raise UserError(f"{root}: no .bin files in this directory; check the path")
    finder = Finder(absolute(root) if place.scheduler is not None else root, {".bin"})
    places = (join(finder.root, found.name) for found in finder.files())
    _describe_all(places, as_json, weights, place, finder)


def describe_shards(pattern: str, as_json: bool, weights: Path | None, place: Place) -> None:
    """Print a line for each stream in tar shards, and one for all."""
    from codec.shards import find_shards, members

    shards = find_shards(pattern)
    if place.scheduler is not None:
        shards = [absolute(shard) for shard in shards]
    streams = (member for shard in shards for member in members(shard, {".bin"}))
    if (first := next(streams, None)) is None:
        raise UserError(f"{pattern}: no .bin files in there; check the path")
    _describe_all(chain([first], streams), as_json, weights, place)


def _describe_all(
    places: Iterable[Location],
    as_json: bool,
    weights: Path | None,
    place: Place,
    finder: Finder | None = None,
) -> None:
    """Print a line for each stream, one for all, and the notes of who found them."""
    from codec.runner import run

    end_cleanly()
    fingerprint = load_weights(weights).fingerprint.hex()
    setup = StreamReader(weights and weights.absolute(), fingerprint)
    number = num_bytes = 0
    seconds = 0.0
    failures = []
    with contextlib.closing(run(setup, places, place, lambda _: 5.0)) as results:
        for came in results:
            if came.error or isinstance(came.result, str):
                failures.append(came.result or f"{came.item}: {came.error}")
                continue
            number += 1
            num_bytes += came.result["file_bytes"]
            seconds += came.result["duration_s"]
            if as_json:
                print(json.dumps({"file": str(came.item)} | came.result))
            else:
                say(_line(came.item, came.result))
    for text in finder.notes if finder is not None else ():
        note(text)
    for text in sorted(failures):
        complain(text)
    if not as_json:
        rate = f", {8e-3 * num_bytes / seconds:.2f} kbit/s" if seconds else ""
        total = number + len(failures)
        print(f"{number} of {total} streams: {seconds / 3600:.2f} h, {num_bytes} bytes{rate}")
    if failures:
        raise typer.Exit(EXIT_SOME_FILES)


def _line(place: Location, info: dict[str, Any]) -> str:
    """Return what is to be said of one of many streams."""
    kind = "vbr" if info["vbr"] else "cbr"
    return (
        f"{place}: {info['duration_s']:.3f} s, {info['file_bytes']} bytes, "
        f"{info['nominal_kbps']:g} kbit/s {kind}, {info['measured_kbps']:.2f} measured, "
        f"weights {info['fingerprint']}"
    )


def _format(place: Location, info: dict[str, Any]) -> str:
    """Return the lines that `codec info` prints of one stream."""
    mode = "variable (VBR)" if info["vbr"] else "constant (CBR)"
    kind = "independent of each other" if info["independent"] else "in groups of 1 s"
    rows = [
        (
            "file",
            f"{escaped(name_of(place))}, {info['file_bytes']} bytes, header {info['header_bytes']}",
        ),
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
