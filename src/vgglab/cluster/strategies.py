"""How the processes of a run share their work; docs/strategies.md says when to use which."""

import logging
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.overrides.distributed import _register_ddp_comm_hook, _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.strategies.parallel import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vgglab.cluster.sharding import (
    gathered,
    part_of,
    shard_fully,
    shard_hybrid,
    tensor_parallel_size,
)
from vgglab.cluster.watch import GRACE_SECONDS
from vgglab.config.schema import AcceleratorConfig
from vgglab.errors import InputError


def strategy(accelerator: AcceleratorConfig) -> Strategy | str:
    """How the processes of a run share their work."""
    devices = accelerator.devices
    one = len(devices) == 1 if isinstance(devices, list) else devices in (1, "auto")
    if accelerator.strategy == "auto" and one and accelerator.num_nodes == 1:
        return "auto"
    if accelerator.strategy in ("fsdp", "hybrid"):
        return Sharded(accelerator)
    hook: dict[str, Any] = {}
    if accelerator.gradient_compression == "bf16":
        hook = {"ddp_comm_hook": bf16_compress_hook}
    elif accelerator.gradient_compression == "powersgd":
        state = PowerSGDState(
            process_group=None,
            matrix_approximation_rank=accelerator.powersgd_rank,
            start_powerSGD_iter=accelerator.powersgd_start_step,
        )
        hook = {"ddp_comm_hook": _power_sgd, "ddp_comm_state": state}
    return DataParallel(
        process_group_backend=accelerator.process_group_backend,
        timeout=timedelta(seconds=accelerator.timeout_seconds + GRACE_SECONDS),
        gradient_as_bucket_view=True,  # saves one copy of the gradients
        static_graph=True,  # each step uses every parameter, in the same order
        **hook,
    )


class DataParallel(DDPStrategy):
    """Lightning's, for networks that use each parameter once a step, with hooks on a CPU too.

    DDP makes its buckets anew after its first backward passes, and where a gradient lies in one
    decides in which order the devices' numbers are added. So that a resumed run adds as the
    undisturbed one did, two passes that make zeros come before the first step. (They also let a run
    begin with gradients that are only accumulated, which a static graph must not.)
    """

    def _register_ddp_hooks(self) -> None:
        ddp, module = self.model, self.lightning_module
        assert ddp is not None
        assert module is not None
        module.forward = _nothing  # type: ignore[method-assign]
        for _ in range(2):
            ddp(module).backward()  # on a GPU DDP takes no call without arguments
        del module.forward
        module.zero_grad()
        _register_ddp_comm_hook(ddp, self._ddp_comm_state, self._ddp_comm_hook)  # type: ignore[arg-type]


def _nothing(module: nn.Module) -> Tensor:
    """0, whose backward pass comes to the parameters from the last one to the first."""
    return torch.stack([(p * 0).sum() for p in module.parameters() if p.requires_grad]).sum()


class _AsStored:
    """A bucket of gradients, each as its memory lies: PowerSGD cannot view channels-last ones."""

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def gradients(self) -> list[Tensor]:
        return [g if g.is_contiguous() else g.movedim(1, -1) for g in self._bucket.gradients()]


