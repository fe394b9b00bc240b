"""One table of results as Markdown, CSV and LaTeX, and on the terminal."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from vgglab.reporting.markdown import as_text, pipe_table

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # After the end of a row, a bracket would be read as an option of it.
    "[": "{[}",
    "]": "{]}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class ResultTable:
    """A table of ready-made cells, an empty text where there is no figure."""

    number: int
    """The paper's."""
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int
    """So many columns from the left hold words, the others figures."""
    notes: Sequence[str] = ()
    """Sentences to stand below it."""
    data: str | None = None
    """What it was measured on."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The files behind the rows, by name; not on the terminal, where one list does for all."""

    def markdown(self) -> str:
        """A heading, a pipe table, and the notes as a list."""
        figures = range(self.text_columns, len(self.headings))
        table = pipe_table(self.headings, self.rows, figures)
        notes = [f"- {as_text(note)}" for note in self._all_notes()]
        blocks = [f"### {as_text(self._caption())}", table, "\n".join(notes)]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def csv(self) -> str:
        """A line of headings, then the rows; a last column names the data."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        extra = [] if self.data is None else [self.data]
        writer.writerow([*self.headings, *(["data"] if extra else [])])
        writer.writerows([*row, *extra] for row in self.rows)
        return text.getvalue()

    def latex(self) -> str:
        """A floating table for a document that loads `booktabs`."""
        alignment = "".join("l" if self._is_text(i) else "r" for i in range(len(self.headings)))
        head, *body = (" & ".join(map(_latex, row)) + r" \\" for row in (self.headings, *self.rows))
        notes = [rf"  \par\footnotesize {_latex(note)}" for note in self._all_notes()]
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_latex(self._full_title())}}}",
            rf"  \label{{tab:vgg-table-{self.number}}}",
            rf"  \begin{{tabular}}{{{alignment}}}",
            r"    \toprule",
            f"    {head}",
            r"    \midrule",
            *(f"    {row}" for row in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            *notes,
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def rich(self) -> Group:
        """For the terminal: the title, the table, the notes, an empty line."""
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),  # Table 1 has seven columns for 80 characters
        )
        for i, heading in enumerate(self.headings):
            table.add_column(Text(heading), justify="left" if self._is_text(i) else "right")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return Group(Text(self._caption(), style="bold"), table, *map(Text, self.notes), "")

    def _all_notes(self) -> list[str]:
        return [*self.notes, *(f"{name}: {source}" for name, source in self.sources.items())]

    def _caption(self) -> str:
        return f"Table {self.number}: {self._full_title()}"

    def _full_title(self) -> str:
        return self.title if self.data is None else f"{self.title}; {self.data}"

    def _is_text(self, column: int) -> bool:
        return column < self.text_columns


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
