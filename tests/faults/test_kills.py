"""Issue 4: whatever happens to a run, resumed it ends as if nothing had happened."""

import json
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock

from tests.faults.forked import ForkedRun, Forks, Reference, make_reference
from tests.faults.launched import LaunchedRun
from tests.faults.ordeal import LostSaveError, undergo
from tests.faults.trials import Trial, overrides_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

TRIALS = 200
TRIES = 8  # a process may end before its moment has come
# Of the kinds with one process, and of few configurations: each costs an undisturbed run.
SAMPLE = (4, 8, 13, 22, 32, 51, 55, 72, 117, 146)

Attempt = Callable[[int], None]


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


@pytest.fixture
def attempt(
    forks: Forks,
    reference: Callable[[str], Reference],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Attempt:
    """attempt(seed) tries until something has happened to a run."""

    def once(trial: Trial, undisturbed: Reference, within: float, folder: Path) -> bool:
        folder.mkdir()
        run: ForkedRun | LaunchedRun
        if trial.launched:
            run = LaunchedRun(overrides_of(trial.configuration), folder)
        else:
            run = ForkedRun(undisturbed.job, 1 + trial.several, folder, forks)
        try:
            return undergo(trial, run, undisturbed, within)
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed must be told
            record_property("lost", isinstance(error, LostSaveError))
            pytest.fail(
                f"trial {trial.seed}, {trial.kind}, {trial.configuration}: {'; '.join(run.story)}\n"
                f"{traceback.format_exc(limit=-2)}\nalone: pytest -n 0 -m faults "
                f"'tests/faults/test_kills.py::test_a_disturbed_run_ends_as_if_undisturbed[{trial.seed}]'",
                pytrace=False,
            )
        finally:
            run.kill()
            record_property("saves", len(list(folder.glob("process*/saves/*"))))

    def attempted(seed: int) -> None:
        trial = Trial(seed)
        record_property("trial", trial.kind)
        undisturbed = reference(trial.configuration)
        for number in range(TRIES):
            within = undisturbed.seconds / 2**number  # it may have run on a busier machine
            happened = once(trial, undisturbed, within, tmp_path / str(number))
            shutil.rmtree(tmp_path / str(number))
            if happened:
                return
        pytest.fail("nothing happened to it")

    return attempted


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_disturbed_run_ends_as_if_undisturbed(seed: int, attempt: Attempt) -> None:
    attempt(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SAMPLE)
def test_a_sample_of_them(seed: int, attempt: Attempt) -> None:
    attempt(seed)
