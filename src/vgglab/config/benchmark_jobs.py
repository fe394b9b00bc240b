"""The schemas of scripts/benchmark.py: one for each file of conf/target."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from vgglab.config.schema import AcceleratorConfig, Data, Job, Network, TrainerConfig


class Benchmark(Job):
    """conf/benchmark.yaml: what all targets have."""

    target: str
    rounds: PositiveInt
    format: Literal["table", "json"]


class ProcessesBenchmark(Benchmark):
    """conf/target/processes.yaml"""

    model: Network
    processes: Annotated[int, Field(ge=2)]
    batch_size: PositiveInt
    size: PositiveInt
    steps: PositiveInt


class DashboardBenchmark(Benchmark):
    """conf/target/dashboard.yaml"""

    settings: list[str]


class LoaderBenchmark(Benchmark):
    """conf/target/loader.yaml"""

    data: Data
    model: Network
    trainer: TrainerConfig
    accelerator: AcceleratorConfig
    steps: PositiveInt
    seed: NonNegativeInt


class DecodingBenchmark(Benchmark):
    """conf/target/decoding.yaml"""

    images: str
    limit: PositiveInt
    seed: NonNegativeInt


BENCHMARKS: dict[str, type[Benchmark]] = {
    "processes": ProcessesBenchmark,
    "dashboard": DashboardBenchmark,
    "loader": LoaderBenchmark,
    "decoding": DecodingBenchmark,
}
