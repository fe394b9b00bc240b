"""What differs, in the words of the command line."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vgglab.comparison.settings import (
    Settings,
    differing,
    settings_of,
    short_names,
    told_by_choices,
    typed,
)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["C"])),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@trials(deadline=None, max_examples=60)
@given(plain)
def test_hydra_reads_what_is_written_as_the_same_value(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"name={typed(value)}")
    assert override.value() == value or str(override.value()) == str(value)
    read = override.value()
    assert type(read) is type(value) or isinstance(value, str)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "0.001"),
        (True, "true"),
        (None, "null"),
        ([0.9, 0.999], "[0.9,0.999]"),
        ("cosine", "cosine"),
        ("logs/a.ckpt", "logs/a.ckpt"),
        ("1e-3", "'1e-3'"),
        ("True", "'True'"),
        ("a b, c=d", "'a b, c=d'"),
        ("", "''"),
        ({"conv1_2": 1.0}, "{conv1_2:1.0}"),
        ("${optimizer.lr}", "${optimizer.lr}"),
    ],
)
def test_values_as_one_would_type_them(value: Any, text: str) -> None:
    assert typed(value) == text


def settings(content: str, overrides: tuple[str, ...] = (), **choices: str) -> Settings:
    return settings_of(OmegaConf.create(content), choices, overrides)


def test_only_what_differs() -> None:
    one = settings("{optimizer: {lr: 0.1, momentum: 0.9}, trainer: {max_epochs: 2}}")
    two = settings("{optimizer: {lr: 0.2, momentum: 0.9}, trainer: {max_epochs: 2, compile: true}}")
    assert differing([one, two]) == ["optimizer.lr", "trainer.compile"]
    assert differing([one, one]) == []
    assert "trainer.compile" not in one.values  # another version


def test_the_seed_and_the_folder_tell_no_runs_apart_nor_what_refers_to_them() -> None:
    text = "{seed: %d, run_dir: %s, resume: auto, data: {seed: '${seed}'}, a: {b: '${run_dir}'}}"
    one, two = settings(text % (0, "x")), settings(text % (1, "y"))
    assert one.values == two.values == {"data.seed": "${seed}", "a.b": "${run_dir}"}


def test_what_refers_to_a_setting_is_left_to_it() -> None:
    text = "{a: {lr: %s}, b: {peak: '${a.lr}'}, c: '${b.peak}'}"
    one, two = settings(text % 0.1), settings(text % 0.2)
    assert two.values["c"] == "0.2"
    assert differing([one, two]) == ["a.lr"]
    fixed = settings("{a: {lr: 0.1}, b: {peak: 0.2}, c: '${b.peak}'}")
    assert differing([one, fixed]) == ["b.peak"]


def test_references_without_end_and_resolvers_stay_as_they_are() -> None:
    found = settings("{a: '${b}', b: '${a}', c: '${oc.env:HOME}', d: '${nowhere}', e: 'x${a}'}")
    assert found.values["c"] == "'${oc.env:HOME}'"
    assert found.values["d"] == "${nowhere}"
    assert found.values["e"] == "'x${a}'"
    assert set(found.values) == {"a", "b", "c", "d", "e"}


def test_left_out_are_settings_and_sections() -> None:
    config = OmegaConf.create("{data: {root: x, size: 3}, database: 1, logger: {csv: {a: 1}}}")
    found = settings_of(config, {"logger": "csv"}, [], ["data.root", "logger"])
    assert list(found.values) == ["data.size", "database"]
    assert not found.choices


SGD = "{optimizer: {_target_: SGD, lr: 0.1, momentum: 0.9}, loss: {label_smoothing: 0.1}}"
ADAM = "{optimizer: {_target_: AdamW, lr: 0.001, betas: [0.9, 0.999]}, loss: {label_smoothing: 0}}"


def test_a_choice_of_files_stands_for_what_is_in_them() -> None:
    runs = [settings(SGD, optimizer="sgd"), settings(ADAM, optimizer="adamw")]
    told = told_by_choices(runs, differing(runs))
    inside = ["optimizer._target_", "optimizer.lr", "optimizer.momentum", "optimizer.betas"]
    assert told == {"optimizer": inside}  # label_smoothing is of another group


def test_an_experiment_stands_for_settings_of_every_group() -> None:
    adam = settings(ADAM, experiment="b", optimizer="adamw")
    runs = [settings(SGD, experiment="a", optimizer="sgd"), adam]
    assert told_by_choices(runs, differing(runs)) == {"experiment": differing(runs)}


def test_what_a_command_line_named_is_always_shown() -> None:
    runs = [
        settings(SGD, ("optimizer.lr=0.1",), optimizer="sgd"),
        settings(ADAM, optimizer="adamw"),
    ]
    assert "optimizer.lr" not in told_by_choices(runs, differing(runs))["optimizer"]


def test_a_choice_that_a_run_does_not_say_stands_for_nothing() -> None:
    runs = [settings(SGD, optimizer="sgd"), settings(ADAM)]
    assert told_by_choices(runs, differing(runs)) == {}


def test_a_file_that_has_changed_since_stands_for_nothing() -> None:
    changed = SGD.replace("0.9", "0.95")
    runs = [
        settings(SGD, optimizer="sgd"),
        settings(changed, optimizer="sgd"),
        settings(ADAM, optimizer="adamw"),
    ]
    assert "optimizer.momentum" not in told_by_choices(runs, differing(runs))["optimizer"]


def test_short_names_stay_different() -> None:
    names = ["optimizer.lr", "scheduler.warmup.lr", "scheduler.lr", "seed"]
    found = short_names(names)
    assert found["seed"] == "seed"
    assert found["scheduler.warmup.lr"] == "warmup.lr"
    assert len(set(found.values())) == len(names)
