"""scripts/compare.py: what it prints, writes and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.comparison.folders import run_folder
from tests.conftest import Compose
from vgglab.comparison.compare import compare
from vgglab.config.jobs import CompareConfig
from vgglab.config.schema import parse
from vgglab.errors import InputError


def compared(composed: Compose, tmp_path: Path, *overrides: str) -> Any:
    job = parse(composed("compare", f"runs=['{tmp_path}/logs']", *overrides), CompareConfig)
    return compare(job)


def test_three_files_and_a_table(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        status = {"status": "finished", "device_seconds": 3600.0}
        folder = tmp_path / f"logs/lr=0.1, {seed}"
        run_folder(folder, {"seed": seed}, metrics={"test/top1": 0.5}, status=status)
    found = compared(composed, tmp_path, "price=4", "format=json")
    assert found.groups[0].measure("cost").values == [4.0, 4.0]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".hydra",
        "comparison.csv",
        "comparison.html",
        "comparison.md",
        "environment.json",
    ]
    out, err = capsys.readouterr()
    assert json.loads(out)["groups"][0]["figures"]["test/top1"]["mean"] == 0.5
    assert err == ""
    for form, ending in (("markdown", "md"), ("csv", "csv")):
        compared(composed, tmp_path, "price=4", f"format={form}")
        assert capsys.readouterr().out == (tmp_path / f"run/comparison.{ending}").read_text()


def test_its_own_folders_are_no_runs(composed: Compose, tmp_path: Path) -> None:
    run_folder(tmp_path / "logs/a", metrics={"test/top1": 0.5})
    job = composed("compare", f"runs=['{tmp_path}']", run_dir=tmp_path / "logs/compare/1")
    for _ in range(2):
        assert len(compare(parse(job, CompareConfig)).runs) == 1


def test_a_damaged_run_does_not_hide_the_others(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "logs/a", metrics={"test/top1": 0.5})
    torn = run_folder(tmp_path / "logs/b") / ".hydra/config.yaml"
    torn.write_text("{")
    bad = run_folder(tmp_path / "logs/c") / "metrics.json"
    bad.write_text("{")
    assert [run.name for run in compared(composed, tmp_path).runs] == ["a", "c"]
    one, two = capsys.readouterr().err.splitlines()
    assert one.startswith(f"warning: left out: cannot read {torn}")
    assert two == f"warning: {bad} is not what a run writes"


@pytest.mark.parametrize(
    ("overrides", "says"), [((), "no run of"), (("sort=tset/top1",), "did you mean")]
)
def test_nothing_is_written_where_nothing_is_compared(
    composed: Compose, tmp_path: Path, overrides: tuple[str, ...], says: str
) -> None:
    (tmp_path / "logs").mkdir()
    if overrides:
        run_folder(tmp_path / "logs/a", metrics={"test/top1": 0.5})
    with pytest.raises(InputError, match=says):
        compared(composed, tmp_path, *overrides)
    assert not (tmp_path / "run").exists()


def test_another_logger_is_no_other_run(composed: Compose, tmp_path: Path) -> None:
    for name in ("wandb", "mlflow"):
        choices = {"logger": name}
        run_folder(tmp_path / "logs" / name, {f"logger.{name}.project": "x"}, choices=choices)
    assert len(compared(composed, tmp_path).groups) == 1


def test_what_is_ignored_tells_no_runs_apart(composed: Compose, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_folder(tmp_path / "logs" / name, {"data.root": name, "trainer.max_epochs": name})
    assert len(compared(composed, tmp_path, "ignore=[data.root]").groups) == 2
    assert len(compared(composed, tmp_path, "ignore=[data.root,trainer]").groups) == 1
