"""The typed schema of conf/: one model a script, checked as a whole before anything is built."""

import re
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
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    ValidationError,
    field_validator,
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
EvaluationPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]


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


# Sections 3.2 and 4 of the paper; vgglab.evaluation.protocols says what they do.
EvaluationProtocol = Literal["center_crop", "dense", "multi_crop", "dense_multi_crop"]
Scales = Annotated[list[PositiveInt], Field(min_length=1)]


class EvaluateConfig(Job):
    """conf/evaluate.yaml"""

    checkpoint: str | Annotated[list[str], Field(min_length=1)] | None
    weights: str | None
    model: Network | None = None
    data: Data | None = None
    batch_size: PositiveInt | None
    seed: NonNegativeInt
    protocol: EvaluationProtocol
    scales: Scales | Literal["auto"] | None
    device: Device
    precision: EvaluationPrecision


class PredictConfig(Job):
    """conf/predict.yaml"""

    checkpoint: str
    images: str | list[str]
    top: PositiveInt
    batch_size: PositiveInt
    format: Literal["table", "json", "csv"]
    device: Device


class PaperTablesConfig(Job):
    """conf/paper_tables.yaml"""

    table: list[int]
    checkpoints: list[str]
    data: Data | None = None
    cache: str
    batch_size: PositiveInt | None
    seed: NonNegativeInt
    device: Device
    precision: EvaluationPrecision

    @field_validator("table", mode="before")
    @classmethod
    def _several_tables(cls, table: Any) -> Any:
        """A number, a list, or a range as in `1..7`."""
        if isinstance(table, str) and (ends := re.fullmatch(r"(\d+)\.\.(\d+)", table)):
            return list(range(int(ends[1]), int(ends[2]) + 1))
        return table if isinstance(table, list) else [table]

    @field_validator("table")
    @classmethod
    def _tables_exist(cls, table: list[int]) -> list[int]:
        if not table or min(table) < 1 or max(table) > 7:
            raise ValueError(f"{table}; choices: one or several of the paper's tables 1 to 7")
        return table

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _several_checkpoints(cls, checkpoints: Any) -> Any:
        return [checkpoints] if isinstance(checkpoints, str) else checkpoints

    @model_validator(mode="after")
    def _has_networks(self) -> "PaperTablesConfig":
        measured = [number for number in self.table if number > 2]
        if measured and not self.checkpoints:
            raise ValueError(f"table={measured[0]} is measured: give checkpoints=[PATH,...]")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ValueError(f"checkpoints={self.checkpoints} names a file twice")
        if 6 in self.table and len(self.checkpoints) < 2:
            raise ValueError("table=6 fuses networks: give checkpoints=[PATH,PATH,...]")
        return self


class SubjectJob(Job):
    """A job that looks at one network: a checkpoint, or weights in a model."""

    checkpoint: str | None
    weights: str | None
    model: Network | None = None
    device: Device


class ExtractFeaturesConfig(SubjectJob):
    """conf/extract_features.yaml"""

    images: str
    output: str
    scales: Scales | None
    combine: Literal["average", "stack"]
    batch_size: PositiveInt
    num_workers: NonNegativeInt
    precision: EvaluationPrecision


class LinearProbeConfig(Job):
    """conf/linear_probe.yaml"""

    features: str | Annotated[list[str], Field(min_length=1)]
    # One is held out to choose the constant, and one must be left.
    train_per_class: Annotated[int, Field(ge=2)]
    test_per_class: PositiveInt | None
    splits: PositiveInt
    constants: Annotated[list[PositiveFloat], Field(min_length=1)]
    seed: NonNegativeInt
    format: Literal["table", "json"]


class RestyleConfig(SubjectJob):
    """conf/restyle.yaml"""

    content: str
    style: str
    output: str
    size: Annotated[int, Field(ge=32)]  # what five pools leave a pixel of
    steps: PositiveInt
    learning_rate: PositiveFloat
    content_layers: dict[str, NonNegativeFloat] | None
    style_layers: dict[str, NonNegativeFloat] | None


class VisualizeConfig(SubjectJob):
    """conf/visualize.yaml"""

    model_config = ConfigDict(populate_by_name=True)

    images: str | list[str]
    layer: str | None
    class_: str | int | None = Field(alias="class")  # the word is Python's


class SummarizeConfig(Job):
    """conf/summarize.yaml"""

    model: Network
    input_size: list[PositiveInt]
    format: Literal["table", "json"]


