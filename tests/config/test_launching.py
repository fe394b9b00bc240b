"""hydra/launcher=slurm and =local ask for what the run uses."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from tests.conftest import ROOT
from vgglab.config.errors import explain


def launcher(name: str, *overrides: str) -> dict[str, Any]:
    """What submitit is told."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "train",
            overrides=[f"hydra/launcher={name}", "hydra.job.name=train", *overrides],
            return_hydra_config=True,
        )
    told = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(told, dict)
    return {str(key): value for key, value in told.items()}


@pytest.mark.parametrize("name", ["slurm", "local"])
def test_as_many_as_the_accelerator_says(name: str) -> None:
    where = ("accelerator=ddp", "accelerator.devices=8", "accelerator.num_nodes=4")
    told = launcher(name, *where)
    assert (told["nodes"], told["tasks_per_node"], told["gpus_per_node"]) == (4, 8, 8)


def test_cores_for_the_loaders_and_no_gpu_on_cpus() -> None:
    told = launcher("slurm", "accelerator=ddp_cpu", "data.num_workers=5")
    assert (told["tasks_per_node"], told["gpus_per_node"], told["cpus_per_task"]) == (2, None, 6)
    assert told["additional_parameters"]["export"].endswith("SRUN_CPUS_PER_TASK=6")


def test_the_command_line_has_the_last_word() -> None:
    told = launcher("slurm", "accelerator=ddp_cpu", "hydra.launcher.cpus_per_task=3")
    assert told["cpus_per_task"] == 3


def test_a_scheduler_does_not_count_for_us() -> None:
    with pytest.raises(InterpolationResolutionError) as caught:
        launcher("slurm", "accelerator=ddp")
    assert "accelerator.devices=8" in str(explain(caught.value))
