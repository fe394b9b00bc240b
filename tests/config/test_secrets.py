"""What looks like a secret is not stored."""

import copy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import ROOT, TINY
from vgglab.config.schema import TrainConfig, parse, plain
from vgglab.config.secrets import HIDDEN, line_without_secrets, without_secrets


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
        (r"name=https\://me\:abc@host", r"name=https\://***@host"),
        ("name=https://me:p@abc@host/x", "name=https://***@host/x"),
        ("+x.api-key=abc", "+x.api-key=***"),
        ("+x.access_key=abc,+y.pwd=abc", "+x.access_key=***,+y.pwd=***"),
        (
            "+x={Authorization: Bearer abc, b: {passphrase: abc}}",
            "+x={Authorization: ***, b: {passphrase: ***}}",
        ),
        ("data.mirrors=[https://h/f?sig=abc]", "data.mirrors=[https://h/f?sig=***"),
        ("+x.key=abc,+y.dsn=abc,seed=1", "+x.key=***,+y.dsn=***,seed=1"),
        ("+x={auth: abc, 'webhook': 'a b', b: 1}", "+x={auth: ***, 'webhook': ***, b: 1}"),
        ("root=https://h/f?key=abc", "root=https://h/f?key=***"),
        ("[http://abc@host/a,http://host/b@c]", "[http://***@host/a,http://host/b@c]"),
    ],
)
def test_texts(text: str, stored: str) -> None:
    assert without_secrets(text) == stored
    assert without_secrets(stored) == stored


@pytest.mark.parametrize("name", ["key", "Auth", "dsn", "webhook"])
def test_bare_names(name: str) -> None:
    found = without_secrets({"logger": {name: "abc"}, f"data.{name}": ["abc"]})
    assert found == {"logger": {name: HIDDEN}, f"data.{name}": [HIDDEN]}


@pytest.mark.parametrize(
    "name", ["monitor_key", "keys", "key_frames", "sort-key", "key.order", "author", "webhooks"]
)
def test_names_that_hold_the_bare_ones(name: str) -> None:
    assert without_secrets({name: "abc"}) == {name: "abc"}
    assert without_secrets(f"{name}=abc") == f"{name}=abc"
    assert without_secrets(f"{{{name}: abc}}") == f"{{{name}: abc}}"


def test_no_setting_of_ours_is_hidden() -> None:
    for path in (ROOT / "conf").rglob("*.yaml"):
        settings = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert without_secrets(settings) == settings, path


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("call to http://me:hunter2@h:9/api failed", "call to http://***@h:9/api failed"),
        ("model.hub_token='a b': not a number", "model.hub_token=***: not a number"),
        ("cannot read '+x.api_key=a(', a bracket", "cannot read '+x.api_key=***', a bracket"),
        ("model.hub_token: no such setting; choices: a", None),
        ("the key: a password of http://host/b@c, lr=0.1", None),
    ],
)
def test_lines_for_people_keep_their_words(line: str, shown: str | None) -> None:
    assert line_without_secrets(line) == (shown or line)


COUNTS = ["model.num_tokens=4", "model.class_tokens=4", "tokenizer=bert", "{token_dim: 8, a: b}"]


@pytest.mark.parametrize(
    "text", ["optimizer.lr=0.1", "data.root=/a@b", "${now:%H:%M}", "a: b", *COUNTS]
)
def test_other_texts_stay(text: str) -> None:
    assert without_secrets(text) == text


words = st.sampled_from(["apiKey", "private_key", "my-password", "secrets", "credential_1"])
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


def test_numbers_of_tokens_are_no_secrets() -> None:
    counts = {"num_tokens": 4, "class_tokens": 1, "tokenizer": "bert", "tokens": [0.5]}
    assert without_secrets(counts) == counts
    assert without_secrets({"hub_token": "12"}) == {"hub_token": HIDDEN}


@pytest.mark.parametrize("text", ["token", "token:", "a=", ",a", "a: ", "'token=", "x://", "a@"])
def test_long_texts_take_no_longer_than_they_are(text: str) -> None:
    line_without_secrets(text * 100_000)
    without_secrets(text * 100_000)  # minutes and more, where the time is quadratic


def test_switches_are_no_secrets() -> None:
    assert without_secrets({"token": None, "use_token": True}) == {"token": None, "use_token": True}


def test_no_secret_is_kept_of_what_was_composed(tmp_path: Path) -> None:
    secrets = [r"name=https\://me\:hunter2@host", "+hydra.job.env_set.A=hunter2"]
    secrets += ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [*TINY, *secrets, "run_dir=x"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        OmegaConf.save(config, tmp_path / "multirun.yaml")  # as Hydra does
        settings = compose("train", [*TINY, *secrets, "run_dir=x"])
    try:
        job = parse(settings, TrainConfig)
    finally:
        HydraConfig.instance().cfg = None
    assert job.name == "https://me:hunter2@host"
    assert plain(job)["name"] == "https://***@host"
    assert set(job.composition) == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert job.is_sweep
    for text in [*job.composition.values(), (tmp_path / "multirun.yaml").read_text()]:
        assert "hunter2" not in text
        assert HIDDEN in text
