"""hydra/launcher=slurm and =local ask for what the run uses."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

import vgglab.config.guard  # noqa: F401 - it makes the resolvers known
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


@pytest.mark.parametrize("devices", ["auto", "[0,1]"])
def test_a_scheduler_does_not_count_for_us(devices: str) -> None:
    with pytest.raises(InterpolationResolutionError) as caught:
        launcher("slurm", "accelerator=ddp", f"accelerator.devices={devices}")
    assert "accelerator.devices=8" in str(explain(caught.value))


@pytest.mark.parametrize("sweep", ["accelerator.devices=1,2", "accelerator.num_nodes=range(1,3)"])
def test_a_sweep_has_one_number_of_devices(sweep: str) -> None:
    """As Hydra composes a --multirun: the sweep is in its list of overrides alone."""
    with pytest.raises(InterpolationResolutionError) as caught:
        launcher("slurm", "accelerator=ddp_cpu", f"+hydra.overrides.task=['{sweep}']")
    assert str(explain(caught.value)).endswith(
        f"{sweep}: all jobs of a sweep get the same devices; submit these apart"
    )
