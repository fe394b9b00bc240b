"""What looks like a secret is not stored."""

import copy

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, TINY
from vgglab.config.schema import TrainConfig, parse, plain
from vgglab.config.secrets import HIDDEN, without_secrets


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("+data.hub_token=abc", "+data.hub_token=***"),
        ("data.API_KEY='a b,c=d'", "data.API_KEY=***"),
        ('db.password="a=b"', "db.password=***"),
        ("secret=[a,b]", "secret=***"),
        ("api_key=a,seed=1,Credentials.x=b", "api_key=***,seed=1,Credentials.x=***"),
        ("+data={passwd: abc, root: x}", "+data={passwd: ***, root: x}"),
        ("+hydra.job.env_set.A=abc", "+hydra.job.env_set.A=***"),
        ("root=s3://me:abc@bucket/x", "root=s3://***@bucket/x"),
        ("[http://abc@host/a,http://host/b@c]", "[http://***@host/a,http://host/b@c]"),
    ],
)
def test_texts(text: str, stored: str) -> None:
    assert without_secrets(text) == stored
    assert without_secrets(stored) == stored


@pytest.mark.parametrize("text", ["optimizer.lr=0.1", "data.root=/a@b", "${now:%H:%M}", "a: b"])
def test_other_texts_stay(text: str) -> None:
    assert without_secrets(text) == text


words = st.sampled_from(["token", "HF_TOKEN", "apiKey", "my-password", "secrets", "credential_1"])
# Nothing that the names or the stars hold, so that finding it again means that it leaked.
leaves = st.integers(10**6, 10**9) | st.integers(10**6, 10**9).map(str)
trees = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(words, trees)
def test_nothing_below_a_secret_name_stays(name: str, tree: object) -> None:
    def leaves_of(value: object) -> list[object]:
        if isinstance(value, dict):
            value = list(value.values())
        return (
            [leaf for v in value for leaf in leaves_of(v)] if isinstance(value, list) else [value]
        )

    before = copy.deepcopy(tree)
    hidden = without_secrets({"a": [{name: tree}]})
    assert set(leaves_of(hidden)) <= {HIDDEN}
    assert len(leaves_of(hidden)) == len(leaves_of(tree))
    assert tree == before
    assert without_secrets(hidden) == hidden


def test_switches_are_no_secrets() -> None:
    assert without_secrets({"token": None, "use_token": True}) == {"token": None, "use_token": True}


def test_no_secret_is_kept_of_what_was_composed() -> None:
    secrets = ["name=https://me:hunter2@host", "+hydra.job.env_set.A=hunter2"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*TINY, *secrets, "run_dir=x"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        settings = compose("train", [*TINY, *secrets, "run_dir=x"])
    try:
        job = parse(settings, TrainConfig)
    finally:
        HydraConfig.instance().cfg = None
    assert job.name == "https://me:hunter2@host"
    assert plain(job)["name"] == "https://***@host"
    assert set(job.composition) == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    for text in job.composition.values():
        assert "hunter2" not in text
        assert HIDDEN in text
