"""Make what arrives in the field, try each, and print a line: right, wrong, or not to be had here.

Usage: python -m experiments.field [--only WORD] [--commands]

Inputs are made by libsndfile and, where it is installed, ffmpeg. With --commands whole commands are
tried as well, in a shell; that takes minutes. Exit code 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from codec import Codec
from experiments.field.check import check
from experiments.field.commands import COMMANDS, try_command
from experiments.field.inputs import CASES


def main(arguments: list[str] | None = None) -> int:
    """Try all cases; return how many are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.field", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", default="", help="cases whose name has this word")
    parser.add_argument("--commands", action="store_true", help="try whole commands, too")
    options = parser.parse_args(arguments)
    codec = Codec.load()
    wrong = 0

    def say(item: int, name: str, found: str | None) -> None:
        nonlocal wrong
        wrong += bool(found)
        result = "not here" if found is None else f"WRONG: {found}" if found else "right"
        print(f"{item:2}  {name:42} {result}", flush=True)

    for case in sorted(CASES, key=lambda case: case.item):
        if options.only in case.name:
            with tempfile.TemporaryDirectory() as folder:
                say(case.item, case.name, check(codec, case, Path(folder)))
    for command in COMMANDS if options.commands else ():
        if options.only in command.name:
            with tempfile.TemporaryDirectory() as folder:
                say(command.item, command.name, try_command(command, Path(folder)))
    print(f"{wrong} wrong" if wrong else "all right")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
