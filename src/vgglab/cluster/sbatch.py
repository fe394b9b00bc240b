"""A training run as a script for SLURM's `sbatch`: settings in, text out."""

import re
import shlex
from collections.abc import Sequence

from vgglab.cluster.preemption import REQUEUE
from vgglab.config.launch_jobs import SbatchConfig
from vgglab.config.launching import resources
from vgglab.errors import InputError

# Of the overrides: our own, and one that Hydra adds.
_NOT_TRAINS = re.compile(r"(slurm|hydra\.mode)\b")
_SCRIPT = """\
#!/bin/bash
{head}

{setup}set -u
# Where the processes meet; SLURM names the node.
export MASTER_PORT=$((15000 + SLURM_JOB_ID % 10000))

srun --kill-on-bad-exit=1 --cpus-per-task={cpus_per_task} {command}
code=$?
# The run was warned, and has written a checkpoint.
if [ "$code" -eq {requeue} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def sbatch_script(
    job: SbatchConfig, command: Sequence[str], overrides: Sequence[str], folder: str
) -> str:
    """A script that trains and, requeued, continues in the same folder.

    SLURM sends its warning to the run's processes and not to this shell, which therefore reaches
    its last lines. It ends the shell with a job that it preempts, and so requeues by itself, or
    that is to end for good.

    Args:
        job: what is to be run, and where.
        command: the words that run scripts/train.py, as far as its settings.
        overrides: the command line's, some of them scripts/train.py's.
        folder: of the experiment's runs.

    Raises:
        InputError: this is a sweep, or `accelerator.devices` is no number.
    """
    if job.is_sweep:
        raise InputError(
            "this prints the script of one run; scripts/train.py --multirun hydra/launcher=slurm "
            "submits a sweep"
        )
    asked = resources({"accelerator": job.accelerator.model_dump(), "data": job.data.arguments})
    named = {override: override.lstrip("+~").partition("=")[0] for override in overrides}
    kept = {word: name for word, name in named.items() if not _NOT_TRAINS.match(name)}
    words = [shlex.quote(word) for word in (*command, *kept)]
    if "hydra.run.dir" not in kept.values():
        words.append(f'{shlex.quote(f"hydra.run.dir={folder}/slurm-")}"$SLURM_JOB_ID"')
    return _SCRIPT.format(
        head="\n".join(f"#SBATCH {option}" for option in _options(job, asked)),
        setup="".join(f"{line}\n" for line in job.slurm.setup),
        cpus_per_task=asked["cpus_per_task"],
        command=" ".join(words),
        requeue=REQUEUE,
    )


def _options(job: SbatchConfig, asked: dict[str, int | None]) -> list[str]:
    slurm = job.slurm
    values: dict[str, str | int | None] = {
        "job-name": re.sub(r"[^\w.-]", "_", job.name or "train"),
        "nodes": asked["nodes"],
        "ntasks-per-node": asked["tasks_per_node"],
        "gpus-per-node": asked["gpus_per_node"],
        "cpus-per-task": asked["cpus_per_task"],
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "time": slurm.time,
        "signal": f"USR1@{slurm.warning_seconds}",
        "requeue": True,
        "open-mode": "append",  # a requeued job goes on in the same file
        "output": "logs/slurm-%j.out",
        **(slurm.options or {}),
    }
    return [
        f"--{name}" if value is True else f"--{name}={shlex.quote(str(value))}"
        for name, value in values.items()
        if value is not None and value is not False
    ]
