"""The schemas of a training run that is to be elsewhere: conf/plan.yaml and conf/sbatch.yaml."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from vgglab.config.schema import Section, TrainConfig


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
