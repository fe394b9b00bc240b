"""What drawing is measured to cost."""

import time
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from tests.conftest import ROOT, TINY, Compose
from vgglab.benchmarks.dashboard import DrawingCost, Stopwatch, measure_dashboard
from vgglab.config.benchmark_jobs import DashboardBenchmark
from vgglab.config.schema import parse
from vgglab.dashboard.arrangement import Arrangement

PAUSE = 0.02  # seconds


def test_every_drawing_hook_is_timed_and_nothing_else(
    composed: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Arrangement.on_train_start

    def slowly(self: Arrangement, *arguments: Any) -> None:
        time.sleep(PAUSE)
        draw(self, *arguments)

    monkeypatch.setattr(Arrangement, "on_train_start", slowly)
    config = composed("benchmark", "target=dashboard", "rounds=1")
    settings = [*TINY, "callbacks=[essential,board]", "trainer.max_epochs=1"]
    job = parse(config, DashboardBenchmark).model_copy(update={"settings": settings})
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        measured = measure_dashboard(job)
    ((drawing,), (run,)) = measured.drawing, measured.run
    assert drawing.keys() == {"Arrangement", "ModelGraph"}
    assert drawing["Arrangement"] >= PAUSE
    assert drawing["ModelGraph"] > 0
    assert sum(drawing.values()) < run
    assert measured.to_dict()["share"] == measured.shares[0] < 1


def test_hooks_that_nobody_has_written_are_left_alone(tmp_path: Path) -> None:
    watch, callback = Stopwatch(str(tmp_path)), Arrangement(str(tmp_path))
    watch._watch(callback)
    assert set(vars(callback)) == {"run_dir", "on_train_start"}


def test_the_share_is_of_all_else() -> None:
    measured = DrawingCost(
        settings=[],
        run=[11.0, 10.0, 12.0],
        drawing=[{"a": 0.5, "b": 0.5}, {"a": 0.0}, {"b": 2.0}],
        load=[0.0, 0.0, 0.0],
        cpu="one",
        torch="2",
    )
    assert measured.shares == pytest.approx([0.1, 0.0, 0.2])
    assert measured.to_dict()["share"] == pytest.approx(0.1)
