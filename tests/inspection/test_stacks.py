"""The table of section 2.3."""

import json

import torch
from rich.console import Console

from vgglab.inspection.stacks import compare_stacks


def test_the_counts_are_those_of_the_paper_and_the_times_are_in_order() -> None:
    comparison = compare_stacks(4, 6, batch_size=2, repeats=3, device=torch.device("cpu"))
    rows = {row.stack: row for row in comparison.rows}
    counts = {name: (row.field, row.parameters) for name, row in rows.items()}
    squares = {"1 x 3x3": 9, "2 x 3x3": 18, "1 x 5x5": 25, "3 x 3x3": 27, "1 x 7x7": 49}
    sees = {"1 x 3x3": 3, "2 x 3x3": 5, "1 x 5x5": 5, "3 x 3x3": 7, "1 x 7x7": 7}
    assert counts == {name: (sees[name], 4**2 * squares[name]) for name in squares}
    for row in comparison.rows:
        assert row.mult_adds == row.parameters * 6**2  # one image, whatever the batch
        assert 0 < row.spread[0] <= row.milliseconds <= row.spread[1]
    assert json.loads(json.dumps(comparison.to_dict()))["rows"][4]["field"] == 7


def test_the_table_fits_eighty_columns_and_says_where_it_was_measured() -> None:
    comparison = compare_stacks(256, 1, batch_size=1, repeats=1, device=torch.device("cpu"))
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(comparison.table())
    text = capture.get()
    assert "…" not in text
    assert "27 C²" in text
    assert "3,211,264" in text
    assert f"{torch.get_num_threads()} threads" in text
    assert comparison.device in text
