"""The table at the width of a terminal, and names of all kinds."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from vgglab.prediction.answers import Prediction
from vgglab.prediction.formats import print_csv, print_json, print_table

LONG = Prediction(
    Path("/data/photographs/of a very long name/" + "x" * 120 + "_end.jpg"),
    [("black-and-white colobus, Colobus guereza", 0.9), ("写真" * 20, 0.06), ("b", 0.0)],
    "b",
)
SHORT = Prediction(Path("写真.png"), [("a", 1.0), ("b", 0.0)], "a")
UNKNOWN = Prediction(Path("c.png"), [("a", 0.5), ("b", 0.4)])
ELSEWHERE = Prediction(Path("c/1.png"), [("a", 0.5), ("b", 0.4)], "cat")
BROKEN = Prediction(Path("broken.png"), error="broken.png: not an image")


def table(
    monkeypatch: pytest.MonkeyPatch, *predictions: Prediction, width: int, encoding: str = "utf-8"
) -> list[str]:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(file=out, width=width, markup=False, emoji=False)
    monkeypatch.setattr("vgglab.prediction.formats.console", console)
    print_table(predictions)
    out.seek(0)
    return out.read().splitlines()


@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal_and_no_name_is_lost(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = table(monkeypatch, LONG, SHORT, UNKNOWN, ELSEWHERE, BROKEN, width=width)
    assert max(map(cell_len, lines)) <= width
    columns = ["".join(line.split()) for line in lines]
    folded = "".join(lines).replace(" ", "")
    for prediction in (SHORT, UNKNOWN, BROKEN):
        assert any(str(prediction.path) in line for line in columns)
    assert folded.count("x") >= 120
    assert folded.count("写真") >= 20


def test_marks_say_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, LONG, SHORT, UNKNOWN, ELSEWHERE, width=160)
    marks = [line.split()[-1] for line in lines if line.strip()][2:]
    assert [mark for mark in marks if mark in ("right", "wrong", "true")] == [
        *("wrong", "true"),
        "right",
        *("wrong", "true"),
    ]
    assert any("cat" in line and "true" in line for line in lines)
    plain = table(monkeypatch, UNKNOWN, width=160)
    assert all(line.rstrip().endswith("%") for line in plain if "c.png" in line)


def test_bars_are_as_long_as_the_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, UNKNOWN, SHORT, width=80)
    rows = [line.strip().removesuffix("right").split() for line in lines if "%" in line]
    bars = {row[-1]: row[-2].count("━") for row in rows}
    assert bars == {"50.0%": 6, "40.0%": 4, "100.0%": 12, "0.0%": 0}


def test_many_images_have_one_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, *[UNKNOWN] * 120, width=80)
    assert sum("probability" in line for line in lines) == 1
    assert sum("c.png" in line for line in lines) == 120


def test_terminals_that_know_ascii_alone_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table(monkeypatch, UNKNOWN, width=80, encoding="ascii")
    assert any("|------ " in line for line in lines)


def test_a_name_moves_no_cursor_and_programs_get_its_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(os.fsdecode(b"a\x1b[31m\nb\xff.png"))
    strange = Prediction(path, [("a\x1b]0;b", 0.5)])
    shown = "\n".join(table(monkeypatch, strange, width=80))
    assert "\x1b" not in shown
    assert r"a\x1b[31m\nb\udcff.png" in shown
    print_json([strange])
    assert json.loads(capsys.readouterr().out)[0]["image"] == str(path)
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    print_csv([strange])
    out.flush()
    assert os.fsencode(path) in out.buffer.getvalue()  # type: ignore[attr-defined]
