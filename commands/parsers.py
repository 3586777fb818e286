"""What users write in one string: bitrates, lists of them, percentages, names, a channel.

Each function returns what the text says, or raises what becomes one line on the terminal.
"""

from __future__ import annotations

import math

import typer

from codec.config import MAX_KBPS, MIN_KBPS
from commands.terminal import UserError

DEFAULT_RATES = "8,9.6,13.2,16.4,24.4,32"


def _check_kbps(value: float) -> float:
    """Return the bitrate, or raise `UserError` when it is outside 8..32 kbit/s."""
    if not (math.isfinite(value) and MIN_KBPS <= value <= MAX_KBPS):
        raise UserError(
            f"bitrate {value:.10g} kbit/s is out of range; "
            f"give a value from {MIN_KBPS:g} to {MAX_KBPS:g}"
        )
    return value


def parse_kbps(text: str) -> float:
    """Return a bitrate inside 8..32 kbit/s."""
    try:
        return _check_kbps(float(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number; give kbit/s such as 13.2") from None


def parse_rates(text: str) -> list[float]:
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


def parse_losses(text: str) -> list[float]:
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


def parse_names(text: str) -> list[str]:
    """Return the names of a comma-separated list, in small letters."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if text and not names:
        raise typer.BadParameter(f"no name in {text!r}")
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"one is named twice in {text!r}; name each once")
    return names


def parse_channel(text: str) -> str | int:
    """Return 'mix', or the number of a channel."""
    if text == "mix" or text.isdecimal() and int(text) > 0:
        return text if text == "mix" else int(text)
    raise typer.BadParameter(f"{text!r} is no channel; give mix, or a number from 1 on")
