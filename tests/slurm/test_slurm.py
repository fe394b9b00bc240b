"""Jobs on a real SLURM: they run, are warned, requeued and preempted, and fail, as on a cluster."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from tests.slurm.cluster import HANGS, Cluster, running, why_not
from tests.slurm.jobs import SPY, await_step, command, ends_well, submitting, the_run, told
from tests.training.runs import assert_same, ending

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(why_not() is not None, reason=f"no SLURM here: {why_not()}"),
]

STEPS = 30  # an epoch
TWO_TASKS = ("accelerator=ddp_cpu",)
TWO_NODES = ("accelerator=ddp_cpu", "accelerator.devices=1", "accelerator.num_nodes=2")
# Long enough to be disturbed in the second epoch, with all that must go on as it was.
LONG = (
    *TINY,
    *TWO_TASKS,
    *SPY,
    "+callbacks.spy.seconds=0.1",
    "accelerator.timeout_seconds=60",  # one that hangs says where before the test gives up
    f"data.train_size={STEPS * 8}",
    "data.num_workers=1",  # SLURM signals a loader's workers, too
    "data.flip=true",
    "data.shuffle=true",
    "model.dropout=0.5",
    "callbacks.last_checkpoint.every_n_epochs=null",
    "callbacks.last_checkpoint.every_n_train_steps=7",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("slurm")) as started:
        started.environment["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        yield started


@pytest.fixture(autouse=True)
def no_job_is_left(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.clear()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two tasks through submitit."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with submitting("slurm", cluster.environment, folder, *LONG) as process:
        ends_well(process)
    return the_run(folder)


@pytest.fixture(scope="module")
def script(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/sbatch.py prints for the same run, in a folder to submit it from."""
    folder = tmp_path_factory.mktemp("sbatch")
    (folder / "logs").mkdir()
    done = subprocess.run(
        command("sbatch.py", *LONG, "slurm.time=30", "slurm.partition=low"),
        cwd=folder,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "job.sh").write_text(done.stdout)
    return folder / "job.sh"


def test_a_job_of_two_tasks_trains_once(undisturbed: Path, cluster: Cluster) -> None:
    processes = told(undisturbed)
    assert list(processes) == ["rank0", "rank1"]
    for starts in processes.values():
        assert [(start["world_size"], start["step"]) for start in starts] == [(2, 0)]
    assert set(json.loads((undisturbed / "metrics.json").read_text())) >= {"test/top1"}
    (state,) = {cluster.await_end(job)["JobState"] for job in cluster.jobs()}
    assert state == "COMPLETED"


def assert_resumed(undisturbed: Path, run: Path) -> None:
    """It was stopped within the second epoch, continued there, and ended like the other one."""
    first, second = told(run)["rank0"]
    assert first["step"] == 0
    assert STEPS < second["step"] < 2 * STEPS
    assert told(run)["rank1"] == [first, second]
    assert_same(ending(run), ending(undisturbed), "run")


def submit(cluster: Cluster, script: Path) -> tuple[str, Path]:
    """The number of the new job, and its run's folder."""
    job = cluster.run("sbatch", "--parsable", "--chdir", str(script.parent), str(script)).strip()
    return job, script.parent / f"logs/train/none/slurm-{job}"


def log_of(cluster: Cluster, job: str, folder: Path) -> str:
    """What a job has said, as SLURM's file or submitit's, and what SLURM says of it."""
    files = sorted({*folder.glob(f"logs/slurm-{job}.out"), *folder.rglob(f".submitit/{job}/*.*")})
    said = "\n".join(f"{file.name}: {file.read_text(errors='replace')[-4000:]}" for file in files)
    return f"{cluster.jobs().get(job)}\n{said}\n{cluster.log()}"


