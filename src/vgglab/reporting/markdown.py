"""Markdown: tables of ready-made cells, and text that is nothing but text."""

import re
from collections.abc import Collection, Sequence


def pipe_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int]
) -> str:
    """A table whose columns line up in the file, too.

    Args:
        headings: one a column.
        rows: a cell for each heading, Markdown but for `|`, which may be as it is.
        numbers: the columns that are set to the right.
    """
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (headings, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * (w - 1) + ":" if i in numbers else "-" * w for i, w in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, (cells[0], rule, *cells[1:])))


def as_text(text: str) -> str:
    """Without what Markdown would take for emphasis, links or HTML."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)