def _power_sgd(
    state: PowerSGDState,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    stored: Any = _AsStored(bucket)
    future = powerSGD_hook(state, stored)
    if bucket.buffer().device.type == "cpu":
        # gloo calls back from its own threads: two buckets' all-reduces could change places.
        future.wait()
    return future


class Sharded(ModelParallelStrategy):
    """`fsdp` and `hybrid`: each device keeps a part of the parameters and of their optimiser state.

    Beside Lightning's: a checkpoint is one file, the same as one process writes, and passes through
    the trainer's CheckpointIO both ways; evaluation runs on a whole copy of the network, so that
    the devices need not have equally many images; gradients that are accumulated stay at home;
    moving averages (WeightAveraging) are sharded too.
    """

    def __init__(self, accelerator: AcceleratorConfig) -> None:
        super().__init__(
            save_distributed_checkpoint=False,
            process_group_backend=accelerator.process_group_backend,
            timeout=timedelta(seconds=accelerator.timeout_seconds + GRACE_SECONDS),
        )
        self.config = accelerator
        self._whole: nn.Module | None = None
        # Of gathering fc6 in two steps, which happens at a checkpoint only.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        # Nothing works in place on fc6's and fc7's outputs; see `shard_hybrid`.
        warnings.filterwarnings("ignore", ".*FSDP2-wrapped module .* returned a view tensor.*")

    def tensor_parallel(self, network: nn.Module) -> int:
        """How many devices share fc6 and fc7.

        Raises:
            InputError: none can.
        """
        if self.config.strategy == "fsdp":
            return 1
        world_size = self.num_processes * self.num_nodes
        return tensor_parallel_size(
            self.config.tensor_parallel, network, self.num_processes, world_size
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._setup_distributed()

    def setup(self, trainer: Trainer) -> None:
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        if trainer.state.fn == TrainerFn.FITTING and self._layer_sync is not None:
            self._layer_sync.apply(self.model)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        self._shard(trainer)
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _shard(self, trainer: Trainer) -> None:
        network = self._network
        if isinstance(network, FSDPModule):
            return  # it was trained, and is tested now
        assert self.model is not None
        _sync_module_states(self.model)  # the first process's, as in DDP
        self._whole = deepcopy(network).eval().to("meta")
        networks = [network]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                average = callback._average_model.to(self.root_device).module
                networks.append(average.get_submodule("network"))
        size = self.tensor_parallel(network)
        kind = self.root_device.type
        mesh = init_device_mesh(kind, (self.world_size,), mesh_dim_names=("world",))
        names = ("data_parallel", "tensor_parallel")
        self._device_mesh = init_device_mesh(
            kind, (self.world_size // size, size), mesh_dim_names=names
        )
        for each in networks:
            each.to(memory_format=torch.contiguous_format)  # the only one that FSDP2 takes
            if self.config.strategy == "hybrid":
                shard_hybrid(each, mesh, self.device_mesh)
            else:
                shard_fully(each, mesh)

    @property
    def _network(self) -> nn.Module:
        assert self.lightning_module is not None
        network = self.lightning_module.network
        assert isinstance(network, nn.Module)
        return network

    @contextmanager
    def whole_network(self) -> Generator[nn.Module]:
        """The network in one piece on each device, with the first process's statistics."""
        assert self._whole is not None
        state = {}
        for name, value in self._network.state_dict().items():
            if isinstance(value, DTensor):
                state[name] = value.full_tensor()
            else:
                state[name] = value.clone()
                distributed.broadcast(state[name], 0)
        self._whole.load_state_dict(state, assign=True)
        try:
            yield self._whole
        finally:
            self._whole.to("meta")

    @contextmanager
    def block_backward_sync(self) -> Generator[None]:
        root = self._network
        assert isinstance(root, FSDPModule)
        root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            root.set_requires_gradient_sync(True)

    def teardown(self) -> None:
        super().teardown()
        self.checkpoint_io.teardown()  # which Lightning's leaves out: files may be being written

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return ParallelStrategy.lightning_module_state_dict(self)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        ParallelStrategy.load_model_state_dict(self, checkpoint, strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return ParallelStrategy.optimizer_state(self, optimizer)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = checkpoint["optimizer_states"]
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(_parts_of(state, optimizer))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        plain = gathered(checkpoint, keep=self.is_global_zero)
        ParallelStrategy.save_checkpoint(self, plain, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)


def _parts_of(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's whole state as this process's part of it."""
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    like = dict(zip(numbers, parameters, strict=True))
    parts = {
        number: {
            name: part_of(value, like[number]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": parts}


def refuse_misfit(trainer: Trainer, network: nn.Module) -> None:
    """Refuse what the strategy cannot do with this network on these devices.

    Raises:
        InputError: with what to do.
    """
    strategy = trainer.strategy
    if getattr(strategy, "_layer_sync", None) is not None and strategy.root_device.type == "cpu":
        raise InputError("accelerator.sync_batchnorm=true needs GPUs: torch has no form for a CPU")
    if isinstance(strategy, Sharded):
        strategy.tensor_parallel(network)
