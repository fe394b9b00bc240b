"""The schemas of the scripts' configurations, beside that of training: conf/NAME.yaml."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from vgglab.config.schema import Data, Device, Job, Network

EvaluationPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
# Sections 3.2 and 4 of the paper; vgglab.evaluation.protocols says what they do.
EvaluationProtocol = Literal["center_crop", "dense", "multi_crop", "dense_multi_crop"]
Several = Annotated[
    list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]
"""A list, or its one item alone."""
Scales = Annotated[list[PositiveInt], Field(min_length=1)]


class EvaluateConfig(Job):
    """conf/evaluate.yaml"""

    checkpoint: Annotated[Several, Field(min_length=1)] | None
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
    sheet: str | None
    on_error: Literal["raise", "skip"]
    device: Device


class PaperTablesConfig(Job):
    """conf/paper_tables.yaml"""

    table: list[int]
    checkpoints: Several
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
    on_error: Literal["raise", "skip"]


class LinearProbeConfig(Job):
    """conf/linear_probe.yaml"""

    features: Annotated[Several, Field(min_length=1)]
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


class CompareConfig(Job):
    """conf/compare.yaml"""

    runs: Annotated[Several, Field(min_length=1)]
    sort: str
    ignore: list[str]
    price: PositiveFloat | None
    format: Literal["table", "markdown", "csv", "json"]


class CompareStacksConfig(Job):
    """conf/compare_stacks.yaml"""

    channels: PositiveInt
    size: PositiveInt
    batch_size: PositiveInt
    repeats: PositiveInt
    device: Device
    format: Literal["table", "json"]


class DashboardConfig(Job):
    """conf/dashboard.yaml"""

    logdir: str
    port: Annotated[int, Field(ge=1, le=65535)]
    reload_seconds: PositiveInt

    @field_validator("logdir", mode="before")
    @classmethod
    def _one_folder(cls, logdir: Any) -> Any:
        """As `vgglab.config.positional` writes a folder alone."""
        if isinstance(logdir, list):
            if len(logdir) != 1:
                raise ValueError(f"{logdir}: TensorBoard takes one folder, with all that is in it")
            return logdir[0]
        return logdir


class PrepareImagenetConfig(Job):
    """conf/prepare_imagenet.yaml"""

    archives: str
    root: str


class ShardDatasetConfig(Job):
    """conf/shard_dataset.yaml"""

    data: Data
    output: str
    shortest_side: PositiveInt | None
    quality: Annotated[int, Field(ge=1, le=100)]
    chunk_megabytes: Annotated[int, Field(ge=1, le=1000)]  # litdata's offsets have 32 bits
    seed: NonNegativeInt

    @field_validator("output")
    @classmethod
    def _is_local(cls, output: str) -> str:
        if "://" in output:
            raise ValueError(
                f"{output}: give a local folder; docs/data.md has the command that copies it"
            )
        return output


class ReplayConfig(Job):
    """conf/replay.yaml"""

    run: str | None
    batch: str | None

    @model_validator(mode="after")
    def _has_one(self) -> "ReplayConfig":
        if (self.run is None) == (self.batch is None):
            raise ValueError("give a run's folder, or batch=RUN/nonfinite/FILE.pt")
        return self


class ReportConfig(Job):
    """conf/report.yaml"""

    runs: Annotated[Several, Field(min_length=1)]


class ScreenshotsConfig(Job):
    """conf/screenshots.yaml"""

    logs: str
    run: str
    comparison: str | None
    sheet: str | None
    output: str


class ExportWeightsConfig(Job):
    """conf/export_weights.yaml"""

    checkpoint: str
    output: str
