"""TensorBoard's pages in words and charts."""

import re
from pathlib import Path
from typing import Any

import yaml
from markdown import markdown

from tests.dashboard.shown import tensors
from vgglab.dashboard.arrangement import Arrangement, configuration_text, environment_text
from vgglab.reporting.environment import environment, write_json
from vgglab.reporting.tensorboard import TensorBoard

LAYOUT = "custom_scalars__config__"


def test_the_configuration_comes_back_from_its_text() -> None:
    config = {"model": {"name": "vgg11", "width": 0.5}, "scales": [1, 2], "resume": None}
    text = configuration_text(config)
    assert yaml.safe_load(text.strip("`")) == config


def test_the_environment_is_a_table() -> None:
    given = environment()
    # As TensorBoard renders it.
    page = markdown(environment_text(given), extensions=["tables", "fenced_code"])
    rows = dict(re.findall(r"<td>(.*?)</td>\n<td>(.*?)</td>", page))
    assert rows["versions.torch"] == given["versions"]["torch"]
    assert rows["hardware.cores"] == str(given["hardware"]["cores"])
    assert "<code>" in page
    assert "None" not in rows.values()


class Run:
    """As much of a trainer as the callback asks for."""

    def __init__(self, board: TensorBoard, global_step: int) -> None:
        self.loggers = [board]
        self.global_step = global_step


class Module:
    card: dict[str, Any] = {"config": {"seed": 0}}  # noqa: RUF012


def test_each_attempt_says_what_it_ran_with_and_the_layout_stands_once(tmp_path: Path) -> None:
    write_json(tmp_path / "environment.json", environment())
    for step, resume_step in ((0, None), (4, 4), (4, 4)):
        board = TensorBoard(str(tmp_path), resume_step=resume_step)
        Arrangement(str(tmp_path)).on_train_start(Run(board, step), Module())  # type: ignore[arg-type]
        board.finalize("success")
    texts = tensors(tmp_path, "run/")
    assert texts.keys() == {"run/configuration/text_summary", "run/environment/text_summary"}
    for shown in texts.values():
        assert [step for step, _ in shown] == [0, 4]
    assert len(tensors(tmp_path, LAYOUT)[LAYOUT]) == 1


def test_a_run_that_branches_off_another_has_its_own_layout(tmp_path: Path) -> None:
    write_json(tmp_path / "environment.json", environment())
    board = TensorBoard(str(tmp_path), resume_step=4)
    Arrangement(str(tmp_path)).on_train_start(Run(board, 4), Module())  # type: ignore[arg-type]
    board.finalize("success")
    assert len(tensors(tmp_path, LAYOUT)[LAYOUT]) == 1
