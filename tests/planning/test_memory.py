"""Against torch's own measurement of the same steps among devices, in one process on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    allreduce_hook,
    bf16_compress_hook,
)
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.planning.peak import peak_of_the_last
from vgglab.cluster.sharding import shard_fully, shard_hybrid
from vgglab.cluster.strategies import _power_sgd
from vgglab.cluster.traffic import collectives
from vgglab.config.schema import AcceleratorConfig
from vgglab.networks import build_vgg
from vgglab.planning.footprint import StepCost, measure_step
from vgglab.planning.memory import Memory, held_by, memory_of

DEVICES = 8
CLASSES = 10
SIDE = 64
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)
MAKE = partial(build_vgg, "vgg16", num_classes=CLASSES, width=0.25)
LOSS = nn.CrossEntropyLoss()
DDP, FSDP, HYBRID = ({"strategy": name} for name in ("ddp", "fsdp", "hybrid"))


@contextmanager
def group(backend: str) -> Iterator[None]:
    """Of processes that are not there (`fake`), or of this one alone."""
    if backend == "fake":
        store, size = FakeStore(), DEVICES
    else:
        store, size = distributed.HashStore(), 1
    distributed.init_process_group(backend, store=store, rank=0, world_size=size)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def torchs_own(accelerator: AcceleratorConfig, batch_size: int, accumulate: int) -> int:
    """The peak of a later step in bytes."""

    def steps() -> Iterator[None]:
        network = MAKE().train()
        run: nn.Module = network
        if accelerator.strategy == "ddp":
            run = data_parallel(network.to(memory_format=torch.channels_last), accelerator)
        elif accelerator.strategy == "fsdp":
            shard_fully(network, init_device_mesh("cpu", (DEVICES,)))
        else:
            assert isinstance(accelerator.tensor_parallel, int)
            names = ("data_parallel", "tensor_parallel")
            sizes = (DEVICES // accelerator.tensor_parallel, accelerator.tensor_parallel)
            groups = init_device_mesh("cpu", sizes, mesh_dim_names=names)
            shard_hybrid(network, init_device_mesh("cpu", (DEVICES,)), groups)
        optimizer = SGD(network.parameters())
        images = torch.randn(batch_size, 3, SIDE, SIDE)
        labels = torch.randint(CLASSES, (batch_size,))
        for _ in range(4):  # DDP makes its buckets anew, and PowerSGD has no errors at first
            yield
            for index in range(accumulate):
                if isinstance(network, FSDPModule):
                    network.set_requires_gradient_sync(index == accumulate - 1)
                value = LOSS(run(images.to(memory_format=torch.channels_last)), labels)
                if index == 0:
                    optimizer.zero_grad()
                value.backward()
                del value
            optimizer.step()

    with group("gloo" if accelerator.strategy == "ddp" else "fake"):
        return peak_of_the_last(steps())


class Done:
    """Of a collective that is over as soon as it is begun, as a GPU's is for the host. (What
    gloo's threads hold on to, they free unseen by the profiler.)"""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_future(self) -> torch.futures.Future[list[Tensor]]:
        future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
        future.set_result([self._tensor])
        return future


def data_parallel(network: nn.Module, accelerator: AcceleratorConfig) -> nn.Module:
    run = nn.parallel.DistributedDataParallel(
        network, gradient_as_bucket_view=True, static_graph=True, init_sync=False
    )
    if accelerator.gradient_compression == "powersgd":
        state = PowerSGDState(None, accelerator.powersgd_rank, start_powerSGD_iter=2)
        run.register_comm_hook(state, _power_sgd)
    else:  # DDP's own all-reduce is not `Done`
        bf16 = accelerator.gradient_compression == "bf16"
        run.register_comm_hook(None, bf16_compress_hook if bf16 else allreduce_hook)
    return run


@cache
def cost(batch_size: int, accumulate: int) -> StepCost:
    return measure_step(
        MAKE,
        (3, SIDE, SIDE),
        batch_size,
        CLASSES,
        loss=LOSS,
        make_optimizer=SGD,
        accumulate=accumulate,
        place="cpu",
    )


def planned(
    accelerator: AcceleratorConfig, batch_size: int, accumulate: int, averages: int = 0
) -> Memory:
    parallel = accelerator.tensor_parallel if accelerator.strategy == "hybrid" else 1
    assert isinstance(parallel, int)
    with torch.device("meta"):
        network = MAKE()
    issued = collectives(network, accelerator, DEVICES, parallel, batch_size, "32-true")
    held = held_by(accelerator, DEVICES, accumulate, cost(batch_size, accumulate), issued)
    return memory_of(cost(batch_size, accumulate), 2**33, replace(held, averages=averages))


@pytest.mark.parametrize(
    ("settings", "batch_size", "accumulate"),
    [
        (DDP, 4, 1),
        (DDP, 16, 1),
        (DDP, 4, 2),
        ({**DDP, "gradient_compression": "bf16"}, 4, 1),
        ({**DDP, "gradient_compression": "powersgd"}, 4, 1),
        ({**DDP, "gradient_compression": "powersgd"}, 16, 1),
        (FSDP, 4, 1),
        (FSDP, 16, 1),
        (FSDP, 4, 2),
        ({**HYBRID, "tensor_parallel": 8}, 4, 1),
        ({**HYBRID, "tensor_parallel": 8}, 16, 1),
        ({**HYBRID, "tensor_parallel": 4}, 4, 1),
        ({**HYBRID, "tensor_parallel": 4}, 4, 2),
    ],
)
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # as `Sharded` does
def test_peak_is_what_torch_measures(
    settings: dict[str, Any], batch_size: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, **_: Done(tensor))
    accelerator = AcceleratorConfig(**settings)
    peak = planned(accelerator, batch_size, accumulate).peak
    assert peak == pytest.approx(torchs_own(accelerator, batch_size, accumulate), rel=0.05)


@pytest.mark.parametrize("settings", [DDP, FSDP])
def test_a_moving_average_is_one_more_copy_of_what_a_device_keeps(settings: dict[str, Any]) -> None:
    accelerator = AcceleratorConfig(**settings)
    without, averaged = (planned(accelerator, 4, 1, averages) for averages in (0, 1))
    assert averaged.averages == without.parameters
    assert averaged.peak - without.peak == without.parameters


def test_one_device_holds_what_was_measured() -> None:
    whole = memory_of(cost(4, 1), 2**33, held_by(AcceleratorConfig(), 1, 1, cost(4, 1), []))
    assert whole.peak == cost(4, 1).peak_bytes
    assert whole.gathered == whole.averages == 0
