"""How codecs are called, and how tables are set, in text."""

from __future__ import annotations

from collections.abc import Sequence

from codec.config import OURS

_NAMES = {
    "evs": "EVS",
    "opus": "Opus",
    "opus-audio": "Opus (audio)",
    "opus-lace": "Opus (LACE)",
    "opus-nolace": "Opus (NoLACE)",
    "opus161-plain": "Opus 1.6.1",
    "opus161-plain-wb": "Opus 1.6.1, wideband",
    "opus161-lace": "Opus 1.6.1, LACE",
    "opus161-lace-wb": "Opus 1.6.1, LACE, wideband",
    "opus161-nolace": "Opus 1.6.1, NoLACE",
    "opus161-nolace-wb": "Opus 1.6.1, NoLACE, wideband",
    "opus131": "Opus 1.3.1",
    "lc3": "LC3",
    "amr-wb": "AMR-WB",
    "speex": "Speex",
    "g722": "G.722",
    "lyra": "Lyra V2",
    "encodec": "EnCodec",
    "dac": "DAC",
}


def display_name(codec: str, ours: str = OURS) -> str:
    """Return how a codec of the results is called in text; an unknown one keeps its name.

    Parameters
    ----------
    codec : str   key of the results
    ours : str    key of this codec in a run that calls it otherwise; what else is called "nsvq"
        then was read from a file
    """
    if codec == ours:
        return "this codec"
    if codec == OURS:
        return "this codec (published)"
    return _NAMES.get(codec, codec)


def layout(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (),
    rule: bool = True,
) -> str:
    """Return the cells in columns, those of `left` to the left, the others right."""
    table = [list(headings), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if rule:
        table.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )
