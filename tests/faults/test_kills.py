"""Issue 4: whatever happens to a run, resumed it ends as if nothing had happened."""

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock

from tests.faults.launched import LaunchedRun, undergo_launched
from tests.faults.trials import Forks, Reference, Run, Trial, make_reference, undergo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TRIALS = 200
TRIES = 5  # a process may end before its moment has come
SAMPLE = (0, 5, 6, 7, 10, 14, 16, 17, 18)


@pytest.fixture(scope="session")
def forks() -> Forks:
    return Forks()


@pytest.fixture(scope="session")
def reference(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """The undisturbed run of a configuration, made once for all workers of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-") else shared

    def made(configuration: str) -> Reference:
        folder = shared / configuration.replace(" ", "_")
        summary = folder / "reference.json"
        with FileLock(f"{folder}.lock"):
            if not summary.exists():
                folder.mkdir()
                found = make_reference(configuration, folder, forks)
                summary.write_text(json.dumps(asdict(found), default=str))
        return Reference(**{k: Path(v) for k, v in json.loads(summary.read_text()).items()})

    return made


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_disturbed_run_ends_as_if_undisturbed(
    seed: int,
    forks: Forks,
    reference: Callable[[str], Reference],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    attempt(seed, forks, reference, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SAMPLE)
def test_a_sample_of_them(
    seed: int,
    forks: Forks,
    reference: Callable[[str], Reference],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    attempt(seed, forks, reference, tmp_path, record_property)


def attempt(
    seed: int,
    forks: Forks,
    reference: Callable[[str], Reference],
    folder: Path,
    record_property: Callable[[str, object], None],
) -> None:
    trial = Trial(seed)
    record_property("trial", trial.kind)
    undisturbed = reference(trial.configuration)
    for number in range(TRIES):
        place = folder / str(number)
        place.mkdir()
        run: Run | LaunchedRun
        if trial.launched:
            run = LaunchedRun(trial.overrides, place)
        else:
            run = Run(undisturbed.job, 1 + trial.several, place, forks)
        try:
            if (undergo_launched if trial.launched else undergo)(trial, run, undisturbed):
                return
        except Exception:  # noqa: BLE001 - whatever it is, the seed must be told
            pytest.fail(
                f"trial {seed}, {trial.kind}, {trial.configuration}: {'; '.join(run.story)}\n"
                f"{traceback.format_exc(limit=-2)}\nalone: pytest -n 0 -m faults "
                f"'tests/faults/test_kills.py::test_a_disturbed_run_ends_as_if_undisturbed[{seed}]'",
                pytrace=False,
            )
        finally:
            run.kill()
    pytest.fail("nothing happened to it")
