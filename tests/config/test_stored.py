"""What a run's folder says of its configuration."""

from pathlib import Path

import pytest

from vgglab.config.stored import read_stored
from vgglab.errors import InputError

HYDRA = """
hydra:
  runtime:
    output_dir: /somewhere
    choices: {model: vgg11, debug: null, hydra/launcher: basic}
"""


def folder(root: Path, **files: str) -> Path:
    (root / ".hydra").mkdir(parents=True)
    for name, text in files.items():
        (root / f".hydra/{name}.yaml").write_text(text)
    return root


def test_all_three_files(tmp_path: Path) -> None:
    config = "run_dir: ${hydra:runtime.output_dir}\nname: ${hydra:runtime.choices.model}\nx: ${a}\n"
    stored = read_stored(folder(tmp_path, config=config, hydra=HYDRA, overrides="- a.b=1\n- c=2\n"))
    assert stored.config["run_dir"] == "/somewhere"
    assert stored.config["name"] == "vgg11"
    assert stored.choices == {"model": "vgg11", "debug": "null"}
    assert stored.overrides == ["a.b=1", "c=2"]


def test_a_choice_of_several_files_is_in_the_overrides(tmp_path: Path) -> None:
    overrides = "- model=[vgg11, mine]\n- callbacks=[default,ema]\n- data.list=[1]\n"
    config = "{model: {}, callbacks: {}, data: {list: [1]}}"
    stored = read_stored(folder(tmp_path, config=config, hydra=HYDRA, overrides=overrides))
    assert stored.choices == {"model": "vgg11", "debug": "null", "callbacks": "[default,ema]"}


def test_the_configuration_alone(tmp_path: Path) -> None:
    stored = read_stored(folder(tmp_path, config="a: 1\n"))
    assert (dict(stored.config), stored.choices, stored.overrides) == ({"a": 1}, {}, [])


@pytest.mark.parametrize("name", ["config", "hydra", "overrides"])
@pytest.mark.parametrize("text", ["a: [", "a: &x 1\nb: *x", "a: !!python/object/new:os.system []"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    files = {"config": "a: 1", name: text}
    with pytest.raises(InputError, match=rf"{name}\.yaml"):
        read_stored(folder(tmp_path, **files))


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml"):
        read_stored(tmp_path)
    with pytest.raises(InputError, match="holds no settings"):
        read_stored(folder(tmp_path, config="- 1"))
