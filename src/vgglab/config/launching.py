"""What a scheduler is asked for, so that it fits what the job will be told about itself.

`${asked:nodes}` in conf/hydra/launcher stands for the number that follows from the sections
`accelerator` and `data`.
"""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vgglab.errors import InputError

# All that our files say to a launcher in a text or a section: `vgglab.config.file_rules`.
SAID: dict[str, Any] = {
    "nodes": "${asked:nodes}",
    "tasks_per_node": "${asked:tasks_per_node}",
    "gpus_per_node": "${asked:gpus_per_node}",
    "cpus_per_task": "${asked:cpus_per_task}",
    "additional_parameters": {
        "requeue": True,
        "export": "ALL,SLURM_KILL_BAD_EXIT=1,SRUN_CPUS_PER_TASK=${asked:cpus_per_task}",
    },
}
# A list of devices is no sweep.
_SWEPT = re.compile(r"\+*accelerator\.(devices|num_nodes)=[^\[]*[,(]")


def resources(settings: Any) -> dict[str, int | None]:
    """What the sections `accelerator` and `data` need, by submitit's names.

    One task a device; a loader's workers are processes beside their task.

    Raises:
        InputError: `accelerator.devices` is no number.
    """
    accelerator = settings["accelerator"]
    devices = accelerator["devices"]
    if not isinstance(devices, int):
        raise InputError(
            f"accelerator.devices={devices}: a scheduler must be told how many devices a node "
            "gives, as in accelerator.devices=8"
        )
    has_gpus = accelerator["accelerator"] in ("auto", "gpu")
    return {
        "nodes": accelerator["num_nodes"],
        "tasks_per_node": devices,
        "gpus_per_node": devices if has_gpus else None,
        "cpus_per_task": 1 + (settings["data"].get("num_workers") or 0),
    }


def _asked(name: str, *, _root_: DictConfig) -> int | None:
    for override in _root_.hydra.overrides.task:
        if _SWEPT.match(override):
            raise InputError(
                f"{override}: all jobs of a sweep get the same devices; submit these apart"
            )
    return resources(_root_)[name]


OmegaConf.register_new_resolver("asked", _asked, replace=True)
