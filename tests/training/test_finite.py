"""Numbers that go wrong in a run, and the replay of the batch that they came from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from tests.conftest import ROOT, TINY, Compose, Script
from tests.training.runs import assert_same, assert_same_end, history, job, train_and_kill
from vgglab.data.sampling import ShardedBatches
from vgglab.errors import InputError
from vgglab.training import assembly, finite
from vgglab.training.bad_batch import replay_batch
from vgglab.training.finite import NonFiniteError
from vgglab.training.run import train

EVERY_STEP = (
    "callbacks.last_checkpoint.every_n_epochs=null",
    "callbacks.last_checkpoint.every_n_train_steps=1",
)


class Poison(Callback):
    """Makes images whose convolution overflows, or one parameter's gradient nan."""

    def __init__(self, *batches: tuple[int, int], parameter: str | None = None) -> None:
        self.batches = batches
        self.parameter = parameter
        self.batch = (-1, -1)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch = (trainer.current_epoch, batch_idx)
        if self.parameter is None and self.batch in self.batches:
            batch[0].copy_(batch[0].sign() * 3e38)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.parameter is not None and self.batch in self.batches:
            gradient = pl_module.get_parameter(f"network.{self.parameter}").grad
            assert gradient is not None
            gradient[(-1,) * gradient.ndim] = torch.nan


class Watch(Callback):
    """What a checkpoint would hold of network and optimiser, before each step and at the end."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: object
    ) -> None:
        state = (pl_module.state_dict(), trainer.optimizers[0].state_dict()["state"])
        self.states.append(_copied(state))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _copied(each)
            for key, each in value.items()
            if not str(key).endswith("num_batches_tracked")
        }
    if isinstance(value, tuple | list):
        return [_copied(each) for each in value]
    return value.clone() if isinstance(value, Tensor) else value


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put callbacks before a run's own."""
    original = assembly._callbacks

    def add(*callbacks: Callback) -> None:
        monkeypatch.setattr(assembly, "_callbacks", lambda *given: [*callbacks, *original(*given)])

    return add


