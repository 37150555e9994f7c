"""Tables: whole lines for a pipe, and on a terminal never a word folded inside."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from milpasses_tools._output import console

_GAP = 2
_INDENT = " " * 4
_SHORT = 36  # characters of a name and its value that share a line with others
_NO_BREAK = "\u00a0"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; a column whose name begins with ``>`` is aligned to the right.

    Cells are texts, None (empty), integers (with thousands separators) or floats (two decimals). Where stdout
    is no terminal a row is one line, however long. On a terminal that is too narrow the widest columns of
    text stand beneath each row, with their names, and then the last ones of numbers.
    """
    names = [column.removeprefix(">") for column in columns]
    right = [column.startswith(">") for column in columns]
    texts = [[*map(cell, row), *[""] * (len(names) - len(row))] for row in rows]
    out = console()
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    if not out.is_terminal:
        out = console(width=1_000_000)
        with out.capture() as text:
            out.print(_rich_table(names, right, texts))
        print("\n".join(line.rstrip() for line in text.get().splitlines()))
    elif _total(widths) <= out.width:
        out.print(_rich_table(names, right, texts))
    else:
        _print_narrow(out, names, right, texts, widths)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _rich_table(names: Sequence[str], right: Sequence[bool], texts: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name, numbers in zip(names, right, strict=True):
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for row in texts:
        table.add_row(*row)
    return table


def _print_narrow(
    out: Any, names: list[str], right: list[bool], texts: list[list[str]], widths: list[int]
) -> None:
    first = 1 if names[0] else 2  # a mark stands before the name
    inline = columns_that_fit(right, widths, out.width, first)
    header = _line([names[at] for at in inline], [right[at] for at in inline], [widths[at] for at in inline])
    out.print(header, style="bold", soft_wrap=True)
    beneath = [at for at in range(len(names)) if at not in inline]
    for row in texts:
        line = _line([row[at] for at in inline], [right[at] for at in inline], [widths[at] for at in inline])
        for part in [line] if len(line) <= out.width else _wrapped(line, out.width, ""):
            out.print(part, soft_wrap=True)
        pairs = [f"{names[at]}{'' if right[at] else ':'} {row[at]}" for at in beneath if row[at]]
        room = min(_SHORT, out.width - len(_INDENT))
        short = [pair for pair in pairs if len(pair) <= room]
        # A pair stays together: at a no-break space no line is broken.
        paragraphs = ["  ".join(pair.replace(" ", _NO_BREAK) for pair in short)] if short else []
        paragraphs += [pair for pair in pairs if pair not in short]
        for paragraph in paragraphs:
            for part in _wrapped(paragraph, out.width, _INDENT):
                out.print(part.replace(_NO_BREAK, " "), soft_wrap=True)


def columns_that_fit(right: Sequence[bool], widths: Sequence[int], width: int, first: int = 1) -> list[int]:
    """The columns that fit into ``width`` characters: the ``first`` ones, and of the others as many as can.

    Those of text go first, the widest before the others; of numbers the last.
    """
    left = list(range(len(widths)))
    while _total([widths[at] for at in left]) > width and len(left) > first:
        texts = [at for at in left[first:] if not right[at]]
        left.remove(max(texts, key=lambda at: widths[at]) if texts else left[-1])
    return left


def _line(cells: Sequence[str], right: Sequence[bool], widths: Sequence[int]) -> str:
    padded = [
        text.rjust(width) if numbers else text.ljust(width)
        for text, numbers, width in zip(cells, right, widths, strict=True)
    ]
    return (" " * _GAP).join(padded).rstrip()


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    """``text`` in lines; only a word that is longer than a line is broken inside."""
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False,
        replace_whitespace=False, drop_whitespace=True,
    )  # fmt: skip


def cell(value: object) -> str:
    """The text of a table's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
