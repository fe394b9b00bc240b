"""Where runs are found."""

from pathlib import Path

import pytest

from vgglab.comparison.finding import common_names, find_runs
from vgglab.errors import InputError


def runs(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name / ".hydra").mkdir(parents=True)
        (root / name / ".hydra/config.yaml").touch()
    return [root / name for name in names]


def test_folders_parents_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = runs(tmp_path, "x/lr=0.1,seed=0", "x/sweep/0", "y/deep/er/run")
    (tmp_path / "x/notes.txt").touch()
    assert find_runs([str(tmp_path)]) == [a, b, c]
    assert find_runs([str(a)]) == [a]
    assert find_runs([str(tmp_path / "x/*")]) == [a, b]
    assert find_runs([str(tmp_path / "**")]) == [a, b, c]
    monkeypatch.chdir(tmp_path)
    assert find_runs(["x/*", "x", "y", str(c)]) == [
        Path("x/lr=0.1,seed=0"),
        Path("x/sweep/0"),
        *([Path("y/deep/er/run")]),
    ]


def test_a_run_within_a_run_is_found_and_hidden_folders_are_not(tmp_path: Path) -> None:
    found = runs(tmp_path, "mine", "mine/again")
    runs(tmp_path, "mine/.trash")
    assert find_runs([str(tmp_path)]) == found


@pytest.mark.parametrize("place", ["nowhere", "no*", "file"])
def test_what_is_not_there(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=place.replace("*", r"\*")):
        find_runs([str(tmp_path), str(tmp_path / place)])


def test_names_say_what_tells_folders_apart(tmp_path: Path) -> None:
    found = runs(tmp_path, "train/a", "train/b", "evaluate/a")
    assert common_names(found) == ["train/a", "train/b", "evaluate/a"]
    assert common_names(found[:1]) == ["a"]