def saved(run_dir: Path, name: str = "checkpoints/last.ckpt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run_dir / name, weights_only=True)
    return content


@pytest.mark.parametrize("on_exception", ["false", "true"])
@pytest.mark.parametrize("model", ["vgg11", "vgg11_bn"])
def test_a_loss_that_is_no_number_stops_before_the_weights_move(
    model: str, on_exception: str, composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((1, 2)))
    common = (*EVERY_STEP, f"model={model}")
    saving = f"callbacks.last_checkpoint.save_on_exception={on_exception}"
    order = ShardedBatches(48, 8, seed=0, shuffle=True, drop_last=True)
    order.set_epoch(1)
    indices = list(order)[2].images
    shown = ", ".join(map(str, indices[:4]))
    with pytest.raises(NonFiniteError) as caught:
        train(job(composed, *common, f"+{saving}", run_dir=tmp_path / "run"))
    line = str(caught.value)
    assert "non-finite loss (" in line
    assert f"step 8 (epoch 1, batch 2, counted from 0; training images {shown} and 4 more" in line
    path = tmp_path / "run/nonfinite/step-000008-rank-0.pt"
    assert str(path) in line
    assert "\n" not in line

    last, bad = saved(tmp_path / "run"), torch.load(path, weights_only=True)
    assert last["global_step"] == 8
    assert_same(
        _copied(dict(last["state_dict"])), _copied(dict(bad["state_dict"])), "before the step"
    )
    assert bad["nonfinite"]["indices"] == indices
    assert bad["vgglab"] == last["vgglab"]

    add()
    train(job(composed, *common, "resume=auto", run_dir=tmp_path / "run"))
    train(job(composed, *common, run_dir=tmp_path / "undisturbed"))
    assert_same_end(tmp_path / "undisturbed", tmp_path / "run")


def test_a_gradient_that_is_no_number_is_named(
    composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((0, 3), parameter="features.3.weight"))
    with pytest.raises(NonFiniteError, match=r"non-finite gradient of conv2_1\.weight at step 3 "):
        train(job(composed, *EVERY_STEP, run_dir=tmp_path))
    last = saved(tmp_path)
    assert last["global_step"] == 3
    assert torch.stack([value.isfinite().all() for value in last["state_dict"].values()]).all()


@pytest.mark.parametrize("parameter", [None, "features.3.weight"])
@pytest.mark.parametrize("batch", [2, 3])
def test_of_accumulated_batches_the_bad_one_is_told(
    batch: int, parameter: str | None, composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((0, batch), parameter=parameter))
    with pytest.raises(NonFiniteError, match=rf"step 1 \(epoch 0, batch {batch},"):
        train(job(composed, "trainer.accumulate_grad_batches=2", run_dir=tmp_path))
    bad = saved(tmp_path, "nonfinite/step-000001-rank-0.pt")["nonfinite"]
    assert bad["batch"] == batch
    assert bool(bad["images"].abs().max() > 1e38) is (parameter is None)


@pytest.mark.parametrize(
    "case",
    ["", "model=vgg11_bn", "optimizer=adamw", "trainer.accumulate_grad_batches=2"]
    + [
        f"trainer.gradient_clip_val=1 trainer.gradient_clip_algorithm={a}"
        for a in ("norm", "value")
    ],
)
def test_a_skipped_step_moves_nothing_and_is_counted(
    case: str, composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    watch = Watch()
    add(watch, Poison((0, 2), (0, 4)))
    skip = ("callbacks.finite.action=skip", *case.split())
    train(job(composed, *skip, "test=false", run_dir=tmp_path))
    step = 2 if "accumulate" in case else 1
    for batch in range(12):
        before = watch.states[batch : batch + step + 1]
        if batch % step == 0 and len(before) > step:
            moved = batch not in (2, 4)
            if moved:
                with pytest.raises(AssertionError):
                    assert_same(before[0], before[-1], "")
            else:
                assert_same(before[0], before[-1], f"batch {batch}")
    counts = [row.get("train/skipped_steps") for row in history(tmp_path)]
    expected = ["", "1.0", *["2.0"] * 4] if step == 2 else ["", "", "1.0", "1.0", *["2.0"] * 8]
    assert counts == expected


def test_a_run_with_skipped_steps_resumes_exactly(
    composed: Compose, tmp_path: Path, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (
        "trainer.max_epochs=3",
        "callbacks.finite.action=skip",
        "callbacks.last_checkpoint.every_n_epochs=null",
        "callbacks.last_checkpoint.every_n_train_steps=2",
        "model=vgg11_bn",
        "trainer.log_every_n_steps=3",
    )
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    add(Poison((0, 2), (1, 1), (1, 2), (2, 0)))  # of 6 batches an epoch
    train(job(composed, *common, run_dir=undisturbed))
    train_and_kill(job(composed, *common, run_dir=killed), 9, monkeypatch)
    train(job(composed, *common, "resume=auto", run_dir=killed))
    assert_same_end(undisturbed, killed)
    for run_dir in (undisturbed, killed):
        assert saved(run_dir)["callbacks"]["FiniteGuard"] == {"skipped": 4, "in_a_row": 0}


def test_only_so_many_steps_in_a_row_are_skipped(
    composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((0, 1), (0, 3), (0, 4), (0, 5), (1, 0)))
    skip = ("callbacks.finite.action=skip", "callbacks.finite.max_skips=3")
    with pytest.raises(NonFiniteError, match=r"after 3 skipped steps at step 6 "):
        train(job(composed, *skip, run_dir=tmp_path))


@pytest.mark.parametrize("case", ["model=vgg11_bn", "trainer.gradient_clip_val=1"])
def test_a_run_that_goes_well_is_the_same_without_the_guard(
    case: str, composed: Compose, tmp_path: Path
) -> None:
    train(job(composed, case, run_dir=tmp_path / "with"))
    train(job(composed, case, "~callbacks.finite", run_dir=tmp_path / "without"))
    assert_same_end(tmp_path / "with", tmp_path / "without")


def test_huge_finite_gradients_are_numbers(
    composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    class Huge(Callback):
        """Squared, it is beyond float32."""

        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(1e30)

    add(Huge())
    train(job(composed, "optimizer.lr=1e-31", "trainer.max_epochs=1", run_dir=tmp_path))


def test_a_full_disk_does_not_hide_the_error(
    composed: Compose, tmp_path: Path, add: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    add(Poison((0, 1)))
    monkeypatch.setattr(finite.torch, "save", full)
    with pytest.raises(
        NonFiniteError, match=r"non-finite loss .* at step 1 .*not be written: .*No space left"
    ):
        train(job(composed, run_dir=tmp_path))
    assert not list((tmp_path / "nonfinite").iterdir())


@pytest.mark.parametrize("case", ["model=vgg11_bn", "model=vgg16 trainer.precision=bf16-mixed"])
def test_a_replay_finds_the_layer(
    case: str, composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((0, 2)))
    with pytest.raises(NonFiniteError):
        train(job(composed, *case.split(), run_dir=tmp_path))
    replay = replay_batch(tmp_path / "nonfinite/step-000002-rank-0.pt")
    assert replay.where == "the output of conv1_1"
    lines = replay.lines()
    assert "non-finite loss (nan) at step 2 " in lines[0]
    assert lines[2:] == [
        "the first number that is not finite: the output of conv1_1",
        f"largest outputs: conv1_1 {replay.layers['conv1_1']:.3g}",
    ]


def test_a_replay_is_the_step_that_was(
    composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((0, 2), parameter="features.3.weight"))
    dropout = ("model.head=imagenet", "model.dropout=0.5", "data.pad=2", "data.mixup_alpha=1")
    with pytest.raises(NonFiniteError):
        train(job(composed, *dropout, run_dir=tmp_path))
    path = tmp_path / "nonfinite/step-000002-rank-0.pt"
    replay = replay_batch(path)
    assert replay.loss == replay.bad.loss  # the same dropout masks, to the bit
    assert replay.where is None  # what poisoned the gradient is not in the step

    content = torch.load(path, weights_only=True)
    content["nonfinite"]["loss_scale"] = 3e38
    content["state_dict"]["network.classifier.6.weight"] *= 1e4
    torch.save(content, path)
    assert replay_batch(path).where == "the gradient of fc7.bias"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("images", "the input, training images {}"),
        ("weights", "the weights before the step, conv1_1.bias"),
    ],
)
def test_a_replay_looks_at_what_the_step_began_with(
    change: str, where: str, composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((0, 2)))
    with pytest.raises(NonFiniteError):
        train(job(composed, run_dir=tmp_path))
    path = tmp_path / "nonfinite/step-000002-rank-0.pt"
    content = torch.load(path, weights_only=True)
    if change == "images":
        content["nonfinite"]["images"][3, 0, 0, 0] = torch.nan
    else:
        content["state_dict"]["network.features.0.bias"][1] = torch.inf
    torch.save(content, path)
    assert replay_batch(path).where == where.format(content["nonfinite"]["indices"][3])


def test_only_a_bad_batch_can_be_replayed(composed: Compose, tmp_path: Path) -> None:
    train(job(composed, "test=false", "trainer.max_epochs=1", run_dir=tmp_path))
    with pytest.raises(InputError, match=r"last\.ckpt is not a batch that stopped a run"):
        replay_batch(tmp_path / "checkpoints/last.ckpt")
    for content in ([1], {"nonfinite": {"images": torch.ones(1)}}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(InputError, match=r"other\.pt is not a batch that stopped a run"):
            replay_batch(tmp_path / "other.pt")


@pytest.mark.parametrize("parameter", [None, "features.4.weight"])
def test_under_loss_scaling_only_what_lasts_stops(
    parameter: str | None,
    composed: Compose,
    tmp_path: Path,
    add: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on_cpu(**settings: Any) -> Trainer:
        """Scaled float16 on the CPU, which Lightning does not choose by itself."""
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        plugins = [*settings.pop("plugins"), MixedPrecision("16-mixed", "cpu", scaler)]
        return Trainer(**{**settings, "accelerator": "cpu", "precision": None}, plugins=plugins)

    monkeypatch.setattr(assembly, "Trainer", on_cpu)
    watch = Watch()
    lasting = tuple((1, batch) for batch in range(6))
    add(watch, Poison((0, 2), (0, 4), *lasting, parameter=parameter))
    scaled = ("accelerator=auto", "trainer.precision=16-mixed", "model=vgg11_bn")
    with pytest.raises(NonFiniteError, match="after 3 skipped steps at step 9 "):
        train(job(composed, *scaled, "callbacks.finite.max_skips=3", run_dir=tmp_path))
    for batch in range(9):
        if batch in (2, 4, 6, 7, 8):
            assert_same(*watch.states[batch : batch + 2], f"batch {batch}")
        else:
            with pytest.raises(AssertionError):
                assert_same(*watch.states[batch : batch + 2], "")
    counts = [row["train/skipped_steps"] for row in history(tmp_path)]
    assert counts == ["", "", "1.0", "1.0", "2.0", "2.0", "3.0", "4.0", "5.0"]
    bad = replay_batch(tmp_path / "nonfinite/step-000009-rank-0.pt").bad
    assert bad.loss_scale == 2.0 ** (10 - 5)  # halved by the scaler at each of the five


def test_anomaly_detection_names_the_function(
    composed: Compose, tmp_path: Path, add: Callable[..., None]
) -> None:
    add(Poison((0, 2)))
    with pytest.raises(
        NonFiniteError, match=r"^Function 'LogSoftmaxBackward0' returned nan .* at step 2 "
    ) as caught:
        train(job(composed, "debug=detect_anomaly", run_dir=tmp_path))
    path = tmp_path / "nonfinite/step-000002-rank-0.pt"
    assert str(path) in str(caught.value)
    assert replay_batch(path).where == "the output of conv1_1"


@pytest.mark.slow
def test_anomaly_detection_says_one_line(script: Script, tmp_path: Path) -> None:
    run = script("train", *TINY, "debug=detect_anomaly", "optimizer.lr=1e20", "hydra.run.dir=run")
    assert run.returncode == 2, run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: Function 'LogSoftmaxBackward0' returned nan")
    assert "step 1 " in line


class PoisonOneRank(Poison):
    """For scripts/train.py."""

    def __init__(self, rank: int) -> None:
        super().__init__((0, 3))
        self.rank = rank

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.faults), 1])
def test_two_processes_stop_together_and_tell_whose_batch_it_was(
    rank: int, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    poison = f"{{_target_:{PoisonOneRank.__module__}.PoisonOneRank,rank:{rank}}}"
    run = script(
        "train",
        *(*TINY, *EVERY_STEP, "accelerator=ddp_cpu", "allowed_targets=[tests]"),
        f"+callbacks.poison={poison}",
        "hydra.run.dir=run",
    )
    assert run.returncode == 2, run.stderr
    lines = [line for line in run.stderr.splitlines() if line]
    assert len(lines) == 1, run.stderr
    assert f"rank-{rank}.pt" in lines[0]
    assert "at step 3 " in lines[0]
    (path,) = (tmp_path / "run/nonfinite").iterdir()
    bad = torch.load(path, weights_only=True)["nonfinite"]
    order = ShardedBatches(48, 8, seed=0, rank=rank, world_size=2, shuffle=True, drop_last=True)
    assert bad["indices"] == list(order)[3].images
    assert f"training images {', '.join(map(str, bad['indices']))};" in lines[0]
    assert saved(tmp_path / "run")["global_step"] == 3


@pytest.mark.faults
def test_two_processes_skip_together(script: Script, tmp_path: Path) -> None:
    skip = ("callbacks.finite.action=skip", "callbacks.finite.max_skips=4")
    run = script(
        "train",
        *(*TINY, *skip, "accelerator=ddp_cpu", "optimizer.lr=1e20", "hydra.run.dir=run"),
    )
    assert run.returncode == 2, run.stderr
    assert "after 4 skipped steps at step 5 " in run.stderr
    files = {path.name for path in (tmp_path / "run/nonfinite").iterdir()}
    assert files == {f"step-000005-rank-{rank}.pt" for rank in (0, 1)}