class ColourAxesConfig(Job):
    """conf/colour_axes.yaml"""

    data: Data
    output: str
    again: bool
    limit: PositiveInt | None
    seed: NonNegativeInt


class ReceptiveFieldConfig(SubjectJob):
    """conf/receptive_field.yaml"""

    image: str | list[str] | None
    size: PositiveInt | None
    layers: Annotated[list[str], Field(min_length=1)] | None
    effective: bool
    seed: NonNegativeInt
    format: Literal["table", "json"]

    @model_validator(mode="after")
    def _has_an_image(self) -> "ReceptiveFieldConfig":
        if self.image is None:
            for name in ("effective", "layers", "size"):
                if getattr(self, name):
                    raise ValueError(f"{name}={getattr(self, name)} needs image=PATH")
        elif self.layers is None:
            raise ValueError("image=... also needs layers=[...], such as layers=[conv1_2,pool3]")
        return self


class CompareStacksConfig(Job):
    """conf/compare_stacks.yaml"""

    channels: PositiveInt
    size: PositiveInt
    batch_size: PositiveInt
    repeats: PositiveInt
    device: Device
    format: Literal["table", "json"]


class BenchmarkConfig(Job):
    """conf/benchmark.yaml"""

    target: Literal["processes"]
    model: Network
    processes: Annotated[int, Field(ge=2)]
    batch_size: PositiveInt
    size: PositiveInt
    steps: PositiveInt
    rounds: PositiveInt
    format: Literal["table", "json"]


class PrepareImagenetConfig(Job):
    """conf/prepare_imagenet.yaml"""

    archives: str
    root: str


class ReplayConfig(Job):
    """conf/replay.yaml"""

    run: str | None
    batch: str | None

    @model_validator(mode="after")
    def _has_one(self) -> "ReplayConfig":
        if (self.run is None) == (self.batch is None):
            raise ValueError("give a run's folder, or batch=RUN/nonfinite/FILE.pt")
        return self


class ExportWeightsConfig(Job):
    """conf/export_weights.yaml"""

    checkpoint: str
    output: str


class PlanConfig(TrainConfig):
    """conf/plan.yaml: a training run, and where it is to be."""

    hardware: dict[str, Any]
    devices: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] | None
    num_nodes: PositiveInt | None
    batch_size: Literal["auto"] | None
    scaling: Literal["strong", "weak"] | None
    images: PositiveInt | None
    classes: Annotated[int, Field(ge=2)] | None
    image_bytes: NonNegativeFloat | None
    format: Literal["table", "json"]

    @field_validator("devices", mode="before")
    @classmethod
    def _range_of_devices(cls, devices: Any) -> Any:
        """The powers of two of a range such as `1..4096`."""
        if not isinstance(devices, str):
            return devices
        if ends := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", devices):
            powers = [2**exponent for exponent in range(30)]
            if found := [power for power in powers if int(ends[1]) <= power <= int(ends[2])]:
                return found
        raise ValueError(f"{devices}: give a number, a list [1,8] or a range 1..4096")

    @field_validator("batch_size", mode="before")
    @classmethod
    def _number_is_of_the_data(cls, batch_size: Any) -> Any:
        if isinstance(batch_size, int):
            raise ValueError(f"{batch_size}: a number is data.batch_size={batch_size}")
        return batch_size


# What sbatch reads from the head of a script, a line each.
_Name = Annotated[str, Field(pattern=r"^[\w.,:@/+-]+$")]
_Line = Annotated[str, Field(pattern=r"^[^\n]+$")]


class SlurmConfig(Section):
    """What a cluster is asked for beside the devices of `accelerator`."""

    partition: _Name | None
    account: _Name | None
    qos: _Name | None
    time: str | None
    warning_seconds: Annotated[int, Field(ge=1, le=65535)]  # SLURM takes no more
    options: dict[_Name, bool | int | _Line] | None
    setup: list[_Line]
    command: _Line | None

    @field_validator("time", mode="before")
    @classmethod
    def _is_a_time(cls, time: Any) -> Any:
        if time is not None and not re.fullmatch(r"\d+|(\d+-)?\d+(:\d\d){1,2}|\d+-\d+", str(time)):
            raise ValueError(f"{time}; give minutes, or as in 24:00:00 and 2-00:00:00")
        return time if time is None else str(time)


class SbatchConfig(TrainConfig):
    """conf/sbatch.yaml: a training run, and the job that it is to be."""

    slurm: SlurmConfig


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
