"""scripts/plan.py as a user runs it, and what it prints and draws."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import TINY, Compose, Script
from vgglab.config.launch_jobs import PlanConfig
from vgglab.config.schema import parse
from vgglab.planning.charts import scaling_figure, show_plan
from vgglab.planning.plan import make_plan
from vgglab.planning.tables import duration, scaled

POINT = (*TINY, "accelerator=ddp", "devices=2", "num_nodes=3", "data.batch_size=12")


def planned(composed: Compose, *overrides: str) -> PlanConfig:
    return parse(composed("plan", "name=tiny", *POINT, *overrides), PlanConfig)


def test_a_curve_is_printed_and_drawn(process: Script, tmp_path: Path) -> None:
    words = (*TINY, "accelerator=ddp", "data.batch_size=8", "devices=1..64", "hardware=a100")
    words += ("scaling=strong",)
    done = process("plan", *words)
    assert done.returncode == 0, done.stderr
    title, heading, _, *rows = done.stdout.splitlines()
    assert title.startswith("none on 1 to 8 x NVIDIA A100")
    assert heading.split()[:2] == ["devices", "batch"]
    assert [row.split()[0] for row in rows[:4]] == ["1", "2", "4", "8"]
    assert "left out: 16 32 64 devices" in done.stdout
    assert all(len(line.rstrip()) <= 80 for line in (heading, *rows[:4]))
    (folder,) = (tmp_path / "logs/plan").iterdir()
    record = json.loads((folder / "plan.json").read_text())
    assert [point["situation"]["devices"] for point in record["points"]] == [1, 2, 4, 8]
    assert Image.open(folder / "scaling.png").size > (800, 600)
    assert (folder / ".hydra/config.yaml").exists()


def test_one_number_of_devices_writes_nothing(
    composed: Compose, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job = planned(composed)
    plan = make_plan(job)
    show_plan(plan, job)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny on 6 x NVIDIA H200 SXM in 3 nodes, ddp, 32-true, batch 12")
    assert all(len(line.rstrip()) <= 80 for line in lines[1:])
    assert any("batch 12 = 6 x 2" in line for line in lines)
    assert any(" binds: " in line for line in lines)
    assert any(line.split()[:2] == ["ddp", "powersgd"] for line in lines)
    assert not list(tmp_path.iterdir())


def test_json_has_all_numbers(composed: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    job = planned(composed, "format=json")
    plan = make_plan(job)
    show_plan(plan, job)
    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert point["images_per_second"] == plan.points[0].images_per_second
    assert point["situation"]["nodes"] == 3
    waits = sum(point["seconds"].values()) - point["seconds"]["sent"]
    assert waits == pytest.approx(point["step_seconds"])
    assert point["memory"]["peak"] > 0
    assert point["binds"] in ("compute", "memory bandwidth", "network", "storage")


def test_the_chart_shows_every_point_and_the_ideal(composed: Compose) -> None:
    points = make_plan(planned(composed, "num_nodes=null", "devices=[1,4]")).points
    above, below = scaling_figure(points, "title").axes
    ideal, speeds = above.lines[:2]
    assert list(speeds.get_xdata()) == [1, 4]
    assert list(speeds.get_ydata()) == [point.images_per_second for point in points]
    assert list(ideal.get_ydata()) == pytest.approx(
        [points[0].images_per_second * n for n in (1, 4)]
    )
    assert list(below.lines[1].get_ydata()) == [100 * point.efficiency for point in points]


def test_numbers_are_scaled_after_they_are_rounded() -> None:
    found = [scaled(n) for n in (0.5, 999, 999.6, 999.9e3, 5860, 2.5e7, 3e9, 4e15)]
    assert found == ["0.5", "999", "1 k", "1 M", "5.86 k", "25 M", "3 G", "4,000 T"]
    assert [scaled(n, "B") for n in (8, 1500)] == ["8 B", "1.5 kB"]
    found = [duration(s) for s in (2e-6, 0.9999e-3, 0.9999, 59, 3599.9, 7200)]
    assert found == ["2 us", "1 ms", "1 s", "59 s", "1 h", "2 h"]


def test_every_setting_of_a_training_run_is_taken(composed: Compose) -> None:
    train, plan = (composed(name, "name=tiny") for name in ("train", "plan"))
    assert {key: plan[key] for key in train} == dict(train)
