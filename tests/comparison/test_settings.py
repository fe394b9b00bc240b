"""What differs, in the words of the command line."""

from omegaconf import OmegaConf

from vgglab.comparison.settings import (
    Settings,
    differing,
    implied_by_choices,
    settings_of,
    short_names,
)


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
    implied = implied_by_choices(runs, differing(runs))
    inside = ["optimizer._target_", "optimizer.lr", "optimizer.momentum", "optimizer.betas"]
    assert implied == {"optimizer": inside}  # label_smoothing is of another group


def test_an_experiment_stands_for_settings_of_every_group() -> None:
    adam = settings(ADAM, experiment="b", optimizer="adamw")
    runs = [settings(SGD, experiment="a", optimizer="sgd"), adam]
    assert implied_by_choices(runs, differing(runs)) == {"experiment": differing(runs)}


def test_what_a_command_line_named_is_always_shown() -> None:
    runs = [
        settings(SGD, ("optimizer.lr=0.1",), optimizer="sgd"),
        settings(ADAM, optimizer="adamw"),
    ]
    assert "optimizer.lr" not in implied_by_choices(runs, differing(runs))["optimizer"]


def test_a_choice_that_a_run_does_not_say_stands_for_nothing() -> None:
    runs = [settings(SGD, optimizer="sgd"), settings(ADAM)]
    assert implied_by_choices(runs, differing(runs)) == {}


def test_a_file_that_has_changed_since_stands_for_nothing() -> None:
    changed = SGD.replace("0.9", "0.95")
    runs = [
        settings(SGD, optimizer="sgd"),
        settings(changed, optimizer="sgd"),
        settings(ADAM, optimizer="adamw"),
    ]
    assert "optimizer.momentum" not in implied_by_choices(runs, differing(runs))["optimizer"]


def test_short_names_stay_different() -> None:
    names = ["optimizer.lr", "scheduler.warmup.lr", "scheduler.lr", "seed"]
    found = short_names(names)
    assert found["seed"] == "seed"
    assert found["scheduler.warmup.lr"] == "warmup.lr"
    assert len(set(found.values())) == len(names)
