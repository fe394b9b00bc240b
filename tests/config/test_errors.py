"""One line for what a person can mend."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException

from tests.conftest import ROOT
from vgglab.config.errors import did_you_mean, explain
from vgglab.errors import InputError


@pytest.mark.parametrize(
    "said", ["sbatch: error: no such\npartition", 'Could not detect "srun", are you on a cluster?']
)
def test_what_slurm_refuses_is_one_line(said: str) -> None:
    line = explain(RuntimeError(said))
    assert line is not None
    assert line.startswith("hydra/launcher=slurm: ")
    assert "\n" not in line


def test_a_launcher_that_is_not_installed_says_how_to_have_it() -> None:
    missing = MissingConfigException("", "hydra/launcher/submitit_slurm", ["basic"])
    assert explain(missing) == "hydra/launcher=slurm needs submitit: uv sync --extra slurm"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model=vgg61"], ["model=vgg61", "conf/model", "did you mean vgg1", "vgg16_bn"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean max_epochs?", "precision"]),
        (["max_epochs=3"], ["max_epochs", "the configuration", "trainer"]),
        (["trainer.max_epochs=[1"], ["cannot read the override 'trainer.max_epochs=[1'"]),
        (["data.root=a/[b]*.png"], ["""; quote it: 'data.root="a/[b]*.png"'"""]),
        (["model=null"], ["string or a list"]),
    ],
)
def test_what_hydra_refuses_is_explained(overrides: list[str], parts: list[str]) -> None:
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(Exception) as caught,  # noqa: PT011 - its kind is Hydra's business
    ):
        compose("train", overrides=overrides)
    line = explain(caught.value)
    assert line is not None
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_bugs_are_not_explained() -> None:
    assert explain(ValueError("ours")) is None
    assert explain(KeyError("ours")) is None
    assert explain(InputError("two\n lines")) == "two lines"


def test_did_you_mean_says_nothing_where_nothing_is_close() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "choices: a, b"
    assert did_you_mean("optimiser", ["optimizer", "data"]).startswith("did you mean optimizer?")