def test_a_warned_job_is_requeued_and_resumes(
    cluster: Cluster, script: Path, undisturbed: Path
) -> None:
    job, run = submit(cluster, script)
    await_step(run, STEPS + 5, lambda: log_of(cluster, job, script.parent))
    cluster.run("scancel", "--signal=USR1", job)  # as SLURM does before the time limit
    end = cluster.await_end(job)
    log = log_of(cluster, job, script.parent)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1"), log
    assert_resumed(undisturbed, run)


def test_submitits_warning_requeues_its_job(
    cluster: Cluster, tmp_path: Path, undisturbed: Path
) -> None:
    with submitting("slurm", cluster.environment, tmp_path, *LONG) as process:
        run = the_run(tmp_path)
        job = max(cluster.jobs(), key=int)
        await_step(run, STEPS + 5, lambda: log_of(cluster, job, tmp_path))
        cluster.run("scancel", "--signal=USR2", job)
        end = cluster.await_end(job)
        ends_well(process)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1")
    assert_resumed(undisturbed, run)


def test_a_preempted_job_resumes(cluster: Cluster, script: Path, undisturbed: Path) -> None:
    job, run = submit(cluster, script)
    await_step(run, STEPS + 5, lambda: log_of(cluster, job, script.parent))
    more_important = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")
    other = cluster.run("sbatch", "--parsable", *more_important, "--wrap=sleep 1").strip()
    assert cluster.await_end(other)["JobState"] == "COMPLETED"
    end = cluster.await_end(job)
    log = log_of(cluster, job, script.parent)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1"), log
    assert_resumed(undisturbed, run)


def test_a_sweep_is_an_array_and_runs_each_job_once(cluster: Cluster, tmp_path: Path) -> None:
    rates = ("0.01", "0.02", "0.03", "0.04")
    swept = f"optimizer.lr={','.join(rates)}"
    sweep = (*TINY, *TWO_NODES, *SPY, "trainer.max_epochs=1", "scheduler=constant", swept)
    with submitting(
        "slurm", cluster.environment, tmp_path, *sweep, "hydra.launcher.array_parallelism=2"
    ) as process:
        ends_well(process)
    runs = sorted(tmp_path.glob("logs/train/none/*/[0-9]"))
    assert [run.name for run in runs] == ["0", "1", "2", "3"]
    for run, rate in zip(runs, rates, strict=True):
        start = {"world_size": 2, "step": 0, "lr": float(rate)}
        assert told(run) == {"rank0": [start], "rank1": [start]}
        assert (run / "metrics.json").exists()
        assert f"optimizer.lr={rate}" in (run / ".hydra/overrides.yaml").read_text()
    tasks = [job for job in cluster.jobs() if "_" in job]
    assert [job.partition("_")[2] for job in tasks] == ["0", "1", "2", "3"]
    assert {cluster.await_end(job)["NumNodes"] for job in tasks} == {"2"}


BAD_INPUT = ("experiment=none", "data=image_folder", "data.root=/nowhere", "data.num_workers=0")
FAILURES = {
    "bad input": ((*BAD_INPUT, *TWO_TASKS), 2, r"error: .*/nowhere"),
    "one process": ((*TINY, *SPY, "+callbacks.spy.failing_rank=0"), 1, "the sum is wrong"),
    "rank 1": ((*TINY, *TWO_TASKS, *SPY, "+callbacks.spy.failing_rank=1"), 1, "the sum is wrong"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_job_that_fails_is_reported_as_failed(
    failure: str, cluster: Cluster, tmp_path: Path
) -> None:
    overrides, code, line = FAILURES[failure]
    with submitting("slurm", cluster.environment, tmp_path, *overrides) as process:
        printed, _ = process.communicate(timeout=HANGS)
    assert process.returncode == code, printed
    assert re.search(line, printed)
    end = cluster.await_end(max(cluster.jobs(), key=lambda job: int(job.split("_")[0])))
    assert end["JobState"] == "FAILED"
    assert end["ExitCode"] != "0:0"
