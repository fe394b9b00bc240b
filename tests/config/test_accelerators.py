"""Every accelerator with every model and every experiment.

Two facts stand for hundreds of compositions: an accelerator's file changes its own section alone,
and no model's or experiment's file changes that section. So each of them is the composition of the
model and the experiment with the accelerator's section in it, which takes a tenth of the time.
"""

from contextlib import nullcontext
from functools import cache
from itertools import cycle

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tests.conftest import ROOT
from vgglab.cluster.sharding import tensor_parallel_size
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError


def choices(group: str) -> list[str]:
    folder = ROOT / "conf" / group
    return sorted(str(path.relative_to(folder))[: -len(".yaml")] for path in folder.rglob("*.yaml"))


ACCELERATORS = choices("accelerator")
# Each model and each experiment in one pair at least.
PAIRS = list(zip(choices("experiment"), cycle(choices("model")), strict=False))


@cache
def composed(experiment: str, model: str, accelerator: str) -> DictConfig:
    said = {"experiment": experiment, "model": model, "accelerator": accelerator}
    overrides = [f"{group}={choice}" for group, choice in said.items()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["run_dir=run", "name=test", *overrides])


def merged(experiment: str, model: str, accelerator: str) -> DictConfig:
    config = composed(experiment, model, "auto").copy()
    config.accelerator = composed("none", "vgg16", accelerator).accelerator
    return config


def test_all_models_and_experiments_are_paired() -> None:
    assert {model for _, model in PAIRS} == set(choices("model"))


@pytest.mark.parametrize(("experiment", "model"), PAIRS)
def test_the_accelerator_is_not_a_models_or_an_experiments(experiment: str, model: str) -> None:
    other = composed("none", "vgg16", "auto").accelerator
    assert composed(experiment, model, "auto").accelerator == other


@pytest.mark.parametrize(
    ("accelerator", "pair"), list(zip(ACCELERATORS, PAIRS, strict=False)), ids=ACCELERATORS
)
def test_an_accelerator_changes_its_own_section_alone(
    accelerator: str, pair: tuple[str, str]
) -> None:
    assert composed(*pair, accelerator) == merged(*pair, accelerator)
    names = composed("none", "vgg16", "auto").accelerator.keys()
    assert composed(*pair, accelerator).accelerator.keys() == names


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_it_goes_with_every_model_and_every_experiment(accelerator: str) -> None:
    """Only fc6 and fc7 of the paper's head can be split, and `hybrid` says so."""
    for experiment, model in PAIRS:
        job = parse(merged(experiment, model, accelerator), TrainConfig)
        if job.accelerator.strategy != "hybrid":
            continue
        with torch.device("meta"):
            network = job.model.with_arguments(init_from=None).build_for(10, 3)
        if job.model.arguments["head"] == "compact":
            with pytest.raises(InputError, match=r"fc6 and fc7.* use accelerator=ddp"):
                tensor_parallel_size("auto", network, 2, 2)
        else:
            assert tensor_parallel_size("auto", network, 2, 2) == 2


REFUSED = {
    "trainer.precision=16-mixed": ("cpu ddp_cpu", "use bf16-mixed"),
    "accelerator.sync_batchnorm=true": ("cpu ddp_cpu mps", "sync_batchnorm=true needs GPUs"),
    "accelerator.gradient_compression=bf16": (
        "auto cpu gpu mps fsdp hybrid",
        "gradient_compression=bf16 needs strategy=ddp",
    ),
    "accelerator.tensor_parallel=2": (
        "auto cpu gpu mps ddp ddp_bf16_grads ddp_cpu ddp_powersgd fsdp",
        "tensor_parallel=2 needs strategy=hybrid",
    ),
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_does_not_go_with_an_accelerator(setting: str) -> None:
    refused, line = REFUSED[setting]
    for accelerator in ACCELERATORS:
        config = merged("none", "vgg16", accelerator)
        name, value = setting.split("=")
        OmegaConf.update(config, name, yaml.safe_load(value))
        with (
            pytest.raises(InputError, match=line)
            if accelerator in refused.split()
            else nullcontext()
        ):
            parse(config, TrainConfig)
