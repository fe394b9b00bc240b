"""Strategies over gloo, compared with one process; all in one set of two processes."""

import json
from collections import Counter, OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import cross_entropy

from tests.cluster.together import train_together
from tests.conftest import ROOT
from tests.training.runs import assert_same, curves, history
from vgglab.cluster.sharding import (
    blocks_of,
    dense_layers,
    gathered,
    shard_fully,
    shard_hybrid,
    tensor_parallel_size,
    whole,
)
from vgglab.cluster.strategies import DataParallel, Sharded, refuse_misfit, strategy
from vgglab.cluster.traffic import collectives
from vgglab.config.schema import AcceleratorConfig, TrainConfig, parse
from vgglab.errors import InputError
from vgglab.evaluation.trained import load_trained
from vgglab.networks import build_vgg
from vgglab.training.optim import clip_sharded
from vgglab.training.run import train

# Everything at once that gradients must pass through, three optimiser steps an epoch. Five classes
# and 250 units cannot be divided by all numbers of devices.
SETTINGS = (
    "experiment=none",
    "model=vgg11",
    "model.width=0.061",
    "model.init=glorot",
    "model.dropout=0",
    "data=synthetic",
    "data.num_classes=5",
    "data.train_size=24",
    "data.val_size=11",
    "data.test_size=9",
    "data.batch_size=4",
    "optimizer.lr=0.1",
    "decay_norm_and_bias=false",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "trainer.accumulate_grad_batches=2",
    "trainer.gradient_clip_val=0.05",
    "test=false",
    "logger=csv",
    "callbacks=[checkpoints,finite,ema]",
    "callbacks.ema.decay=0.5",
)
# Batch norm, a validation batch that the second process has no image of, and the counter.
COUNTED = (
    "model=vgg11_bn",
    "data.val_size=9",
    "trainer.accumulate_grad_batches=1",
    "trainer.max_epochs=1",
    "allowed_targets=[tests]",
    "+callbacks.counter._target_=tests.cluster.counting.Counter",
    "+callbacks.counter.run_dir=${run_dir}",
    "+callbacks.counter.batch=4",
)
POISONED = (
    "allowed_targets=[tests]",
    "+callbacks.poison._target_=tests.cluster.counting.Poison",
    "+callbacks.poison.batch=2",
)
SKIPPING = (*POISONED, "callbacks.finite.action=skip")
PICTURED = ("callbacks=[checkpoints,pictures,ema]", "logger=default", "test=true")
ON_TWO = ("accelerator.accelerator=cpu", "accelerator.devices=2")
STRATEGIES = {
    "ddp": ("accelerator=ddp",),
    "bf16": ("accelerator=ddp_bf16_grads",),
    "powersgd": ("accelerator=ddp_powersgd", "accelerator.powersgd_start_step=2"),
    "fsdp": ("accelerator=fsdp",),
    "hybrid": ("accelerator=hybrid",),
}
EXACT = ("ddp", "fsdp", "hybrid")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of two processes, and of one."""
    folder = tmp_path_factory.mktemp("runs")
    one_process(folder / "one")
    jobs = {}
    for name, chosen in STRATEGIES.items():
        jobs[name] = (*SETTINGS, *chosen, *ON_TWO)
        jobs[f"{name}-counted"] = (*without_average(SETTINGS), *COUNTED, *chosen, *ON_TWO)
    jobs["powersgd-before"] = (*jobs["powersgd"], "accelerator.powersgd_start_step=9")
    for name in EXACT:
        jobs[f"{name}-resumed"] = (*jobs[name], f"resume={middle(folder / name)}")
    jobs["one-to-hybrid"] = (*jobs["hybrid"], f"resume={middle(folder / 'one')}")
    jobs["skipping"] = (*jobs["hybrid"], *SKIPPING)
    jobs["fsdp-pictured"] = (*jobs["fsdp"], *PICTURED)
    jobs["stopped"] = (*jobs["hybrid"], *POISONED)
    train_together(folder, jobs, processes=2, timeout=240)
    return folder


def without_average(settings: tuple[str, ...]) -> list[str]:
    kept = [setting for setting in settings if "callbacks" not in setting]
    return [*kept, "callbacks=[checkpoints,finite]"]


def one_process(run_dir: Path, *overrides: str) -> None:
    train(job("accelerator=cpu", *SETTINGS, *overrides, run_dir=run_dir))


def job(*overrides: str, run_dir: Path) -> TrainConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[f"run_dir={run_dir}", "name=test", *overrides])
    return parse(config, TrainConfig)


def middle(run_dir: Path) -> Path:
    """The checkpoint after the first of the two epochs."""
    return run_dir / "checkpoints" / "last-1.ckpt"


def saved(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "checkpoints" / "last.ckpt"
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def tensors(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights, their average, and momenta by name."""
    momenta = checkpoint["optimizer_states"][0]["state"]
    return {
        **{f"average {name}": value for name, value in checkpoint["state_dict"].items()},
        **checkpoint["current_model_state"],
        **{f"momentum {i}": values["momentum_buffer"] for i, values in momenta.items()},
    }


