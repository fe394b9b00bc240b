"""A run as its folder tells it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.comparison.folders import CONFIG, TEST, read_all, run_folder
from vgglab.comparison.runs import OtherScriptError, read_run
from vgglab.errors import InputError

HISTORY = """step,epoch,train/loss,lr,throughput/images_per_second,val/top1,val/loss
9,0,2.5,0.1,100.0,0.5,2.0
19,1,nan,0.2,300.0,0.75,1.5
29,2,1.5,0.1,200.0,0.625,1.0
39,3,1.25,0.1,17"""  # torn


def test_everything_that_a_finished_run_says(tmp_path: Path) -> None:
    status = {"status": "finished", "seconds": 90.0, "devices": 4, "device_seconds": 360.0}
    run_folder(
        tmp_path / "mine",
        {"seed": 3},
        metrics={"test/top1": 0.75, "test/loss": 0.5},
        history=HISTORY,
        status=status,
        parameters=1234,
    )
    problems: list[str] = []
    (run,) = read_all(tmp_path, problems)
    assert (run.name, run.seed, run.state, run.error) == ("mine", 3, "finished", None)
    assert run.numbers == {
        "test/top1": 0.75,
        "test/loss": 0.5,
        "best_val/top1": 0.75,
        "best_val/epoch": 1.0,
        "images_per_second": 200.0,  # the median
        "seconds": 90.0,
        "device_hours": 0.1,
        "parameters": 1234.0,
    }
    assert run.curves["train/loss"] == [(9, 2.5), (29, 1.5)]
    assert run.curves["val/loss"] == [(9, 2.0), (19, 1.5), (29, 1.0)]
    assert run.trained is not None
    assert run.trained.values["name"] == "digits"  # its own experiment
    assert run.tested is None
    assert problems == []


@pytest.mark.parametrize(
    ("written", "has_result", "state"),
    [
        (None, True, "finished"),
        (None, False, "unfinished"),
        ("failed", False, "failed"),
        ("stopped", False, "stopped"),
        ("running", False, "did not end"),
    ],
)
def test_how_it_ended(tmp_path: Path, written: str | None, has_result: bool, state: str) -> None:
    run_folder(
        tmp_path / "mine",
        metrics={"test/top1": 1.0} if has_result else None,
        status=None if written is None else {"status": written, "error": "why", "seconds": 5.0},
    )
    (run,) = read_all(tmp_path)
    assert run.state == state
    assert ("seconds" in run.numbers) == (written in ("failed", "stopped"))
    assert run.error == ("why" if written in ("failed", "stopped") else None)


def test_a_run_that_a_process_is_in_is_running(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "mine", status={"status": "running", "ended": None})
    hold = (
        "import sys; from pathlib import Path; from vgglab.files import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert read_all(tmp_path)[0].state == "running"
        other.communicate(b"\n")
    assert read_all(tmp_path)[0].state == "did not end"


def test_an_evaluation_has_the_settings_of_the_run_it_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = run_folder(tmp_path / "logs/train/mine", {"seed": 5}, parameters=77)
    for name, checkpoint in (
        ("whole", str(mine / "checkpoints/best.ckpt")),
        ("relative", "logs/train/mine/checkpoints/best.ckpt"),
        ("gone", "elsewhere/checkpoints/best.ckpt"),
        ("several", [str(mine / "checkpoints/best.ckpt")]),
    ):
        run_folder(
            tmp_path / "logs/evaluate" / name,
            {"checkpoint": checkpoint, "protocol": "dense"},
            base=TEST,
            metrics={"test/top1": 0.5},
        )
    monkeypatch.chdir(tmp_path / "logs/evaluate")  # not where they were started
    runs = {run.name: run for run in read_all(tmp_path / "logs")}
    for name in ("evaluate/whole", "evaluate/relative"):
        run = runs[name]
        assert run.trained == runs["train/mine"].trained
        assert (run.seed, run.state, run.numbers["parameters"]) == (5, "finished", 77)
        assert run.tested is not None
        assert run.tested.values["checkpoint"] == "best.ckpt"
    for name in ("evaluate/gone", "evaluate/several"):
        assert runs[name].trained is None
        assert runs[name].seed is None


def test_folders_of_other_scripts_are_no_runs(tmp_path: Path) -> None:
    for name, base in {"plan": {**CONFIG, "hardware": {}}, "tables": {"table": [1]}}.items():
        folder = run_folder(tmp_path / name, base=base)
        with pytest.raises(OtherScriptError):
            read_run(folder, name, [])


DAMAGE = {
    "metrics.json": [
        b"{",
        b"[]",
        b'{"test/top1": "good"}',
        b'{"test/top1": true}',
        b"\xff",
    ],
    "metrics.csv": [
        b"step,a\n1,x\n",
        b"step,a\n\xff\xfe,1\n",
        b"step\n1,2\n",
        b'step,a\n"' + b"x" * 200_000 + b"\n",
    ],
    "status.json": [b"{}", b"null", b'{"status": "well"}'],
    "network.json": [b"[1]", b"{}", b'{"parameters": "many"}'],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [(name, content) for name, contents in DAMAGE.items() for content in contents],
    ids=lambda value: str(value[:24]),
)
def test_a_damaged_file_is_named_and_the_rest_is_there(
    tmp_path: Path, name: str, content: bytes
) -> None:
    folder = run_folder(
        tmp_path / "mine",
        metrics={"test/top1": 0.5},
        history=HISTORY,
        status={"status": "finished", "seconds": 1.0},
        parameters=3,
    )
    (folder / name).write_bytes(content)
    problems: list[str] = []
    (run,) = read_all(tmp_path, problems)
    (line,) = problems
    assert str(folder / name) in line
    kept = {
        "metrics.json": "test/top1",
        "metrics.csv": "best_val/top1",
        "status.json": "seconds",
        "network.json": "parameters",
    }
    assert {n for n, number in kept.items() if number not in run.numbers} == {name}


def test_a_number_that_is_too_large_is_infinite(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "mine")
    (folder / "metrics.json").write_text('{"a": 1' + "0" * 400 + "}")
    (run,) = read_all(tmp_path)
    assert run.numbers == {"a": math.inf}


@pytest.mark.parametrize(
    "content",
    ["{", "- 1", "a: &x [1]\nb: *x\n", "\x00", "trainer: ${", "a: !!python/name:os.system"],
)
def test_a_damaged_configuration_is_no_run(tmp_path: Path, content: str) -> None:
    folder = run_folder(tmp_path / "mine")
    (folder / ".hydra/config.yaml").write_text(content)
    with pytest.raises(InputError, match=r"config\.yaml"):
        read_run(folder, "mine", [])


def test_nothing_of_a_strangers_configuration_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/of-somebody")
    run_folder(
        tmp_path / "mine", {"data.root": "${oc.env:HOME}", "data.batch_size": "${data.root}"}
    )
    (run,) = read_all(tmp_path)
    assert run.trained is not None
    assert "somebody" not in json.dumps(dict(run.trained.values))
