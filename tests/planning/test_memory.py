"""Against torch's own measurement of the same steps among devices, in one process on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.planning.peak import peak_of_the_last
from vgglab.cluster.sharding import shard_fully, shard_hybrid
from vgglab.cluster.strategies import _power_sgd
from vgglab.cluster.traffic import collectives
from vgglab.config.schema import AcceleratorConfig
from vgglab.networks import build_vgg
from vgglab.planning.footprint import measure_step
from vgglab.planning.memory import held_by, memory_of

DEVICES = 8
CLASSES = 10
SIDE = 64
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)
MAKE = partial(build_vgg, "vgg16", num_classes=CLASSES, width=0.25)
LOSS = nn.CrossEntropyLoss()


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


def torchs_own(accelerator: AcceleratorConfig, batch_size: int) -> int:
    """The peak of a later step in bytes."""

    def steps() -> Iterator[None]:
        network = MAKE().train()
        run: nn.Module = network
        if accelerator.strategy == "ddp":
            run = data_parallel(network.to(memory_format=torch.channels_last), accelerator)
        elif accelerator.strategy == "fsdp":
            shard_fully(network, init_device_mesh("cpu", (DEVICES,)))
        else:
            names = ("data_parallel", "tensor_parallel")
            groups = init_device_mesh("cpu", (1, DEVICES), mesh_dim_names=names)
            shard_hybrid(network, init_device_mesh("cpu", (DEVICES,)), groups)
        optimizer = SGD(network.parameters())
        images = torch.randn(batch_size, 3, SIDE, SIDE)
        labels = torch.randint(CLASSES, (batch_size,))
        for _ in range(4):
            yield
            value = LOSS(run(images.to(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            value.backward()
            del value
            optimizer.step()

    with group("gloo" if accelerator.strategy == "ddp" else "fake"):
        return peak_of_the_last(steps())


class Done:
    """Of a collective that is over as soon as it is begun, as a GPU's is for the host."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_future(self) -> torch.futures.Future[list[Tensor]]:
        future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
        future.set_result([self._tensor])
        return future


def data_parallel(network: nn.Module, accelerator: AcceleratorConfig) -> nn.Module:
    run = nn.parallel.DistributedDataParallel(
        network, gradient_as_bucket_view=True, static_graph=True
    )
    if accelerator.gradient_compression == "bf16":
        run.register_comm_hook(None, bf16_compress_hook)
    elif accelerator.gradient_compression == "powersgd":
        state = PowerSGDState(None, accelerator.powersgd_rank, start_powerSGD_iter=2)
        run.register_comm_hook(state, _power_sgd)
    return run


@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "ddp"},
        {"strategy": "ddp", "gradient_compression": "bf16"},
        {"strategy": "ddp", "gradient_compression": "powersgd"},
        {"strategy": "fsdp"},
        {"strategy": "hybrid"},
    ],
    ids=lambda settings: "_".join(settings.values()),
)
def test_peak_is_what_torch_measures(
    settings: dict[str, Any], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, **_: Done(tensor))
    accelerator = AcceleratorConfig(**settings)
    cost = measure_step(
        MAKE,
        (3, SIDE, SIDE),
        batch_size,
        CLASSES,
        loss=LOSS,
        make_optimizer=SGD,
        place="cpu",
    )
    parallel = DEVICES if accelerator.strategy == "hybrid" else 1
    with torch.device("meta"):
        network = MAKE()
    issued = collectives(network, accelerator, DEVICES, parallel, batch_size, "32-true")
    held = held_by(accelerator, DEVICES, 1, cost, issued)
    peak = memory_of(cost, 2**33, held).peak
    allowed = 0.05 if accelerator.strategy == "hybrid" else 0.02
    assert peak == pytest.approx(torchs_own(accelerator, batch_size), rel=allowed)
