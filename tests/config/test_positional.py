"""Paths alone on the command line."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vgglab.config.positional import paths_as_setting
from vgglab.errors import InputError


def runs(*words: str) -> list[str]:
    first, *others = paths_as_setting(words, "runs")
    assert not others
    value = OverridesParser.create().parse_override(first).value()
    assert isinstance(value, list)
    return value


@pytest.mark.parametrize(
    "path",
    [
        "logs/a",
        "logs/lr=0.1,seed=0",
        "it's",
        "a b",
        "x[1]{2}",
        "back\\slash\\",
        "./lr=0.1",
        "é",
        "*",
    ],
)
def test_any_path_arrives_as_it_is(path: str) -> None:
    assert runs(path, "logs/other") == [path, "logs/other"]


def test_settings_and_options_stay() -> None:
    words = ["logs/a", "sort=test/loss", "hydra/job_logging=plain", "+x=1", "--cfg", "job", "~y"]
    assert paths_as_setting(words, "runs")[1:] == [
        "sort=test/loss",
        "hydra/job_logging=plain",
        "+x=1",
        "--cfg",
        "job",
    ]
    assert paths_as_setting(["runs=[a]", "--help"], "runs") == ["runs=[a]", "--help"]


def test_a_folder_with_a_name_like_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths_as_setting(["lr=0.1"], "runs") == ["lr=0.1"]
    (tmp_path / "lr=0.1").mkdir()
    assert runs("lr=0.1") == ["lr=0.1"]


def test_both_are_one_too_many() -> None:
    with pytest.raises(InputError, match="logs/a"):
        paths_as_setting(["runs=[x]", "logs/a"], "runs")