def difference(left: Path, right: Path) -> float:
    """The largest between two runs' weights and momenta; their checkpoints have the same layout."""
    a, b = saved(left), saved(right)
    assert a.keys() == b.keys()
    assert a["optimizer_states"][0]["param_groups"] == b["optimizer_states"][0]["param_groups"]
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    assert all(type(a[name]) is type(b[name]) is torch.Tensor for name in a)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("name", [*EXACT, "powersgd-before"])
def test_two_processes_end_with_the_weights_of_one(name: str, runs: Path) -> None:
    moved = difference(runs / "one", runs / "bf16")
    # What another order of additions makes; a gradient that is half as large makes 1e-2.
    assert difference(runs / "one", runs / name) < 1e-6 < 1e-2 * moved
    for left, right in zip(history(runs / "one"), history(runs / name), strict=True):
        for metric in ("val/loss", "val/top1", "val/top5"):
            assert float(left[metric] or 0) == pytest.approx(float(right[metric] or 0), abs=1e-5)


@pytest.mark.parametrize("name", ["bf16", "powersgd"])
def test_compressed_gradients_end_nearby(name: str, runs: Path) -> None:
    assert 0 < difference(runs / "one", runs / name) < 0.02


@pytest.mark.parametrize("name", EXACT)
def test_a_resumed_run_ends_with_the_same_bits(name: str, runs: Path) -> None:
    ended, resumed = runs / name, runs / f"{name}-resumed"
    assert_same(tensors(saved(ended)), tensors(saved(resumed)), name)
    after = history(resumed)
    assert after == history(ended)[-len(after) :]


def test_a_run_goes_on_under_another_strategy(runs: Path) -> None:
    assert difference(runs / "one", runs / "one-to-hybrid") < 1e-6
    one_process(runs / "hybrid-to-one", f"resume={middle(runs / 'hybrid')}")
    assert difference(runs / "one", runs / "hybrid-to-one") < 1e-6


def test_sharded_processes_draw_what_one_process_draws(runs: Path) -> None:
    one_process(runs / "one-pictured", *PICTURED)
    drawn = []
    for name in ("one-pictured", "fsdp-pictured"):
        images = {
            tag: [step for step, _ in points]
            for tag, points in curves(runs / name).items()
            if isinstance(points[0][1], bytes)
        }
        content = json.loads((runs / name / "mistakes.json").read_text())
        indices = [mistake["index"] for mistake in content["mistakes"]]
        drawn.append((images, indices))
    assert drawn[0] == drawn[1]
    images, indices = drawn[0]
    assert {"network/filters", "network/grad_cam", "network/receptive_field"} <= images.keys()
    assert len(set(indices)) == len(indices) > 1  # of nine images none counts twice


def test_sharded_processes_skip_a_bad_step_together(runs: Path) -> None:
    one_process(runs / "one-skipping", *SKIPPING)
    assert difference(runs / "one-skipping", runs / "skipping") < 1e-6
    assert difference(runs / "one", runs / "skipping") > 1e-4


