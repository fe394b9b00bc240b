"""What a run's folder holds, read and checked: the folder may be a stranger's, or half written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    model_validator,
)

from vgglab.config.stored import CONFIG, Stored, read_stored
from vgglab.files import read_as
from vgglab.reporting.history import read_history
from vgglab.reporting.status import Status, read_status

SKIPPED = "skipped.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Git(_Part):
    commit: str
    dirty: bool
    diff_sha256: str


class Gpu(_Part):
    name: str
    memory: NonNegativeInt
    """Bytes."""


class Hardware(_Part):
    cpu: str
    cores: int | None
    memory: NonNegativeInt
    """Bytes."""
    gpus: list[Gpu]


class Environment(_Part):
    """`environment.json`"""

    command: str
    started: str
    versions: dict[str, str | None]
    git: Git | None
    hardware: Hardware
    os: str


class Confusion(_Part):
    """`confusion.json`: counts of test images, true class by predicted class."""

    classes: Annotated[list[str], Field(min_length=1)]
    matrix: list[list[Annotated[int, Field(ge=0, le=2**53)]]]

    @model_validator(mode="after")
    def _is_square(self) -> "Confusion":
        count = len(self.classes)
        if len(self.matrix) != count or any(len(row) != count for row in self.matrix):
            raise ValueError("not a row and a column for each class")
        return self


class Mistake(_Part):
    """A test image that the network takes for something else."""

    true: str
    predicted: str
    probability: float
    """Of the predicted class."""
    true_probability: float
    index: int
    """Its place in the test set."""
    image: Base64Bytes
    """A PNG."""


class Mistakes(_Part):
    """`mistakes.json`: the most confident first."""

    mistakes: list[Mistake]


class Skipped(_Part):
    """`skipped.json`: what could not be read and was passed over."""

    count: NonNegativeInt
    images: list[str]
    """Each one's name and the reason."""


class Layer(_Part):
    name: str
    type: str
    output: tuple[int, ...] | None
    parameters: int
    mult_adds: int
    receptive_field: int | None


class NetworkRecord(_Part):
    """`network.json`"""

    input_size: tuple[int, int, int]
    parameters: int
    trainable: int
    mult_adds: int
    layers: list[Layer]


@dataclass(frozen=True)
class RunRecord:
    """A run's folder; None and what is empty stand for files that are not there."""

    status: Status | None
    metrics: dict[str, float] | None
    history: list[dict[str, float]]
    confusion: Confusion | None
    mistakes: list[Mistake]
    skipped: list[str]
    """Images that could not be read, each one's name and the reason."""
    environment: Environment | None
    network: NetworkRecord | None
    stored: Stored | None
    """What it was composed of."""
    config: str | None
    """The same as it was written."""
    has_checkpoint: bool


def read_skipped(run_dir: Path) -> list[str]:
    """A line for each image that could not be read; none where there is no such file.

    Raises:
        InputError: the file is something else.
    """
    found = read_as(run_dir / SKIPPED, Skipped)
    return [] if found is None else found.images


def read_record(run_dir: Path) -> RunRecord:
    """Read what there is.

    Raises:
        InputError: a file is damaged, or not what a run writes.
        OSError: the configuration cannot be read.
    """
    found = read_as(run_dir / "mistakes.json", Mistakes)
    config = run_dir / CONFIG
    return RunRecord(
        status=read_status(run_dir),
        metrics=read_as(run_dir / "metrics.json", dict[str, float]),
        history=read_history(run_dir / "metrics.csv"),
        confusion=read_as(run_dir / "confusion.json", Confusion),
        mistakes=found.mistakes if found is not None else [],
        skipped=read_skipped(run_dir),
        environment=read_as(run_dir / "environment.json", Environment),
        network=read_as(run_dir / "network.json", NetworkRecord),
        stored=read_stored(run_dir) if config.exists() else None,
        config=config.read_text(encoding="utf-8") if config.exists() else None,
        has_checkpoint=any((run_dir / "checkpoints").glob("last*.ckpt")),
    )
