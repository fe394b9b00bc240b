"""One process of a job that submitit started, for hydra/launcher=slurm and hydra/launcher=local."""

import os
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus

from vgglab.config.door import BAD_INPUT
from vgglab.config.errors import explain
from vgglab.errors import InputError
from vgglab.files import replace_file


@contextmanager
def as_task() -> Iterator[None]:
    """Around all that one process does: tell it its rank, and tell a failure to who submitted it.

    Hydra keeps a job's error as its result, and submitit then ends the process with exit code 0:
    a failed job would look like one that has ended well. Elsewhere this does nothing.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        yield
        return
    if os.environ["SUBMITIT_EXECUTOR"] == "local":
        os.environ.update(ranks())
    try:
        yield
    except SystemExit as error:
        if error.code == BAD_INPUT and error.__context__ is not None:
            _report(("success", _refused(error.__context__)))
        raise  # other codes ask for something: to be requeued
    except Exception as error:
        traceback.print_exc()
        _report(("error", traceback.format_exc()))
        raise SystemExit(1) from error


def report_end(line: str) -> None:
    """The same for a process that ends without an exception: because another one is lost."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        _report(("error", line))


def ranks() -> dict[str, str]:
    """What torchrun would tell this process of submitit's local executor."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    return {
        "RANK": str(job.global_rank),
        "LOCAL_RANK": str(job.local_rank),
        "NODE_RANK": str(job.node),
        "WORLD_SIZE": str(job.num_tasks),
        "MASTER_ADDR": "127.0.0.1",
        # The same in all processes of the job; below those that a system gives out by itself.
        "MASTER_PORT": str(15000 + int(job.job_id) % 10000),
    }


def _refused(error: BaseException) -> JobReturn:
    """What Hydra makes of a job that failed: it raises the error where the sweep was started."""
    overrides = list(HydraConfig.get().overrides.task)
    result = JobReturn(overrides=overrides, status=JobStatus.FAILED)
    result.return_value = InputError(explain(error))
    return result


def _report(outcome: tuple[str, Any]) -> None:
    """Leave the outcome for this process, and for those that this one's end will end.

    Who submitted the job waits for one of each.
    """
    from submitit import JobEnvironment
    from submitit.core.utils import JobPaths

    job = JobEnvironment()
    for rank in range(job.num_tasks):
        path = JobPaths(job.paths.folder, job.job_id, rank).result_pickle
        if rank == job.global_rank or not path.exists():
            replace_file(path, pickle.dumps(outcome))
