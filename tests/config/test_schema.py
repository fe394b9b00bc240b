"""The composed configuration as a typed object."""

from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY, Compose
from vgglab.config.jobs import EvaluateConfig
from vgglab.config.schema import TrainConfig, parse, plain
from vgglab.errors import InputError

# What a configuration needs besides its own defaults.
MISSING = {"image_folder": "data.root=nowhere", "imagenet_stream": "data.uri=nowhere"}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (group, choice)
        for group in (
            "model",
            "data",
            "optimizer",
            "scheduler",
            "trainer",
            "accelerator",
            "logger",
            "experiment",
            "debug",
        )
        for choice in choices(group)
    ],
)
def test_every_choice_of_every_group_is_valid(group: str, choice: str, composed: Compose) -> None:
    extra = [MISSING[choice]] if choice in MISSING else []
    # The key is new where the group's default is null.
    override = f"{group}={choice}"
    parse(composed("train", override, *extra), TrainConfig)


@pytest.mark.parametrize("choice", ["early_stopping", "ema"])
def test_callbacks_join_the_default_ones(choice: str, composed: Compose) -> None:
    job = parse(composed("train", f"callbacks=[default,{choice}]"), TrainConfig)
    assert {choice, "best_checkpoint", "progress"} <= set(job.callbacks)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=0", "trainer.max_epochs=0: .*greater than 0"),
        ("trainer.precision=16", "trainer.precision=16: .*'bf16-mixed'"),
        ("accelerator.devices=-1", "accelerator.devices"),
        ("seed=-1", "seed=-1"),
        ("seed=zero", "seed='zero'"),
        ("test=perhaps", "test='perhaps'"),
        ("+extra=1", "extra: no such setting in the configuration"),
        ("+accelerator.deviecs=2", r"accelerator\.deviecs: .* did you mean devices\?"),
        ("callbacks.finite.max_skips=often", r"callbacks\.finite\.max_skips='often'"),
        ("+scheduler.warmup=3", r"scheduler\.warmup: .* did you mean warmup_"),
        ("accelerator.gradient_compression=bf16", "needs strategy=ddp, not auto"),
        ("accelerator.tensor_parallel=2", "needs strategy=hybrid, not auto"),
        ("accelerator.powersgd_start_step=1", "greater than or equal to 2"),
        ("scheduler.warmup_fraction=1.5", r"scheduler\.warmup_fraction=1\.5: .*less than 1"),
    ],
)
def test_wrong_settings_are_named(override: str, message: str, composed: Compose) -> None:
    with pytest.raises(InputError, match=message):
        parse(composed("train", override), TrainConfig)


def test_rules_about_several_settings(composed: Compose) -> None:
    with pytest.raises(InputError, match="bf16-mixed"):
        parse(composed("train", "accelerator=cpu", "trainer.precision=16-mixed"), TrainConfig)
    with pytest.raises(InputError, match="sync_batchnorm=true needs GPUs"):
        parse(composed("train", "accelerator=cpu", "accelerator.sync_batchnorm=true"), TrainConfig)


def test_plain_holds_containers_alone_and_parses_back(composed: Compose) -> None:
    job = parse(composed("train", *TINY), TrainConfig)

    def only_plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and only_plain(v) for k, v in value.items())
        if isinstance(value, list | tuple):
            return all(map(only_plain, value))
        return value is None or type(value) in (bool, int, float, str)

    settings = plain(job)
    assert only_plain(settings)
    assert plain(TrainConfig.model_validate(settings)) == settings


def test_the_composition_is_kept_as_text(composed: Compose, tmp_path: Path) -> None:
    job = parse(composed("train", *TINY, "seed=7"), TrainConfig)
    assert "seed: 7" in job.composition["config.yaml"]
    assert not job.is_sweep


def test_evaluation_needs_no_group(composed: Compose) -> None:
    job = parse(composed("evaluate", "checkpoint=some.ckpt"), EvaluateConfig)
    assert job.data is None
    assert job.model is None


@pytest.mark.parametrize(
    ("name", "override", "line"),
    [
        ("evaluate", "scales=36", "scales=36: input should be a valid list"),
        (
            "train",
            "data.train_scale=[36]",
            "data.train_scale=[36]: input should be a valid integer, or",
        ),
        ("train", "trainer.max_steps=x", "trainer.max_steps='x': input should be a valid integer"),
    ],
)
def test_a_setting_of_several_types_is_named_as_the_user_wrote_it(
    composed: Compose, name: str, override: str, line: str
) -> None:
    schema = {"evaluate": EvaluateConfig, "train": TrainConfig}[name]
    with pytest.raises(InputError) as caught:
        parse(composed(name, override), schema)
    assert str(caught.value).startswith(line)