def test_the_batch_that_stops_sharded_processes_is_kept_with_whole_weights(runs: Path) -> None:
    kept = runs / "stopped" / "nonfinite" / "step-000001-rank-1.pt"
    assert str(kept) in (runs / "stopped.error-0").read_text()
    bad = torch.load(kept, weights_only=True)
    before = tensors(saved(runs / "one"))
    weights = {name: value for name, value in before.items() if name.startswith("network.")}
    assert {name: value.shape for name, value in bad["state_dict"].items()} == {
        name: value.shape for name, value in weights.items()
    }


@pytest.mark.parametrize("name", ["fsdp", "hybrid"])
def test_sharded_processes_validate_what_they_save(name: str, runs: Path) -> None:
    run_dir = runs / f"{name}-counted"
    trained = load_trained(run_dir / "checkpoints" / "last.ckpt")
    data = job("accelerator=cpu", *SETTINGS, *COUNTED, run_dir=run_dir).data.build("data")
    data.setup("fit")
    losses = []
    for batch in data.val_dataloader():
        images, labels = data.network_input(batch, augment=False)
        logits = trained.network.eval()(images).detach()
        losses.append(cross_entropy(logits, labels, reduction="none"))
    [row] = [row for row in history(run_dir) if row["val/loss"]]
    assert float(row["val/loss"]) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def assert_sent_as_foretold(run_dir: Path, processes: int) -> None:
    settings = saved(run_dir)["vgglab"]["config"]
    accelerator = AcceleratorConfig(**settings["accelerator"])
    with torch.device("meta"):
        network = build_vgg("vgg11", num_classes=5, batch_norm=True, width=0.061)
    foretold: Counter[tuple[str, int]] = Counter()
    images = settings["data"]["batch_size"] // processes
    for sent in collectives(network, accelerator, processes, 2, images, "32-true"):
        foretold[sent.kind, sent.bytes] += 1
    for rank in range(processes):
        issued = json.loads((run_dir / f"traffic-{rank}.json").read_text())
        assert Counter((kind, size) for kind, size in issued) == foretold


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_sent_is_what_was_foretold(name: str, runs: Path) -> None:
    assert_sent_as_foretold(runs / f"{name}-counted", processes=2)


@pytest.mark.faults  # for its time: four processes on two cores
def test_four_processes_in_two_groups(tmp_path: Path) -> None:
    one_process(tmp_path / "one")
    on_four = ("accelerator.accelerator=cpu", "accelerator.devices=4")
    grouped = ("accelerator=hybrid", "accelerator.tensor_parallel=2", *on_four)
    jobs = {name: (*SETTINGS, f"accelerator={name}", *on_four) for name in ("ddp", "fsdp")}
    jobs["hybrid"] = (*SETTINGS, *grouped)
    for name in EXACT:
        jobs[f"{name}-resumed"] = (*jobs[name], f"resume={middle(tmp_path / name)}")
    jobs["counted"] = (*without_average(SETTINGS), *COUNTED, *grouped)
    train_together(tmp_path, jobs, processes=4, timeout=400)
    for name in EXACT:
        assert difference(tmp_path / "one", tmp_path / name) < 1e-6
        assert difference(tmp_path / name, tmp_path / f"{name}-resumed") == 0
    assert_sent_as_foretold(tmp_path / "counted", processes=4)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("hybrid", [False, True])
def test_sharding_keeps_names_and_synchronised_batch_norm(hybrid: bool, alone: None) -> None:
    plain = build_vgg("vgg11", num_classes=3, batch_norm=True, width=0.05)
    network = TorchSyncBatchNorm().apply(deepcopy(plain))
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("world",))
    if hybrid:
        names = ("data_parallel", "tensor_parallel")
        shard_hybrid(network, mesh, init_device_mesh("cpu", (1, 1), mesh_dim_names=names))
    else:
        shard_fully(network, mesh)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == 8
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
    assert all(isinstance(parameter, DTensor) for parameter in network.parameters())
    assert_same(gathered(network.state_dict(), keep=True), plain.state_dict(), "weights")
    network.load_state_dict({name: value + 1 for name, value in plain.state_dict().items()})
    assert_same(
        gathered(network.state_dict(), keep=True),
        OrderedDict((name, value + 1) for name, value in plain.state_dict().items()),
        "weights",
    )


