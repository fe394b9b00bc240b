"""A run's folder may be a stranger's: what is not as it should be has a name."""

from pathlib import Path

import pytest

from tests.reporting.pages import ENVIRONMENT, change, fill, mistake
from vgglab.errors import InputError
from vgglab.reporting.record import read_record

DAMAGED = {
    "metrics": [{"test/top1": "high"}, [1]],
    "confusion": [
        {"classes": ["a", "b"], "matrix": [[1, 2]]},
        {"classes": ["a"], "matrix": [[1, 2]]},
        {"classes": ["a"], "matrix": [[-1]]},
        {"classes": ["a"], "matrix": [[2**70]]},
        {"classes": [], "matrix": []},
    ],
    "mistakes": [{"mistakes": 3}, {"mistakes": [mistake(image='"><script>')]}, {}],
    "skipped": [{"images": [1]}, ["a.jpg"]],
    "environment": [{}, ENVIRONMENT | {"git": "none"}],
    "network": [{"layers": []}],
    "status": [{"status": "asleep"}],
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, bad in DAMAGED.items() for i in range(len(bad))]
)
def test_a_damaged_file_is_named(name: str, number: int, tmp_path: Path) -> None:
    fill(tmp_path)
    change(tmp_path, name, DAMAGED[name][number])
    with pytest.raises(InputError, match=rf"{name}\.json is not what a run writes"):
        read_record(tmp_path)


def test_half_a_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    whole = (tmp_path / "environment.json").read_bytes()
    (tmp_path / "environment.json").write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"environment\.json"):
        read_record(tmp_path)
