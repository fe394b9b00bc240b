"""The LightningModule: a network, a loss, an optimiser and a schedule become training steps."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from vgglab.cluster.strategies import Sharded
from vgglab.config.errors import did_you_mean
from vgglab.data.sampling import derive_seed
from vgglab.errors import InputError
from vgglab.evaluation.metrics import Score
from vgglab.training.optim import clip_sharded, is_sharded, parameter_groups
from vgglab.training.schedules import Horizon, Schedule

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]
MakeSchedule = Callable[[Optimizer, Horizon], Schedule]

_NEVER = 1 << 62  # epochs; see `configure_optimizers`


class Classifier(LightningModule):
    """Trains `network` to classify images and measures it.

    Args:
        network: (N, C, H, W) to logits (N, num_classes).
        loss: logits and labels (N,), or label weights (N, num_classes), to a scalar.
        make_optimizer: parameter groups to an optimiser.
        make_schedule: optimiser and horizon to a schedule.
        num_classes: of the data.
        seed: of everything random inside the network (dropout).
        decay_norm_and_bias: see `parameter_groups`.
        channels_last: the memory format of images and convolutions.
        compile: run the network through torch.compile.
        card: what a checkpoint says of itself, in plain containers: whoever loads it later needs
            nothing else to rebuild the network and its input.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        make_optimizer: MakeOptimizer,
        make_schedule: MakeSchedule,
        *,
        num_classes: int,
        seed: int = 0,
        decay_norm_and_bias: bool = True,
        channels_last: bool = True,
        compile: bool = False,
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.make_optimizer = make_optimizer
        self.make_schedule = make_schedule
        self.num_classes = num_classes
        self.seed = seed
        self.decay_norm_and_bias = decay_norm_and_bias
        self.card = card or {}
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        if compile:
            self.network.compile()  # in place: the state dict gets no `_orig_mod.` keys
        self.schedule: Schedule | None = None
        self.validated = False
        self._whole: tuple[nn.Module, ...] = ()  # in a tuple it is no part of this module
        self._evaluation = ExitStack()
        self.val_score = Score(num_classes, "val")
        self.test_score = Score(num_classes, "test")

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, num_classes)."""
        network = self._whole[0] if self._whole else self.network
        logits: Tensor = network(images.to(self.dtype, memory_format=self.memory_format))
        return logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout becomes a function of (seed, epoch, batch, rank): a resumed step draws the same
        # mask without any random state in the checkpoint.
        position = (self.current_epoch, batch_idx, self.global_rank)
        seed_network(self.seed, position, self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss: Tensor = self.loss(logits, labels)
        # Of mixed images (MixUp, CutMix) the label that weighs most counts.
        hard = labels if labels.ndim == 1 else labels.argmax(1)
        top1 = (logits.detach().argmax(1) == hard).float().mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(images))
        self.log("train/top1", top1, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> STEP_OUTPUT:
        return self._evaluate(self.val_score, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> STEP_OUTPUT:
        return self._evaluate(self.test_score, batch)

    def _evaluate(self, score: Score, batch: tuple[Tensor, Tensor]) -> STEP_OUTPUT:
        images, labels = batch
        if len(images):
            logits = self(images)
            score.update(logits, labels, self.loss(logits, labels))
        else:  # none of them can be read (data.on_error=skip)
            logits = images.new_zeros(0, self.num_classes)
        return {"logits": logits, "labels": labels}

    def on_train_epoch_start(self) -> None:
        self.validated = False

    def on_validation_epoch_start(self) -> None:
        if isinstance(self.trainer.strategy, Sharded):
            whole = self.trainer.strategy.whole_network()
            self._whole = (self._evaluation.enter_context(whole),)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_validation_epoch_end(self) -> None:
        self._end_evaluation()
        self.validated = True
        self.log_dict(self.val_score.finish(), prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self._end_evaluation()
        self.log_dict(self.test_score.finish())

    def _end_evaluation(self) -> None:
        self._whole = ()
        self._evaluation.close()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups = parameter_groups(self.network, decay_norm_and_bias=self.decay_norm_and_bias)
        optimizer = self.make_optimizer(groups)
        self.schedule = self.make_schedule(optimizer, self._horizon())
        configured: list[Any] = []
        if self.schedule.scheduler is not None:
            configured.append(
                {"scheduler": self.schedule.scheduler, "interval": self.schedule.interval}
            )
        if self.schedule.plateau is not None:
            # Lightning saves and restores it, but would step it after the epoch's checkpoint is
            # written, so that a resumed run would miss a step: `on_train_epoch_end` does it.
            configured.append(
                {
                    "scheduler": self.schedule.plateau,
                    "interval": "epoch",
                    "frequency": _NEVER,
                    "monitor": self.schedule.monitor,
                }
            )
        return [optimizer], configured

    def on_train_epoch_end(self) -> None:
        schedule = self.schedule
        if schedule is None or schedule.plateau is None or not self.validated:
            return
        metrics = self.trainer.callback_metrics
        if schedule.monitor not in metrics:
            choices = did_you_mean(schedule.monitor, metrics)
            raise InputError(f"scheduler.monitor={schedule.monitor}: no such metric; {choices}")
        schedule.plateau.step(float(metrics[schedule.monitor]))

    def _horizon(self) -> Horizon:
        # Lightning's `estimated_stepping_batches` would create the training loader before a
        # checkpoint's position is restored, and the position would then be lost.
        loader = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        return horizon_of(self.trainer, len(loader))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # A skipped step has no gradients, and torch's clipping by value fails without any.
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        if not parameters:
            return
        if gradient_clip_val and is_sharded(parameters):
            clip_sharded(parameters, gradient_clip_val, by_value=gradient_clip_algorithm == "value")
        else:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vgglab"] = self.card


def seed_network(seed: int, position: tuple[int, int, int], device: torch.device) -> None:
    """Seed what is random inside the network for one step, at its (epoch, batch, rank)."""
    derived = derive_seed(seed, *position)
    # `torch.manual_seed` also walks over every other backend, about a millisecond a step.
    torch.default_generator.manual_seed(derived)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(derived)


def horizon_of(trainer: Trainer, batches: int) -> Horizon:
    """The run's length, from the batches of an epoch and the trainer's limits."""
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
    total = trainer.max_steps
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        by_epochs = trainer.max_epochs * per_epoch
        total = by_epochs if total == -1 else min(total, by_epochs)
    return Horizon(total_steps=max(total, 1), steps_per_epoch=max(per_epoch, 1))
