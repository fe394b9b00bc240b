"""The comparison on the terminal, as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic_core
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vgglab.comparison.columns import Cell, Column, columns_of, significant
from vgglab.comparison.groups import Comparison, Group
from vgglab.comparison.runs import Run
from vgglab.comparison.settings import ABSENT
from vgglab.reporting.markdown import as_text, pipe_table
from vgglab.text import one_line, plural

_MARK = "*"
_WIDEST = 32  # characters of a column on the terminal; the rest goes into the next line
# A spreadsheet would take a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def print_comparison(comparison: Comparison, console: Console, price: float | None) -> None:
    """Print the table; where the console is too narrow, in parts, one below the other."""
    number, *columns = columns_of(comparison)
    while columns:
        count = len(columns)
        while count > 1 and _width([number, *columns[:count]]) > console.width:
            count -= 1
        console.print(_table([number, *columns[:count]]))
        columns = columns[count:]
        if columns:
            console.print()
    lines = [*remarks(comparison, price), *([f"{_MARK} the best"] if _has_best(comparison) else [])]
    for line in lines:
        console.print(one_line(line), highlight=False)


def markdown(comparison: Comparison, price: float | None) -> str:
    """The table with the best in bold, and remarks as a list."""
    columns = columns_of(comparison)
    headings = [as_text(column.heading) for column in columns]
    cells = [[_bold(cell) for cell in column.cells] for column in columns]
    numbers = [i for i, column in enumerate(columns) if column.is_number]
    table = pipe_table(headings, list(zip(*cells, strict=True)), numbers)
    lines = [f"- {as_text(one_line(line))}" for line in remarks(comparison, price)]
    lines += ["- **bold**: the best"] if _has_best(comparison) else []
    return f"{table}\n\n" + "\n".join(lines) + "\n"


def remarks(comparison: Comparison, price: float | None) -> Iterator[str]:
    """What the table does not say by itself."""
    runs, groups = comparison.runs, comparison.groups
    line = f"{plural(len(runs), 'run')} in {plural(len(groups), 'row')}"
    if len(runs) > len(groups):
        line += ": mean ± sample standard deviation over the seeds"
    yield line
    if not all(run.is_finished for run in runs):
        yield "figures are of the finished runs; in a row without any, of all as far as they got"
    for group in groups:
        seeds = [run.seed for run in group.runs if run.seed is not None]
        again = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if again:
            yield (
                f"row {group.number} has {_listed('seed', again)} more than once: "
                "the mean of these runs counts as one"
            )
    for choice, names in comparison.implied.items():
        yield f"{choice}= stands for {plural(len(names), 'setting')}: {', '.join(names)}"
    if len(smoothing := comparison.smoothing) > 1:
        kinds = (f"{value:g} in {_listed('row', at)}" for value, at in sorted(smoothing.items()))
        yield f"the losses are not one measure: label smoothing is {', '.join(kinds)}"
    spent = [run.numbers["device_hours"] for run in runs if "device_hours" in run.numbers]
    if spent:
        total = f"together {significant(sum(spent))} device-hours"
        if price is not None:
            total += f", which cost {significant(price * sum(spent))} at {price:g} each"
        unknown = len(runs) - len(spent)
        yield f"{total}; of {plural(unknown, 'run')} the time is not known" if unknown else total


def to_csv(comparison: Comparison) -> str:
    """A line a run, figures in full: accuracies from 0 to 1, times in seconds."""
    settings = [*comparison.choices, *comparison.all_settings]
    numbers = [*comparison.metrics, *comparison.costs]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["run", "row", "status", "seed", *settings, *numbers]
    writer.writerow(map(_cell, head))
    for group in comparison.groups:
        special = {**group.choices, **group.settings}
        for run in group.runs:
            known = [special.get(name, "") for name in settings]
            seed = "" if run.seed is None else str(run.seed)
            measured = [repr(run.numbers[f]) if f in run.numbers else "" for f in numbers]
            line = [str(run.folder), str(group.number), run.state, seed, *known, *measured]
            writer.writerow(map(_cell, line))
    return text.getvalue()


def to_json(comparison: Comparison) -> str:
    """The groups with mean, deviation (null: one run) and n of each number, and their runs."""
    numbers = [*comparison.metrics, *comparison.costs]
    content = {
        "settings": [*comparison.choices, *comparison.all_settings],
        "groups": [_group(group, numbers) for group in comparison.groups],
    }
    # JSON has no word for what is not finite.
    return pydantic_core.to_json(content, inf_nan_mode="null", indent=2).decode() + "\n"


def _group(group: Group, numbers: Sequence[str]) -> dict[str, Any]:
    measures = {name: group.measure(name) for name in numbers}
    return {
        "row": group.number,
        "settings": {**group.choices, **group.settings},
        "figures": {
            name: {"mean": m.mean, "deviation": m.deviation, "n": len(m.values)}
            for name, m in measures.items()
            if m is not None
        },
        "runs": [_run(run) for run in group.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "status": run.state,
        "seed": run.seed,
        "figures": dict(run.numbers),
    }


def _cell(text: str) -> str:
    if not text.startswith(_FORMULA) or text == ABSENT:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _bold(cell: Cell) -> str:
    text = as_text(str(cell))
    return f"**{text}**" if cell.is_best else text


def _table(columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    cells = []
    for column in columns:
        texts = _aligned(column)
        heading = _heading(column)
        if column.is_number:  # rich would drop the spaces that align them
            width = max(map(cell_len, [heading, *texts]))
            heading, *texts = (text.rjust(width) for text in (heading, *texts))
        table.add_column(Text(heading), overflow="fold", max_width=_WIDEST)
        styles = ("bold" if cell.is_best else "" for cell in column.cells)
        cells.append([Text(text, style) for text, style in zip(texts, styles, strict=True)])
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    return table


def _aligned(column: Column) -> list[str]:
    """Deviations below each other, and the mark of the best."""
    spread = max(len(cell.deviation) for cell in column.cells)
    marked = any(cell.is_best for cell in column.cells)
    return [
        f"{cell.text}{cell.deviation:<{spread}}{cell.remark}"
        + (f" {_MARK}" if cell.is_best else "  " if marked else "")
        for cell in column.cells
    ]


def _width(columns: Sequence[Column]) -> int:
    """Of the table in characters, with the two between columns."""
    widths = [
        min(_WIDEST, max(cell_len(line) for text in texts for line in text.splitlines()))
        for texts in ([_heading(column), *_aligned(column)] for column in columns)
    ]
    return sum(widths) + 2 * (len(widths) - 1)


def _heading(column: Column) -> str:
    """A setting's long name breaks where its sections do."""
    return column.heading if column.is_number else column.heading.replace(".", ".\n")


def _has_best(comparison: Comparison) -> bool:
    return any(comparison.best(name) is not None for name in comparison.metrics)


def _listed(word: str, numbers: Sequence[int]) -> str:
    return f"{word}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
