"""The typed schema of conf/: one model a script, checked as a whole before anything is built."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from vgglab.config.components import Component
from vgglab.config.door import SWEEP
from vgglab.config.errors import explain_validation
from vgglab.config.secrets import without_secrets
from vgglab.errors import InputError
from vgglab.files import replace_file


class Network(Component):
    slot = "torch.nn.Module"
    supplied = ("num_classes", "in_channels")

    def build_for(self, num_classes: int, in_channels: int) -> Any:
        """Build the network for data of so many classes and channels.

        Raises:
            InputError: the configuration names another number of classes.
        """
        configured = self.arguments.get("num_classes", num_classes)
        if configured != num_classes:
            raise InputError(
                f"model.num_classes={configured}, but the data has {num_classes} classes "
                f"(labels 0 to {num_classes - 1})"
            )
        wanted = {"num_classes": num_classes, "in_channels": in_channels}
        return self.build("model", **{k: v for k, v in wanted.items() if self.accepts(k)})


class Data(Component):
    slot = "lightning.LightningDataModule"


class Loss(Component):
    slot = "torch.nn.Module"


class Optimizer(Component):
    slot = "torch.optim.Optimizer"
    supplied = ("params",)


class Scheduler(Component):
    slot = "vgglab.training.schedules.Schedule"
    supplied = ("optimizer", "horizon")


class Callback(Component):
    slot = "lightning.Callback"


class Logger(Component):
    slot = "lightning.pytorch.loggers.Logger"


Device = Literal["auto", "cpu", "gpu", "mps"]


class Section(BaseModel):
    """A part of the configuration that takes these settings and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AcceleratorConfig(Section):
    """Where it runs (conf/accelerator)."""

    accelerator: Device = "auto"
    strategy: Literal["auto", "ddp", "fsdp", "hybrid"] = "auto"
    devices: PositiveInt | list[NonNegativeInt] | Literal["auto"] = 1
    num_nodes: PositiveInt = 1
    process_group_backend: Literal["nccl", "gloo"] | None = None
    sync_batchnorm: bool = False
    gradient_compression: Literal["none", "bf16", "powersgd"] = "none"
    powersgd_rank: PositiveInt = 4
    powersgd_start_step: Annotated[int, Field(ge=2)] = 1000  # DDP makes its buckets until then
    tensor_parallel: PositiveInt | Literal["auto"] = "auto"
    timeout_seconds: PositiveInt = 600

    @model_validator(mode="after")
    def _fits_together(self) -> "AcceleratorConfig":
        if self.gradient_compression != "none" and self.strategy != "ddp":
            raise ValueError(
                f"gradient_compression={self.gradient_compression} needs strategy=ddp, not "
                f"{self.strategy}"
            )
        if self.tensor_parallel != "auto" and self.strategy != "hybrid":
            raise ValueError(
                f"tensor_parallel={self.tensor_parallel} needs strategy=hybrid, not {self.strategy}"
            )
        if self.sync_batchnorm and self.accelerator in ("cpu", "mps"):
            raise ValueError("sync_batchnorm=true needs GPUs: torch has no form for a CPU")
        return self


class TrainerConfig(Section):
    """How it runs (conf/trainer). Names and meanings are Lightning's, but for the last three."""

    max_epochs: PositiveInt | None = None
    max_steps: PositiveInt | Literal[-1] = -1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"]
    gradient_clip_val: NonNegativeFloat | None = None
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    accumulate_grad_batches: PositiveInt = 1
    check_val_every_n_epoch: PositiveInt = 1
    limit_train_batches: NonNegativeInt | NonNegativeFloat | None = None
    limit_val_batches: NonNegativeInt | NonNegativeFloat | None = None
    limit_test_batches: NonNegativeInt | NonNegativeFloat | None = None
    log_every_n_steps: PositiveInt = 50
    num_sanity_val_steps: NonNegativeInt = 0
    deterministic: bool | Literal["warn"] = False
    benchmark: bool | None = None
    detect_anomaly: bool = False
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    channels_last: bool = True
    compile: bool = False
    async_checkpoints: bool = True

    @model_validator(mode="after")
    def _has_an_end(self) -> "TrainerConfig":
        if self.max_epochs is None and self.max_steps == -1:
            raise ValueError("set max_epochs or max_steps, or the run never ends")
        return self


class Job(Section):
    """What every script's configuration has."""

    allowed_targets: list[str] = []
    run_dir: str
    _composition: dict[str, str] = PrivateAttr(default={})
    _is_sweep: bool = PrivateAttr(default=False)

    @property
    def composition(self) -> dict[str, str]:
        """What Hydra composed, as texts by file name, for the run's `.hydra` folder."""
        return self._composition

    @property
    def is_sweep(self) -> bool:
        """Whether this job is one of a `--multirun`."""
        return self._is_sweep


class TrainConfig(Job):
    """conf/train.yaml"""

    name: str | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no more
    resume: str | None
    weights: str | None
    test: bool
    model: Network
    data: Data
    loss: Loss
    optimizer: Optimizer
    decay_norm_and_bias: bool
    scheduler: Scheduler
    trainer: TrainerConfig
    accelerator: AcceleratorConfig
    callbacks: dict[str, Callback]
    logger: dict[str, Logger]

    @model_validator(mode="after")
    def _composes(self) -> "TrainConfig":
        if self.accelerator.accelerator == "cpu" and self.trainer.precision.startswith("16"):
            # Lightning would train in bf16 without saying so.
            raise ValueError(
                f"trainer.precision={self.trainer.precision} needs a GPU; on a CPU use bf16-mixed"
            )
        return self


JobT = TypeVar("JobT", bound=Job)


def parse(config: DictConfig, schema: type[JobT]) -> JobT:
    """The composed configuration as a plain typed object, checked as a whole.

    Raises:
        InputError: with the full name of the setting, what is wrong with it, and the choices.
    """
    is_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if is_sweep:
        _clean_sweep(Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir, SWEEP))
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    try:
        job = schema.model_validate(settings)
    except ValidationError as error:
        raise InputError(explain_validation(error, schema)) from error
    job = job.model_copy(
        update={name: _checked(name, value, job.allowed_targets) for name, value in job}
    )
    job._composition = _composition(config)
    job._is_sweep = is_sweep
    return job


def _checked(path: str, value: Any, allowed_targets: Sequence[str]) -> Any:
    if isinstance(value, Component):
        return value.checked(path, allowed_targets)
    if isinstance(value, dict):
        return {k: _checked(f"{path}.{k}", v, allowed_targets) for k, v in value.items()}
    return value


def _composition(config: DictConfig) -> dict[str, str]:
    """The three files that Hydra's users look for in `.hydra`, without secrets."""
    files: dict[str, Any] = {"config.yaml": config}
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        files["hydra.yaml"] = {"hydra": hydra}
        files["overrides.yaml"] = hydra.overrides.task
    return {name: _as_yaml(content) for name, content in files.items()}


def _clean_sweep(path: Path) -> None:
    """Hydra has written everything there."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        clean = _as_yaml(text)
        if clean != text:
            replace_file(path, clean.encode())


def _as_yaml(content: Any) -> str:
    written = OmegaConf.to_container(OmegaConf.create(content), resolve=False)
    return OmegaConf.to_yaml(OmegaConf.create(without_secrets(written)))


def plain(job: Job) -> dict[str, Any]:
    """The configuration in plain containers without secrets, for checkpoints and loggers."""
    settings: dict[str, Any] = without_secrets(job.model_dump(by_alias=True))
    return settings
