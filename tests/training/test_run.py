"""A whole run in one process: its folder, its metrics, its resume."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, Compose
from tests.training.runs import assert_same_end, history, job, train_and_kill, weights
from vgglab.config.jobs import EvaluateConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.evaluation.evaluate import evaluate
from vgglab.evaluation.trained import load_trained
from vgglab.training.run import _quiet, train


def test_the_run_folder_holds_what_the_design_promises(composed: Compose, tmp_path: Path) -> None:
    result = train(job(composed, run_dir=tmp_path))
    expected = {
        ".hydra/config.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "metrics.json",
        "environment.json",
        "report.html",
    }
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert expected <= found
    assert any(name.startswith("tensorboard/events") for name in found)
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(result)
    assert set(result) == {"test/top1", "test/top5", "test/loss"}
    names = set(history(tmp_path)[0])
    assert {"step", "epoch", "train/loss", "train/top1", "val/top1", "val/loss", "lr"} <= names


SHAPES = [("[16, 1, 3, 3]", False), ("[64, 32, 1, 1]", False), ("[16, 3, 3, 3]", True)]


@pytest.mark.parametrize(("shape", "warns"), SHAPES)
def test_kernels_whose_strides_say_nothing_are_no_news(shape: str, warns: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        _quiet()
        warnings.warn(
            "Grad strides do not match bucket view strides. This may indicate grad was not ...\n"
            f"grad.sizes() = {shape}, strides() = [9, 9, 3, 1]\n"
            f"bucket_view.sizes() = {shape}, strides() = [9, 1, 3, 1] (Triggered internally)",
            stacklevel=1,
        )
    assert bool(caught) == warns


def test_it_learns(composed: Compose, tmp_path: Path) -> None:
    overrides = ("trainer.max_epochs=8", "data.noise=0.1", "optimizer.lr=0.05", "model.dropout=0")
    assert train(job(composed, *overrides, run_dir=tmp_path))["test/top1"] > 0.9


def test_seed_zero_is_a_seed(composed: Compose, tmp_path: Path) -> None:
    ends: list[torch.Tensor] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(ends))  # whatever came before must not matter
        train(job(composed, f"seed={seed}", "test=false", run_dir=tmp_path / name))
        ends.append(weights(tmp_path / name)["network.classifier.1.weight"])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


RESUMED = {
    "dropout and augmentation": ("model.dropout=0.5", "data.pad=2", "data.flip=true"),
    "workers": ("data.num_workers=2", "data.pad=2"),
    "one batch ahead": ("data.on_device=true", "data.crop=random_resized"),
    "batch norm and mixing": ("model=vgg11_bn", "data.mixup_alpha=0.4", "data.cutmix_alpha=1"),
    "moving average": ("callbacks=[default,ema]", "callbacks.ema.decay=0.9"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.5"),
    "one cycle": ("scheduler=one_cycle",),
    "warm-up and cosine": ("scheduler.warmup_epochs=1.5", "optimizer=adamw"),
    "accumulation": ("trainer.accumulate_grad_batches=2",),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_killed_run_resumes_exactly(
    case: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (
        *RESUMED[case],
        "trainer.max_epochs=3",
        "callbacks.last_checkpoint.every_n_epochs=null",
        "callbacks.last_checkpoint.every_n_train_steps=2",
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(job(composed, *common, run_dir=undisturbed))
    # Six steps an epoch (three with accumulation): the kill falls in the middle of an epoch, one
    # step after the last checkpoint.
    step = 5 if case == "accumulation" else 9
    train_and_kill(job(composed, *common, run_dir=killed), step, monkeypatch)
    train(job(composed, *common, "resume=auto", run_dir=killed))
    assert_same_end(undisturbed, killed)


@pytest.mark.parametrize(
    "length",
    ["trainer.max_epochs=3", "trainer.max_epochs=null trainer.max_steps=15"],
    ids=["epochs", "steps"],
)
def test_a_run_killed_between_epochs_resumes_exactly(
    length: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (*length.split(), "scheduler=plateau", "scheduler.patience=0")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(job(composed, *common, run_dir=undisturbed))
    train_and_kill(job(composed, *common, run_dir=killed), 7, monkeypatch)
    train(job(composed, *common, "resume=auto", run_dir=killed))
    assert_same_end(undisturbed, killed)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_checkpoint_at_an_epochs_last_step_resumes_exactly(
    schedule: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (
        "trainer.max_epochs=3",
        f"scheduler={schedule}",
        "callbacks.last_checkpoint.every_n_epochs=null",
        "callbacks.last_checkpoint.every_n_train_steps=6",  # an epoch's
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(job(composed, *common, run_dir=undisturbed))
    train_and_kill(job(composed, *common, run_dir=killed), 8, monkeypatch)
    train(job(composed, *common, "resume=auto", run_dir=killed))
    assert_same_end(undisturbed, killed)


def test_a_moving_average_is_what_is_tested(composed: Compose, tmp_path: Path) -> None:
    ema = ("callbacks=[default,ema]", "callbacks.ema.decay=0.9")
    result = train(job(composed, *ema, run_dir=tmp_path / "run"))
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    config = composed("evaluate", f"checkpoint={checkpoint}", run_dir=tmp_path / "evaluation")
    assert evaluate(parse(config, EvaluateConfig)) == pytest.approx(result, rel=1e-5)
    content = torch.load(checkpoint, weights_only=True)
    key = "network.features.0.weight"
    assert not torch.equal(content["state_dict"][key], content["current_model_state"][key])


@pytest.mark.parametrize(
    "change", ["model=vgg13", "optimizer=adamw", "optimizer.lr=0.5", "data.pad=3", "seed=4"]
)
def test_a_resumed_run_keeps_its_configuration(
    change: str, composed: Compose, tmp_path: Path
) -> None:
    train(job(composed, "test=false", "trainer.max_epochs=1", run_dir=tmp_path))
    before = (tmp_path / ".hydra/config.yaml").read_text()
    with pytest.raises(InputError, match=r"was trained with .*another hydra\.run\.dir"):
        train(job(composed, "resume=auto", change, run_dir=tmp_path))
    assert (tmp_path / ".hydra/config.yaml").read_text() == before


@pytest.mark.parametrize(
    "change", ["scheduler=constant", "trainer.precision=bf16-mixed", "callbacks=[default,ema]"]
)
def test_a_job_that_continues_unasked_must_be_the_same_run(
    change: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands in one SLURM script have one folder."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)
    train(job(composed, "test=false", "trainer.max_epochs=1", run_dir=tmp_path))
    with pytest.raises(InputError, match=r"another hydra\.run\.dir|without a moving average"):
        train(job(composed, change, "test=false", "trainer.max_epochs=1", run_dir=tmp_path))
    train(job(composed, "test=false", "trainer.max_epochs=1", run_dir=tmp_path))


@pytest.mark.parametrize(
    "monitored",
    [
        "scheduler=plateau scheduler.monitor=val/acc",
        "callbacks=[default,early_stopping] callbacks.early_stopping.monitor=val/acc",
        "callbacks.best_checkpoint.monitor=val/acc",
    ],
)
def test_a_metric_that_is_not_there_is_bad_input(
    monitored: str, composed: Compose, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="val/acc"):
        train(job(composed, *monitored.split(), run_dir=tmp_path))


def test_resume_auto_in_an_empty_folder_starts_afresh(composed: Compose, tmp_path: Path) -> None:
    train(job(composed, "resume=auto", "test=false", run_dir=tmp_path))
    assert (tmp_path / "checkpoints/last.ckpt").exists()


def test_a_finished_run_can_go_on_longer(composed: Compose, tmp_path: Path) -> None:
    cycle = ("scheduler=one_cycle", "test=false")
    train(job(composed, *cycle, run_dir=tmp_path))
    train(job(composed, *cycle, "resume=auto", "trainer.max_epochs=4", run_dir=tmp_path))
    assert [row["step"] for row in history(tmp_path)] == [str(step) for step in range(24)]


def test_a_used_folder_is_not_overwritten(composed: Compose, tmp_path: Path) -> None:
    train(job(composed, "test=false", run_dir=tmp_path))
    before = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    with pytest.raises(InputError, match="resume=auto continues it"):
        train(job(composed, "test=false", run_dir=tmp_path))
    assert (tmp_path / "checkpoints/last.ckpt").read_bytes() == before


def test_a_torn_checkpoint_is_passed_over(composed: Compose, tmp_path: Path) -> None:
    train(job(composed, "test=false", run_dir=tmp_path))
    last = tmp_path / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    train(job(composed, "test=false", "resume=auto", "trainer.max_epochs=3", run_dir=tmp_path))
    assert torch.load(last, weights_only=True)["epoch"] == 2


def test_a_torn_checkpoint_named_by_hand_is_refused(composed: Compose, tmp_path: Path) -> None:
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(b"PK\x03\x04 not much")
    with pytest.raises(InputError, match=r"torn\.ckpt"):
        train(job(composed, f"resume={torn}", run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_compiled_networks_have_plain_keys(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler itself is torch's business: its eager backend needs no C++ compiler.
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile(self, backend="eager"))
    train(job(composed, "trainer.compile=true", run_dir=tmp_path))
    assert not [key for key in weights(tmp_path) if "_orig_mod" in key]


def test_early_stopping_stops(composed: Compose, tmp_path: Path) -> None:
    overrides = (
        "callbacks=[default,early_stopping]",
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=1.0",
        "trainer.max_epochs=9",
        "test=false",
    )
    train(job(composed, *overrides, run_dir=tmp_path))
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision: str, composed: Compose, tmp_path: Path) -> None:
    result = train(job(composed, f"trainer.precision={precision}", run_dir=tmp_path))
    assert 0 <= result["test/top1"] <= 1


def test_weights_start_a_run(composed: Compose, tmp_path: Path) -> None:
    train(job(composed, "test=false", run_dir=tmp_path / "first"))
    start = tmp_path / "first/checkpoints/last.ckpt"
    second = ("optimizer.lr=1e-12", "optimizer.weight_decay=0", f"weights={start}", "seed=5")
    train(job(composed, *second, "test=false", run_dir=tmp_path / "second"))
    key = "network.features.0.weight"
    torch.testing.assert_close(weights(tmp_path / "second")[key], weights(tmp_path / "first")[key])


REFUSED = {
    "more classes than labels": ("model.num_classes=20", "4 classes"),
    "impossible loss": ("loss.label_smoothing=2", "loss: .*label_smoothing"),
    "half precision": ("accelerator=auto trainer.precision=16-mixed", "bf16-mixed"),
    "warm-up over the run": ("scheduler=plateau scheduler.warmup_epochs=5", "leaves nothing"),
    "labels outside": ("model.num_classes=3", "labels 0 to 3"),
    "too deep for the images": ("data.height=16", "too small"),
    "batch over set": ("data.batch_size=50", r"data\.batch_size=50 .*48 images"),
    "negative rate": ("optimizer.lr=-1", "optimizer: Invalid learning rate"),
    "no weights": ("weights=nowhere.pth", r"nowhere\.pth"),
    "no GPU": ("accelerator=gpu", "accelerator"),
    "a setting out of bounds": (
        "scheduler=one_cycle scheduler.initial_divisor=0",
        "initial_divisor",
    ),
    "no folder": ("data=image_folder data.root=nowhere", "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_anything_is_written(
    case: str, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides, message = REFUSED[case]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tiny = [o for o in TINY if "image_folder" not in overrides or not o.startswith("data")]
    with pytest.raises(InputError, match=message):
        train(
            parse(
                composed("train", *tiny, *overrides.split(), run_dir=tmp_path / "run"), TrainConfig
            )
        )
    assert not (tmp_path / "run").exists()


def test_a_deeper_network_begins_with_layers_of_a_trained_a(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Section 3.1; resumed, the run needs the file no more."""
    train(parse(composed("train", *TINY, run_dir=tmp_path / "a"), TrainConfig))
    donor = tmp_path / "a/checkpoints/best.ckpt"
    deeper = [*TINY, "model=vgg16", f"model.init_from={donor}"]
    train(parse(composed("train", *deeper, "trainer.max_epochs=1"), TrainConfig))
    assert f"layers from {donor}: conv1_1, conv2_1, conv3_1, conv3_2, fc" in capsys.readouterr().out
    donor.unlink()
    train(parse(composed("train", *deeper, "resume=auto"), TrainConfig))
    evaluated = load_trained(tmp_path / "run/checkpoints/best.ckpt")  # nor does who uses it
    assert evaluated.config["model"]["init_from"] == str(donor)
