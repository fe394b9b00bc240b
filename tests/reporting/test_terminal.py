"""The end of a run, as a person sees it in a terminal and in a file."""

import io

import pytest
from rich.console import Console

from vgglab.reporting import terminal
from vgglab.reporting.terminal import print_result

METRICS = {"test/top1": 0.98889, "test/top5": 1.0, "test/loss": 0.04126}
COMMAND = "uv run tensorboard --logdir " + "/".join(["a-long-folder-name"] * 12)


def printed(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> str:
    output = io.StringIO()
    console = Console(
        file=output, width=80, force_terminal=is_terminal, color_system=None, legacy_windows=False
    )
    monkeypatch.setattr(terminal, "console", console)
    print_result(METRICS, {"Run folder": "logs/[x]", "TensorBoard": COMMAND})
    return output.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_table_has_percentages_and_commands_stay_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    lines = [line.rstrip() for line in printed(monkeypatch, is_terminal).splitlines()]
    (heading,) = (line for line in lines if "top-1" in line)
    assert heading.split() == ["top-1", "top-5", "loss"]
    (row,) = (line for line in lines if line.strip().startswith("test"))
    assert row.split() == ["test", "98.89", "%", "100.00", "%", "0.0413"]
    assert "Run folder   logs/[x]" in lines
    assert f"TensorBoard  {COMMAND}" in lines
    assert max(len(line) for line in lines if COMMAND not in line) <= 80


def test_a_metric_that_one_part_lacks_leaves_its_cell_empty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result({"val/top1": 0.5, "test/top1": 0.25, "test/loss": 2.0}, {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["val", "50.00", "%", "-"] in rows
    assert ["test", "25.00", "%", "2.0000"] in rows


def test_a_file_gets_no_control_characters_and_no_table_without_metrics(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result({}, {"Run folder": COMMAND})
    assert capsys.readouterr().out == f"Run folder  {COMMAND}\n"
