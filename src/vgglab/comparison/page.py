"""`comparison.html`: the table and the curves of all runs, on one page that needs no network."""

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from vgglab.comparison.columns import Cell, Column, columns_of
from vgglab.comparison.formats import remarks
from vgglab.comparison.groups import Comparison
from vgglab.comparison.overlay import overlaid_curves
from vgglab.comparison.runs import Run
from vgglab.comparison.settings import ABSENT
from vgglab.reporting.charts import line_style
from vgglab.reporting.page import details, page, section
from vgglab.text import is_accuracy, percent, shortened

_LONG = 48  # characters of a cell; more go into further lines
_OPEN_UP_TO = 20  # runs: a longer table is shown on demand

_STYLE = """
body { max-width: 1500px; }
.grid2 { grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
table.runs th, table.runs td { padding: 5px 14px 5px 0; white-space: nowrap; }
table.runs th:last-child, table.runs td:last-child { padding-right: 0; }
table.runs thead th { vertical-align: bottom; border-bottom: 2px solid var(--rule); }
table.runs tbody tr + tr { border-top: 1px solid var(--rule); }
table.runs td.long { white-space: normal; min-width: 160px; max-width: 320px;
  overflow-wrap: anywhere; }
table.runs .best { font-weight: 700; }
table.runs .soft { display: inline-block; min-width: var(--spread); text-align: left;
  white-space: pre; color: var(--soft); font-weight: 400; }
table.runs .bad { color: var(--bad); }
table.runs a { color: var(--c0); }
button.sort { all: unset; cursor: pointer; }
button.sort:hover, button.sort:focus-visible { color: var(--text); text-decoration: underline; }
[aria-sort=ascending] button.sort::after { content: " \\25B2"; }
[aria-sort=descending] button.sort::after { content: " \\25BC"; }
ul.remarks { margin: 12px 0 0; padding-left: 18px; color: var(--soft); font-size: 13px;
  overflow-wrap: anywhere; }
"""

# Without it the tables are as they were written: best first.
_SCRIPT = """
for (const table of document.querySelectorAll("table.runs")) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare = (a, b) => {
        const [x, y] = [a, b].map((row) => row.cells[column]);
        const [p, q] = [x, y].map((cell) => parseFloat(cell.dataset.order));
        if (x.dataset.order !== undefined || y.dataset.order !== undefined) {
          if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q);
          return down ? q - p : p - q;
        }
        const order = x.innerText.localeCompare(y.innerText, "en", { numeric: true });
        return down ? -order : order;
      };
      table.tBodies[0].append(...rows.sort(compare));
    };
  });
}
"""


def comparison_page(comparison: Comparison, folder: Path, price: float | None) -> str:
    """A whole HTML document.

    Args:
        comparison: what it shows.
        folder: where it will lie; it links to the pages of the runs.
        price: of a device-hour.
    """
    items = "".join(f"<li>{escape(line)}</li>" for line in remarks(comparison, price))
    many = len(comparison.runs) > _OPEN_UP_TO
    body = (
        f"<style>{_STYLE}</style>"
        + section("Result", f'{_groups(comparison)}<ul class="remarks">{items}</ul>')
        + section("Curves", overlaid_curves(comparison))
        + (details if many else section)("Runs", _runs(comparison, folder))
        + details("All settings that differ", _all_settings(comparison))
        + f"<script>{_SCRIPT}</script>"
    )
    subtitle = "Runs that differ in nothing but the seed share a row. A heading sorts the table."
    return page("Comparison", subtitle, body)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="scroll"><table class="runs"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _head(text: str, is_number: bool) -> str:
    return f'<th scope="col"{_classes(number=is_number)}>{escape(text)}</th>'


def _classes(**names: bool) -> str:
    found = " ".join(name for name, holds in names.items() if holds)
    return f' class="{found}"' if found else ""


def _mark(number: int) -> str:
    """A group's number behind a piece of its line."""
    return f'<span class="key {line_style(number - 1)}">{number}</span>'


def _groups(comparison: Comparison) -> str:
    columns = columns_of(comparison)
    heads = [_head(column.heading, column.is_number) for column in columns]
    rows = []
    for index, group in enumerate(comparison.groups):
        number = f'<td data-order="{index}">{_mark(group.number)}</td>'
        rows.append([number, *(_cell(column, column.cells[index]) for column in columns[1:])])
    return _table(heads, rows)


def _cell(column: Column, cell: Cell) -> str:
    long = len(cell.text) > _LONG
    classes = _classes(number=column.is_number, best=cell.is_best, long=long)
    order = "" if cell.order is None else f' data-order="{cell.order!r}"'
    rest = escape(cell.deviation + cell.remark)
    # So that the means stand below each other, where some have a deviation and some have none.
    if spread := max(len(other.deviation) for other in column.cells):
        rest = f'<span class="soft" style="--spread:{spread}ch">{rest}</span>'
    return f"<td{classes}{order}>{escape(cell.text)}{rest}</td>"


def _runs(comparison: Comparison, folder: Path) -> str:
    """Every run by itself, with a link to its own page."""
    numbers = [*comparison.metrics, *(name for name in comparison.costs if name != "parameters")]
    heads = [
        *(_head(name, name in ("row", "seed")) for name in ("run", "row", "seed", "status")),
        *(_head(name.replace("_", " "), is_number=True) for name in numbers),
    ]
    rows = [
        [
            f"<td{_classes(long=len(run.name) > _LONG)}>{_link(run, folder)}</td>",
            f'<td class="number" data-order="{group.number}">{_mark(group.number)}</td>',
            f'<td class="number">{ABSENT if run.seed is None else run.seed}</td>',
            _state(run),
            *(_number(name, run.numbers.get(name)) for name in numbers),
        ]
        for group in comparison.groups
        for run in group.runs
    ]
    return _table(heads, rows)


def _state(run: Run) -> str:
    """With the reason where it failed: its beginning, the whole under the mouse."""
    classes = _classes(bad=run.state in ("failed", "did not end"))
    if run.error is None:
        return f"<td{classes}>{escape(run.state)}</td>"
    text = f"{run.state}: {run.error}"
    return f'<td{classes} title="{escape(run.error)}">{escape(shortened(text, _LONG))}</td>'


def _number(name: str, value: float | None) -> str:
    if value is None:
        return f'<td class="number" data-order="nan">{ABSENT}</td>'
    shown = percent(value) if is_accuracy(name) else f"{value:,.5g}"
    return f'<td class="number" data-order="{value!r}">{shown}</td>'


def _link(run: Run, folder: Path) -> str:
    target = run.folder / "report.html"
    if not target.is_file():
        return escape(run.name)
    address = quote(os.path.relpath(target.resolve(), folder.resolve()))
    return f'<a href="{escape(address)}">{escape(run.name)}</a>'


def _all_settings(comparison: Comparison) -> str:
    """A row a setting, also of those that a choice of files stands for; empty without these."""
    if not comparison.implied:
        return ""
    numbers = [f'<th scope="col">{_mark(group.number)}</th>' for group in comparison.groups]
    rows = []
    for name in comparison.all_settings:
        values = [group.settings.get(name, ABSENT) for group in comparison.groups]
        cells = (f"<td{_classes(long=len(v) > _LONG)}>{escape(v)}</td>" for v in values)
        rows.append([f'<th scope="row">{escape(name)}</th>', *cells])
    return _table([_head("setting", is_number=False), *numbers], rows)
