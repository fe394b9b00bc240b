"""Markdown tables hold whatever text."""

import re

from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from vgglab.reporting.markdown import as_text, pipe_table

cell = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)


@trials(deadline=None, max_examples=50)
@given(st.lists(st.lists(cell, min_size=3, max_size=3), min_size=1, max_size=4))
def test_every_row_has_as_many_cells_and_the_same_length(rows: list[list[str]]) -> None:
    lines = pipe_table(["a", "b|c", "d"], rows, [1]).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({len(line) for line in lines}) == 1
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) >= 4
    assert re.fullmatch(r"\| -+ \| -+: \| -+ \|", lines[1])


def test_figures_are_set_to_the_right() -> None:
    assert pipe_table(["name", "n"], [["a", "1"], ["bcdef", "10"]], [1]).splitlines() == [
        "| name  |   n |",
        "| ----- | --: |",
        "| a     |   1 |",
        "| bcdef |  10 |",
    ]


def test_text_is_text() -> None:
    assert as_text("a_b *c* <i> [x](y) `z`") == r"a\_b \*c\* \<i\> \[x\](y) \`z\`"
