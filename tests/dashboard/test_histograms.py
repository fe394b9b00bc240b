"""How weights and gradients are counted, and when."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from tests.conftest import Compose
from tests.dashboard.shown import tensors
from tests.training.runs import job
from vgglab.dashboard.histograms import Histogram, Histograms, count, layer_weights
from vgglab.networks import build_vgg
from vgglab.reporting.tensorboard import TensorBoard
from vgglab.training import assembly
from vgglab.training.run import train


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_counts_are_numpys(dtype: torch.dtype) -> None:
    made = torch.Generator().manual_seed(0)
    values = [torch.randn(3, 50, 7, generator=made).to(dtype), torch.rand(1, generator=made) - 0.5]
    values.append(torch.cat([values[0].flatten()[:999], torch.zeros(1, dtype=dtype)]))
    for tensor, histogram in zip(values, count(values), strict=True):
        assert histogram is not None
        numbers = tensor.double().flatten().numpy()
        assert (histogram.low, histogram.high) == pytest.approx((numbers.min(), numbers.max()))
        assert sum(histogram.counts) == pytest.approx(tensor.numel())
        expected, _ = np.histogram(numbers, 64, (histogram.low, histogram.high + 1e-9))
        moved = np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max()
        assert moved <= (1 if dtype == torch.float64 else 0.005 * len(numbers) + 1)


def test_of_many_values_a_fair_sample_is_counted_between_exact_ends() -> None:
    values = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)) + torch.arange(
        1024
    ).remainder(16)  # columns differ, and 16 divides what every 16th value would be
    values[700, 3] = 100.0
    (histogram,) = count([values])
    assert histogram is not None
    assert (histogram.low, histogram.high) == (float(values.min()), 100.0)
    assert sum(histogram.counts) == pytest.approx(values.numel())
    exact = torch.histc(values, 64, histogram.low, histogram.high) / values.numel()
    assert np.cumsum(histogram.counts) / values.numel() == pytest.approx(
        exact.cumsum(0).numpy(), abs=0.01
    )


def test_the_memory_format_does_not_matter() -> None:
    values = torch.randn(8, 4, 3, 3)
    assert count([values.to(memory_format=torch.channels_last)]) == count([values])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_have_no_histogram_and_the_others_have(wrong: float) -> None:
    values = torch.randn(100)
    spoilt = values.clone()
    spoilt[50] = wrong
    assert count([spoilt, values]) == [None, *count([values])]


def test_equal_values_have_a_histogram_too() -> None:
    (histogram,) = count([torch.full((10,), 0.25)])
    assert histogram == Histogram(0.25, 0.25, [10.0, *[0.0] * 63])


@pytest.mark.parametrize(
    ("head", "last"), [("compact", ["fc"]), ("imagenet", ["fc6", "fc7", "fc8"])]
)
def test_layers_of_a_vgg_go_by_the_papers_names(head: Any, last: list[str]) -> None:
    network = build_vgg("A", head=head, width=1 / 16, batch_norm=True)
    network.features[0].requires_grad_(False)
    convolutions = ["conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2"]
    assert list(layer_weights(network)) == [*convolutions, *last]


def test_layers_of_other_networks_go_by_their_paths() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 3)))
    assert list(layer_weights(network)) == ["0", "2.0"]


class Remember(Callback):
    """The first convolution's weights and gradients before each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: object
    ) -> None:
        weight = next(pl_module.parameters())
        assert weight.grad is not None
        self.seen.append((weight.detach().clone(), weight.grad.clone()))


@pytest.mark.parametrize(
    ("setting", "accumulate", "steps"),
    [("null", 1, [0, 2, 4, 6, 8, 10]), ("2", 2, [0, 2, 4])],
)
def test_a_run_shows_what_each_step_is_made_of(
    setting: str,
    accumulate: int,
    steps: list[int],
    composed: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, spy = assembly._callbacks, Remember()
    monkeypatch.setattr(assembly, "_callbacks", lambda *given: [*original(*given), spy])
    overrides = (
        "callbacks=[essential,histograms]",
        f"callbacks.histograms.every_n_steps={setting}",
        f"trainer.accumulate_grad_batches={accumulate}",
        "trainer.gradient_clip_val=1e-6",
        "test=false",
    )
    train(job(composed, *overrides, run_dir=tmp_path))
    found = tensors(tmp_path, "weights/") | tensors(tmp_path, "gradients/")
    assert len(found) == 2 * 9
    for part, tag in enumerate(("weights/conv1_1", "gradients/conv1_1")):
        assert [step for step, _ in found[tag]] == steps
        for step, rows in found[tag]:
            values = spy.seen[step][part]
            assert rows[:, 2].sum() == pytest.approx(values.numel())
            ends = (rows[0, 0], rows[-1, 1])
            assert ends == pytest.approx((values.min().item(), values.max().item()))
            assert (rows[1:, 0] == rows[:-1, 1]).all()


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_weights_in_parts_have_none_and_it_is_said_once(
    alone: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = nn.Module()
    module.network = nn.Sequential(nn.Linear(4, 4))
    fully_shard(module.network)
    trainer: Any = SimpleNamespace(
        loggers=[TensorBoard(str(tmp_path))],
        is_global_zero=True,
        estimated_stepping_batches=100,
        global_step=0,
    )
    histograms, optimizer = Histograms(), torch.optim.SGD(module.parameters())
    with caplog.at_level(logging.WARNING):
        histograms.on_train_start(trainer, module)  # type: ignore[arg-type]
        histograms.on_before_optimizer_step(trainer, module, optimizer)  # type: ignore[arg-type]
    (record,) = caplog.records
    assert "no histograms: the weights lie in parts" in record.message
    trainer.loggers[0].finalize("success")
    assert tensors(tmp_path, "") == {}
