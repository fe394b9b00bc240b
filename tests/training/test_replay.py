"""A run repeated from its own folder, and what is said where it does not come out the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import TINY, Compose
from tests.training.runs import job, train_and_kill
from vgglab.config.jobs import ReplayConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.training.agreement import compare, read_results
from vgglab.training.replay import replay
from vgglab.training.run import train
from vgglab.training.stored import stored_job


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder, to be copied. Its own folder is gone when it is replayed."""
    from hydra import compose, initialize_config_dir

    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("finished") / "run"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[f"run_dir={folder}", "name=test", *TINY])
    train(parse(config, TrainConfig))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def replayed(composed: Compose, run: Path, *overrides: str) -> tuple[bool, dict[str, Any]]:
    """What `replay` answers, and its replay.json."""
    again = run.with_name("again")
    config = composed("replay", f"run={run}", *overrides, run_dir=again)
    same = replay(parse(config, ReplayConfig))
    return same, json.loads((again / "replay.json").read_text())


def change_config(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = run / ".hydra/config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def test_a_run_repeats_itself(
    run: Path, composed: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    same, found = replayed(composed, run)
    assert same
    assert found["same"] is True
    assert found["differences"] == 0
    tensors = len(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    rows = len((run / "metrics.csv").read_text().splitlines()) - 1
    assert found["compared"] == {"rows": rows, "metrics": 3, "tensors": 2 * tensors}
    line = f"bit for bit the same: {rows} rows, 3 final metrics, {2 * tensors} tensors"
    assert line in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_replay_can_be_replayed(run: Path, composed: Compose) -> None:
    replayed(composed, run)
    first = run.with_name("again").rename(run.with_name("first"))
    config = composed("replay", f"run={first}", run_dir=run.with_name("second"))
    assert replay(parse(config, ReplayConfig))


def test_another_seed_does_not_come_out_the_same(
    run: Path, composed: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    change_config(run, lambda config: config.update(seed=1))
    same, found = replayed(composed, run)
    assert not same
    assert found["same"] is False
    first = found["first_differences"][0]
    assert (first["where"], first["name"]) == ("row 1 (step 0)", "train/loss")
    assert found["largest_difference"]["relative"] >= first["relative"] > 0
    output = capsys.readouterr().out
    assert f"NOT the same: {found['differences']:,} differences" in output
    assert first["original"] in output


def alter(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_last_bit_of_a_metric_counts(run: Path) -> None:
    altered = shutil.copytree(run, run.with_name("altered"))
    result = json.loads((run / "metrics.json").read_text())
    loss = result["test/loss"]
    result["test/loss"] = float(torch.nextafter(*torch.tensor([loss, 9.0], dtype=torch.float64)))
    (altered / "metrics.json").write_text(json.dumps(result))
    (difference,) = compare(read_results(altered), read_results(run)).differences
    assert (difference.where, difference.name) == ("metrics.json", "test/loss")
    assert 0 < (difference.relative or 0) < 1e-15


ALTERED: dict[str, tuple[Callable[[list[str]], Any], str, str]] = {
    "a cell": (lambda lines: lines.__setitem__(2, "1,0,7.5" + ",0" * 9), "row 2 (step 1)", "train"),
    "a row less": (lambda lines: lines.pop(), "metrics.csv", "rows"),
    "a row more": (lambda lines: lines.append("99,9"), "metrics.csv", "rows"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_history_differs(case: str, run: Path) -> None:
    change, where, name = ALTERED[case]
    altered = shutil.copytree(run, run.with_name("altered"))
    lines = (altered / "metrics.csv").read_text().splitlines()
    change(lines)
    (altered / "metrics.csv").write_text("\n".join(lines) + "\n")
    first = compare(read_results(altered), read_results(run)).differences[0]
    assert first.where == where
    assert first.name.startswith(name)


def test_speed_may_differ(run: Path) -> None:
    altered = shutil.copytree(run, run.with_name("altered"))
    header, *lines = (altered / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("throughput/images_per_second")
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[column] = "1.0"
    (altered / "metrics.csv").write_text("\n".join([header, *map(",".join, rows), ""]))
    assert not compare(read_results(altered), read_results(run)).differences


TENSORS: dict[str, tuple[Callable[[dict[str, Any]], Any], float | None]] = {
    "a bit": (lambda state: state["w"].copy_(state["w"].nextafter(torch.tensor(9.0))), 1e-7),
    "the sign of zero": (lambda state: state["b"].neg_(), 0.0),
    "a type": (lambda state: state.update(w=state["w"].double()), None),
    "a shape": (lambda state: state.update(w=state["w"][None]), None),
    "one less": (lambda state: state.pop("w"), None),
    "nan": (lambda state: state["w"].fill_(torch.nan), None),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_changed_tensor_differs(case: str, tmp_path: Path) -> None:
    change, relative = TENSORS[case]
    for name in ("then", "now"):
        state = {"w": torch.ones(2, 3).t(), "b": torch.zeros(2), "n": torch.full((1,), torch.nan)}
        if name == "now":
            change(state)
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "metrics.json").write_text("{}")
        content = {"global_step": 3, "state_dict": state}
        torch.save(content, tmp_path / name / "checkpoints/last.ckpt")
    then, now = read_results(tmp_path / "then"), read_results(tmp_path / "now")
    assert not compare(then, then).differences
    (difference,) = compare(then, now).differences
    assert difference.where == "last.ckpt"
    if relative is None:
        assert difference.relative is None
    else:
        assert difference.relative == pytest.approx(relative, rel=0.5)


@pytest.mark.parametrize("case", ["interrupted", "resumed", "longer", "unfinished"])
def test_an_interrupted_run_replays_as_an_undisturbed_one(
    case: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The constant rate does not depend on the number of epochs, which was raised on resume."""
    run = tmp_path / "run"
    common = ("data.pad=2", "scheduler=constant")
    if case == "longer":
        train(job(composed, *common, "trainer.max_epochs=1", run_dir=run))
    else:
        train_and_kill(job(composed, *common, run_dir=run), 9, monkeypatch)
    if case != "unfinished":
        resume = "auto" if case != "resumed" else str(run / "checkpoints/last.ckpt")
        train(job(composed, *common, f"resume={resume}", run_dir=run))
    same, found = replayed(composed, run)
    assert same, found["first_differences"]
    if case == "unfinished":
        assert "the run did not finish" in found["notes"][0]
        assert (found["compared"]["rows"], found["compared"]["metrics"]) == (8, 0)
        assert "last.ckpt is of step 6, the replay's of step 12" in found["notes"]
    else:
        assert found["notes"] == []
        assert found["compared"]["metrics"] == 3


def test_a_schedule_that_knew_another_length_is_recognised(
    composed: Compose, tmp_path: Path
) -> None:
    run, schedule = tmp_path / "run", "scheduler=one_cycle"
    train(job(composed, schedule, "trainer.max_epochs=1", run_dir=run))
    train(job(composed, schedule, "resume=auto", run_dir=run))
    same, found = replayed(composed, run)
    assert not same
    assert "was raised on resume" in found["notes"][-1]


def test_the_start_of_a_run_is_honoured_or_missed(
    run: Path, composed: Compose, tmp_path: Path
) -> None:
    start = run / "checkpoints/last.ckpt"
    second = tmp_path / "second"
    longer = ("trainer.max_epochs=3", f"resume={start}")
    train(job(composed, *longer, run_dir=second))
    assert replayed(composed, second)[0]
    shutil.rmtree(second.with_name("again"))
    start.unlink()
    with pytest.raises(InputError, match=r"last\.ckpt"):
        replayed(composed, second)
    assert not second.with_name("again").exists()


def test_changed_versions_are_listed_and_no_obstacle(
    run: Path, composed: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = json.loads((run / "environment.json").read_text())
    environment["versions"]["torch"] = "1.0"
    environment["hardware"]["cpu"] = "\x1b[2JAbacus"
    environment["hardware"]["quantum"] = True
    (run / "environment.json").write_text(json.dumps(environment))
    same, found = replayed(composed, run)
    assert same
    changed = found["environment"]
    assert changed["versions.torch"] == {"then": "1.0", "now": torch.__version__.split("+")[0]}
    assert changed["hardware.quantum"] == {"then": True, "now": None}
    assert not changed.keys() & {"started", "command"}
    output = capsys.readouterr().out
    assert "versions.torch" in output
    assert "\x1b" not in output


def test_an_interpolation_of_hydra_means_the_runs_own(
    run: Path, composed: Compose, tmp_path: Path
) -> None:
    change_config(run, lambda config: config.update(name="${hydra:runtime.choices.experiment}"))
    with pytest.raises(InputError, match=r"config\.yaml"):
        stored_job(run, tmp_path / "again", [])
    hydra = {"hydra": {"runtime": {"choices": {"experiment": "mine"}}}}
    (run / ".hydra/hydra.yaml").write_text(yaml.safe_dump(hydra))
    assert stored_job(run, tmp_path / "again", []).name == "mine"


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "program": (
        lambda config: config.update(
            optimizer={"_target_": "os.system", "command": "id"}, allowed_targets=["os"]
        ),
        r"optimizer\._target_=os\.system is outside",
    ),
    "checkpoints elsewhere": (
        lambda config: config["callbacks"]["last_checkpoint"].update(dirpath="/elsewhere"),
        r"callbacks\.last_checkpoint\.dirpath=/elsewhere leads out",
    ),
    "checkpoints by name": (
        lambda config: config["callbacks"]["last_checkpoint"].update(filename="../../mine"),
        r"callbacks\.last_checkpoint\.filename=\.\./\.\./mine leads out",
    ),
    "history elsewhere": (
        lambda config: config["logger"]["csv"].update(save_dir="${run_dir}/.."),
        r"logger\.csv\.save_dir=.* leads out",
    ),
    "unknown setting": (lambda config: config.update(colour="blue"), "colour: no such setting"),
    "wrong type": (lambda config: config.update(seed="many"), "seed='many'"),
    "no model": (lambda config: config.pop("model"), "model is required"),
    "no end": (lambda config: config.update(name="${seed}", seed="${name}"), r"config\.yaml"),
    "secret": (lambda config: config.update(name="${oc.env:AWS_SECRET}"), "AWS_SECRET"),
    "list": (lambda config: config.update(callbacks=[1]), "callbacks"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_configuration_is_refused(
    case: str, run: Path, composed: Compose, tmp_path: Path
) -> None:
    change, message = HOSTILE[case]
    change_config(run, change)
    with pytest.raises(InputError, match=message):
        replayed(composed, run)
    assert not (tmp_path / "again").exists()


BROKEN: dict[str, tuple[str, bytes | None, str]] = {
    "no configuration": (".hydra/config.yaml", None, r"no \.hydra/config\.yaml"),
    "no YAML": (".hydra/config.yaml", b"a: [", r"config\.yaml"),
    "no text": (".hydra/config.yaml", b"\xff\xfe\x00", r"config\.yaml"),
    "a list": (".hydra/config.yaml", b"- a\n- b\n", r"config\.yaml holds no settings"),
    "a bomb": (".hydra/config.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\n", "aliases"),
    "history": ("metrics.csv", b"step,epoch\n1,one\n", r"metrics\.csv"),
    "bytes": ("metrics.csv", b"step\n\xff\n", r"metrics\.csv"),
    "no JSON": ("metrics.json", b"{", r"metrics\.json"),
    "no number": ("metrics.json", b'{"test/top1": "good"}', r"metrics\.json"),
    "other JSON": ("metrics.json", b"[1]", r"metrics\.json"),
    "environment": ("environment.json", b"nothing", r"environment\.json"),
    "checkpoint": ("checkpoints/last.ckpt", b"PK", r"last\.ckpt"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused(
    case: str, run: Path, composed: Compose, tmp_path: Path
) -> None:
    name, content, message = BROKEN[case]
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        replayed(composed, run)
    assert not (tmp_path / "again").exists()


def test_folders_that_cannot_be_compared_are_refused(
    run: Path, composed: Compose, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no such folder"):
        replayed(composed, tmp_path / "nowhere")
    with pytest.raises(InputError, match="is the run itself"):
        stored_job(run, run / "../run", [])
    (run / "metrics.csv").unlink()
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match="nothing to compare"):
        replayed(composed, run)


@pytest.mark.parametrize("given", [(), ("run=a", "batch=b")])
def test_one_thing_is_replayed(given: tuple[str, ...], composed: Compose) -> None:
    with pytest.raises(InputError, match="give a run's folder, or batch="):
        parse(composed("replay", *given), ReplayConfig)


def test_a_batch_is_replayed(composed: Compose, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError, match="non-finite"):
        train(job(composed, "optimizer.lr=1e30", "model.dropout=0", run_dir=run))
    (batch,) = (run / "nonfinite").iterdir()
    config = composed("replay", run_dir=tmp_path / "again")
    config.batch = str(batch)
    assert replay(parse(config, ReplayConfig))
    found = json.loads((tmp_path / "again/replay.json").read_text())
    assert found["where"].startswith("the output of conv")


def test_a_run_that_stopped_stops_again(composed: Compose, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError, match="non-finite"):
        train(job(composed, "optimizer.lr=1e20", "model.dropout=0", run_dir=run))
    same, found = replayed(composed, run)
    assert same
    assert any("the replay stopped: non-finite" in note for note in found["notes"])
