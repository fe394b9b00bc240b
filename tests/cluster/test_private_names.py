"""Private names of Lightning's and torch's that we replace, override or read, still at their work.

One that is renamed or no longer used there would make ours do nothing, without an error.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.overrides.distributed import _register_ddp_comm_hook, _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher, subprocess_script
from lightning.pytorch.strategies.parallel import ParallelStrategy
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch.distributed.tensor import _redistribute

# By whom and how each is used.
USES: list[tuple[Callable[..., Any], str]] = [
    # vgglab.cluster.watch replaces it.
    (_SubprocessScriptLauncher.launch, "_launch_process_observer(self.procs)"),
    # vgglab.cluster.preemption replaces the first two, and sets what the others read.
    (Trainer._run, "self._signal_connector.register_signal_handlers()"),
    (_TrainingEpochLoop.advance, "self._broadcast_sigterm_tensor()"),
    (Trainer.received_sigterm.fget, "return self._signal_connector.received_sigterm"),
    (_TrainingEpochLoop.on_advance_end, "self.trainer.received_sigterm: raise SIGTERMException"),
    (_FitLoop.on_advance_end, "if trainer.received_sigterm: raise SIGTERMException"),
    # vgglab.cluster.strategies overrides or sets them.
    (DDPStrategy.configure_ddp, "self._register_ddp_hooks()"),
    (DDPStrategy.__init__, "self._ddp_comm_state = ddp_comm_state"),
    (DDPStrategy.__init__, "self._ddp_comm_hook = ddp_comm_hook"),
    (ModelParallelStrategy.setup_environment, "self._setup_distributed()"),
    (ModelParallelStrategy.device_mesh.fget, "return self._device_mesh"),
    (ParallelStrategy.__init__, "self._layer_sync"),
    (WeightAveraging.setup, "self._average_model = AveragedModel("),
    # vgglab.training.assembly replaces it.
    (_FitLoop.restarting.fset, "or self._iteration_based_training()"),
    (_FitLoop.on_run_start, "if not self._iteration_based_training():"),
    # vgglab.training.callbacks overrides the first and calls or sets the others.
    (ModelCheckpoint._save_monitor_checkpoint, "self._update_best_and_save("),
    (ModelCheckpoint._update_best_and_save, "self._save_checkpoint(trainer, filepath)"),
    (ModelCheckpoint._save_none_monitor_checkpoint, "self._save_checkpoint(trainer, filepath)"),
    (ModelCheckpoint.on_train_batch_end, "self._save_topk_checkpoint(trainer, monitor_candidates)"),
    (ModelCheckpoint._should_skip_saving_checkpoint, "self._last_global_step_saved =="),
    (ModelCheckpoint._save_checkpoint, "self._last_global_step_saved = trainer.global_step"),
    (ModelCheckpoint._save_checkpoint, "self._last_checkpoint_saved = filepath"),
    (ModelCheckpoint.on_train_batch_end, "trainer.global_step % self._every_n_train_steps"),
    (ModelCheckpoint.on_train_epoch_end, "% self._every_n_epochs == 0"),
    (_TrainingEpochLoop.advance, "trainer._logger_connector.update_train_step_metrics()"),
]
# What they take.
TAKES = {
    subprocess_script._launch_process_observer: ["child_processes"],
    _SignalConnector.register_signal_handlers: ["self"],
    _TrainingEpochLoop._broadcast_sigterm_tensor: ["self"],
    _FitLoop._iteration_based_training: ["self"],
    DDPStrategy._register_ddp_hooks: ["self"],
    ModelParallelStrategy._setup_distributed: ["self"],
    ModelCheckpoint._save_checkpoint: ["self", "trainer", "filepath"],
    ModelCheckpoint._save_topk_checkpoint: ["self", "trainer", "monitor_candidates"],
    ModelCheckpoint._monitor_candidates: ["self", "trainer"],
    ModelCheckpoint._should_skip_saving_checkpoint: ["self", "trainer"],
    _register_ddp_comm_hook: ["model", "ddp_comm_state", "ddp_comm_hook", "ddp_comm_wrapper"],
    _sync_module_states: ["module"],
}


@pytest.mark.parametrize(("user", "use"), USES)
def test_it_is_used_as_we_rely_on(user: Callable[..., Any], use: str) -> None:
    source = "".join(inspect.getsource(user).split())
    assert "".join(use.split()) in source


@pytest.mark.parametrize("function", TAKES)
def test_it_takes_what_we_rely_on(function: Callable[..., Any]) -> None:
    assert list(inspect.signature(function).parameters) == TAKES[function]


def test_the_logger_that_we_quieten_is_the_one_that_warns() -> None:
    assert _redistribute.logger.name == "torch.distributed.tensor._redistribute"
