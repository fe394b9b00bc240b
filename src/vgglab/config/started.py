"""`${started:}` in the names of folders: when a run began, the same for all its processes."""

import os
import time

from omegaconf import OmegaConf

_KEY = "vgglab/started"


def register() -> None:
    """Make the resolver known. Hydra asks for it before a script's `main` begins, and in a job
    that submitit has sent elsewhere."""
    # Cached in the configuration, as Hydra's own `now`: also one that is sent elsewhere keeps it.
    OmegaConf.register_new_resolver("started", _started, replace=True, use_cache=True)


def slurm_job() -> str | None:
    """The number of this SLURM job, which a requeue does not change.

    Further steps of a job (`srun` for the second time in one script) get theirs added. None outside
    of jobs, and in a terminal within one.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    is_interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive") or os.isatty(0)
    if job is None or is_interactive:
        return None
    task, step = os.environ.get("SLURM_ARRAY_TASK_ID"), os.environ.get("SLURM_STEP_ID", "0")
    number = job if task is None else f"{job}_{task}"
    return number if step == "0" else f"{number}.{step}"


def _started() -> str:
    if (job := slurm_job()) is not None:
        return f"slurm-{job}"
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    return _agreed(now) if "TORCHELASTIC_RUN_ID" in os.environ else now


def _agreed(now: str) -> str:
    """Of torchrun's processes the first one's, also after torchrun has restarted them.

    The store is torchrun's, which outlives its processes.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return now
    from torch import distributed  # lazily: --help does not need torch

    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(*where, is_master=False)  # type: ignore[attr-defined]
    return str(store.compare_set(_KEY, "", now).decode())
