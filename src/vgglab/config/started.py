"""`${started:}` in the names of folders: when a run began, the same for all its processes."""

import os
import time

from omegaconf import OmegaConf

from vgglab.errors import InputError

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
    job = slurm_job()
    own = time.strftime("%Y-%m-%d_%H-%M-%S") if job is None else f"slurm-{job}"
    return _agreed(own) if "TORCHELASTIC_RUN_ID" in os.environ else own


def _agreed(own: str) -> str:
    """Of torchrun's processes the first one's, also after torchrun has restarted them.

    The store is torchrun's, which outlives its processes.

    Raises:
        InputError: there is none.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise InputError(
            "give hydra.run.dir=FOLDER: with TORCH_DISABLE_SHARE_RDZV_TCP_STORE the processes of "
            "torchrun cannot agree on one"
        )
    from torch import distributed  # lazily: --help does not need torch

    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(*where, is_master=False)  # type: ignore[attr-defined]
    return str(store.compare_set(_KEY, "", own).decode())