@pytest.mark.parametrize("by_value", [False, True])
def test_gradients_on_two_meshes_are_clipped_as_in_one_process(by_value: bool, alone: None) -> None:
    plain = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]
    sharded = []
    for parameter, name in zip(plain, ("world", "data_parallel"), strict=True):
        parameter.grad = torch.randn(parameter.shape)
        mesh = init_device_mesh("cpu", (1,), mesh_dim_names=(name,))
        sharded.append(nn.Parameter(distribute_tensor(parameter.detach(), mesh)))
        sharded[-1].grad = distribute_tensor(parameter.grad.clone(), mesh)
    clip_sharded(sharded, 0.5, by_value=by_value)
    clip = nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_
    clip(plain, 0.5)
    for ours, theirs in zip(sharded, plain, strict=True):
        assert torch.equal(whole(ours.grad), theirs.grad)


def test_blocks_are_what_lies_between_pools() -> None:
    network = build_vgg("vgg11", num_classes=3, batch_norm=True, width=0.1)
    blocks = blocks_of(network)
    assert [len(block) for block in blocks] == [2, 2, 4, 4, 4, 1, 1, 1]
    found = {p for block in blocks for m in block for p in m.parameters()}
    assert found == set(network.parameters())
    assert [block[0] for block in blocks[-3:]] == list(dense_layers(network))


@pytest.mark.parametrize(
    ("setting", "devices", "world_size", "size"),
    [("auto", 8, 32, 8), ("auto", 6, 6, 2), ("auto", 7, 7, 1), (4, 8, 32, 4), (8, 4, 8, 8)],
)
def test_devices_that_share_the_dense_layers(
    setting: Any, devices: int, world_size: int, size: int
) -> None:
    with torch.device("meta"):
        network = build_vgg("vgg16")
    assert tensor_parallel_size(setting, network, devices, world_size) == size


def test_devices_that_cannot_share_the_dense_layers() -> None:
    with torch.device("meta"):
        network, compact = build_vgg("vgg11"), build_vgg("vgg11", head="compact")
    with pytest.raises(InputError, match=r"tensor_parallel=3 must divide the 8 dev"):
        tensor_parallel_size(3, network, 8, 8)
    with pytest.raises(InputError, match=r"model.head=imagenet does\); use accelerator=ddp"):
        tensor_parallel_size("auto", compact, 8, 8)


def test_what_each_configuration_is() -> None:
    assert strategy(AcceleratorConfig()) == "auto"
    plain = strategy(AcceleratorConfig(strategy="ddp"))
    assert isinstance(plain, DataParallel)
    assert plain._ddp_comm_hook is None
    assert plain._ddp_kwargs["gradient_as_bucket_view"]
    rough = strategy(
        AcceleratorConfig(strategy="ddp", gradient_compression="powersgd", powersgd_rank=2)
    )
    assert isinstance(rough, DataParallel)
    assert rough._ddp_comm_state.matrix_approximation_rank == 2  # type: ignore[attr-defined,union-attr]
    assert isinstance(strategy(AcceleratorConfig(strategy="fsdp")), Sharded)


def test_synchronised_batch_norm_is_refused_on_a_cpu() -> None:
    made: Any = strategy(AcceleratorConfig(strategy="ddp"))
    made._layer_sync = TorchSyncBatchNorm()
    made._parallel_devices = [torch.device("cpu")]
    made.cluster_environment = SimpleNamespace(local_rank=lambda: 0)
    trainer: Any = SimpleNamespace(strategy=made)
    with pytest.raises(InputError, match="sync_batchnorm=true needs GPUs"):
        refuse_misfit(trainer, build_vgg("vgg11", num_classes=2, width=0.1))
