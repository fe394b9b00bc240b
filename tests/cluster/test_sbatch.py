"""scripts/sbatch.py: what sbatch, the shell and scripts/train.py make of what it prints."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, Compose, Script
from vgglab.cluster.preemption import REQUEUE
from vgglab.cluster.sbatch import sbatch_script
from vgglab.config.launch_jobs import SbatchConfig
from vgglab.config.schema import parse
from vgglab.errors import InputError

SRUN = """\
#!/bin/bash
printf '%s\\n' "$@" > words
exit "$CODE"
"""


Printed = Callable[..., str]


@pytest.fixture
def printed(composed: Compose) -> Printed:
    """printed(overrides) is the script of a tiny run with these settings."""

    def make(*overrides: str, given: tuple[str, ...] | None = None) -> str:
        job = parse(composed("sbatch", "name=test", *TINY, *overrides), SbatchConfig)
        overrides = overrides if given is None else given
        return sbatch_script(job, ["python", "train.py"], overrides, "logs/train/none")

    return make


def executed(script: str, folder: Path, code: int = 0) -> tuple[list[str], int, bool]:
    """What srun was told, the script's exit code, and whether it asked to be requeued."""
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho $@ > requeued\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash"],
        input=script,
        cwd=folder,
        env={"PATH": path, "SLURM_JOB_ID": "70123", "CODE": str(code)},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    requeued = folder / "requeued"
    if requeued.exists():
        assert requeued.read_text() == "requeue 70123\n"
    return (folder / "words").read_text().splitlines(), done.returncode, requeued.exists()


def options(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line)[1:]]


def test_it_asks_for_what_the_run_uses(printed: Printed) -> None:
    where = ("accelerator=ddp", "accelerator.devices=8", "accelerator.num_nodes=4")
    more = ("slurm.partition=gpu", "slurm.time=90", "slurm.options={mem: 0, exclusive: true}")
    asked = options(printed(*where, *more, "data.num_workers=5"))
    assert {"--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8"} <= set(asked)
    assert {"--cpus-per-task=6", "--partition=gpu", "--time=90"} <= set(asked)
    assert {"--mem=0", "--exclusive", "--requeue", "--signal=USR1@120"} <= set(asked)


def test_it_asks_for_no_gpu_on_cpus(printed: Printed) -> None:
    assert "gpus" not in printed("accelerator=ddp_cpu")


def test_the_shell_hands_every_setting_on(printed: Printed, tmp_path: Path) -> None:
    hard = ("loss.weight='$HOME `x` \"y\"'", "~callbacks.ema", "slurm.time=9", "hydra.mode=RUN")
    words, code, requeued = executed(printed(given=hard), tmp_path)
    assert words == [
        "--kill-on-bad-exit=1",
        "--cpus-per-task=1",
        "python",
        "train.py",
        *hard[:2],
        "hydra.run.dir=logs/train/none/slurm-70123",
    ]
    assert (code, requeued) == (0, False)


def test_a_name_is_one_word_of_one_line(composed: Compose) -> None:
    """A stranger's file may give it."""
    settings = composed("sbatch", *TINY, 'name="x\ntouch owned #"')
    job = parse(settings, SbatchConfig)
    assert job.name == "x\ntouch owned #"
    printed = sbatch_script(job, ["python", "train.py"], (), "logs")
    assert "#SBATCH --job-name=x_touch_owned__\n" in printed
    assert "touch" not in [line.split(" ")[0] for line in printed.splitlines()]


def test_what_is_given_is_not_given_again(printed: Printed, tmp_path: Path) -> None:
    given = ("resume=mine.ckpt", "hydra.run.dir=logs/mine")
    words, _, _ = executed(printed(given=given), tmp_path)
    assert words[4:] == list(given)


@pytest.mark.parametrize(("code", "requeued"), [(REQUEUE, True), (1, False)])
def test_a_warned_run_is_requeued_and_a_failed_one_is_not(
    printed: Printed, tmp_path: Path, code: int, requeued: bool
) -> None:
    assert executed(printed(), tmp_path, code)[1:] == (code, requeued)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("accelerator.devices=auto", "accelerator.devices=auto"),
        ("accelerator.devices=[0,1]", "accelerator.devices=[0, 1]"),
        ("slurm.time=3h", "slurm.time: 3h"),
        ("slurm.partition='a b'", "slurm.partition='a b'"),
        ('slurm.options={mem: "0\n#SBATCH --uid=0"}', "slurm.options.mem"),
        ("trainer.precision=16-mixed", "trainer.precision=16-mixed"),
    ],
)
def test_a_mistake_is_found_before_the_queue(printed: Printed, override: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        printed("accelerator=ddp_cpu", override)
    assert named in str(caught.value)


def test_it_prints_a_script_and_writes_nothing(process: Script, tmp_path: Path) -> None:
    done = process("sbatch", *TINY, "slurm.partition=gpu", "seed=3", "--config-dir=.")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    words, _, _ = executed(done.stdout, tmp_path)
    assert words[3].endswith("scripts/train.py")
    assert words[4:] == ["--config-dir", str(tmp_path), *TINY, "seed=3", words[-1]]
    assert "--partition=gpu" in options(done.stdout)


def test_a_sweep_is_not_one_job(composed: Compose) -> None:
    job = parse(composed("sbatch", "name=test", *TINY), SbatchConfig)
    job._is_sweep = True
    with pytest.raises(InputError, match="hydra/launcher=slurm"):
        sbatch_script(job, [], [], "logs")
