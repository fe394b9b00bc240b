"""What several processes are measured against."""

import pytest

from tests.conftest import Compose
from vgglab.benchmarks.processes import Scaling, measure_processes
from vgglab.config.benchmark_jobs import ProcessesBenchmark
from vgglab.config.schema import parse
from vgglab.errors import InputError

TINY = ("model=vgg11", "model.width=0.0625", "batch_size=2", "steps=1", "rounds=2")


def test_every_round_measures_all_three(composed: Compose) -> None:
    measured = measure_processes(parse(composed("benchmark", *TINY), ProcessesBenchmark))
    for rates in (measured.alone, measured.apart, measured.together):
        assert len(rates) == 2
        assert min(rates) > 0


def test_what_the_ratios_are() -> None:
    measured = Scaling(
        *("vgg11", 1, 32, 2, 2, 1),
        alone=[10.0, 10.0, 20.0],
        apart=[18.0, 20.0, 36.0],
        together=[9.0, 18.0, 36.0],
        load=[0.0, 0.0, 0.0],
        cpu="one",
        torch="2",
    )
    assert measured.scaling == [0.45, 0.9, 0.9]
    assert measured.exchange == [0.5, 0.9, 1.0]
    assert measured.to_dict()["scaling"] == measured.to_dict()["exchange"] == 0.9


def test_more_processes_than_cores_are_refused(composed: Compose) -> None:
    job = parse(composed("benchmark", *TINY, "processes=4096"), ProcessesBenchmark)
    with pytest.raises(InputError, match="processes=4096, but there are"):
        measure_processes(job)
