"""Learning-rate schedules with warm-up, per step or per epoch.

A schedule is a function of an optimiser and a horizon; its keyword arguments are its settings. All
but plateau are a closed formula of the position, so a resumed run needs no history and may be
longer than it was.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

Interval = Literal["step", "epoch"]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Ratio = Annotated[float, Ge(0), Le(1)]
OpenRatio = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class Horizon:
    """How long a run is, in optimiser steps."""

    total_steps: int
    steps_per_epoch: int

    def units(self, interval: Interval) -> tuple[float, float]:
        """The run's length and an epoch's length, counted in `interval`s."""
        if interval == "step":
            return self.total_steps, self.steps_per_epoch
        return self.total_steps / self.steps_per_epoch, 1


@dataclass(frozen=True)
class Schedule:
    """What moves the learning rate. `plateau` is stepped by a validation metric, after each one."""

    scheduler: LRScheduler | None = None
    interval: Interval = "step"
    plateau: ReduceLROnPlateau | None = None
    monitor: str = "val/top1"


def _with_warmup(
    optimizer: Optimizer,
    after: Callable[[float], float],
    warmup: float,
    start_ratio: float,
) -> LambdaLR:
    """A straight line from `start_ratio` to 1 over `warmup` units, then `after(units since)`."""

    def ratio(position: int) -> float:
        if position < warmup:
            return start_ratio + (1 - start_ratio) * position / warmup
        return after(position - warmup)

    return LambdaLR(optimizer, ratio)


def constant(
    optimizer: Optimizer,
    horizon: Horizon,
    *,
    interval: Interval = "step",
    warmup_epochs: NotNegative = 0.0,
    warmup_start_ratio: Ratio = 0.01,
) -> Schedule:
    """The configured rate throughout, after the warm-up."""
    _, epoch = horizon.units(interval)
    scheduler = _with_warmup(optimizer, lambda _: 1.0, warmup_epochs * epoch, warmup_start_ratio)
    return Schedule(scheduler, interval)


def cosine(
    optimizer: Optimizer,
    horizon: Horizon,
    *,
    interval: Interval = "step",
    warmup_epochs: NotNegative = 0.0,
    warmup_start_ratio: Ratio = 0.01,
    final_ratio: Ratio = 0.0,
) -> Schedule:
    """Half a cosine from the configured rate to `final_ratio` of it (SGDR, arXiv 1608.03983)."""
    total, epoch = horizon.units(interval)
    warmup = warmup_epochs * epoch

    def after(position: float) -> float:
        progress = min(position / max(total - warmup, 1e-9), 1.0)
        return final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * progress)) / 2

    return Schedule(_with_warmup(optimizer, after, warmup, warmup_start_ratio), interval)


def step(
    optimizer: Optimizer,
    horizon: Horizon,
    *,
    interval: Interval = "epoch",
    milestones: list[Positive] | None = None,
    factor: OpenRatio = 0.1,
    warmup_epochs: NotNegative = 0.0,
    warmup_start_ratio: Ratio = 0.01,
) -> Schedule:
    """Multiply by `factor` at each milestone, in epochs from the start of the run.

    Without milestones: at one half and at three quarters of the run.
    """
    total, epoch = horizon.units(interval)
    marks = [total / 2, total * 3 / 4]
    if milestones is not None:
        marks = [milestone * epoch for milestone in milestones]
    warmup = warmup_epochs * epoch

    def after(position: float) -> float:
        return factor ** sum(position + warmup >= mark for mark in marks)

    return Schedule(_with_warmup(optimizer, after, warmup, warmup_start_ratio), interval)


def plateau(
    optimizer: Optimizer,
    horizon: Horizon,
    *,
    monitor: str = "val/top1",
    mode: Literal["max", "min"] = "max",
    factor: OpenRatio = 0.1,
    patience: Annotated[int, Ge(0)] = 5,
    threshold: NotNegative = 1e-3,
    min_lr: NotNegative = 0.0,
    warmup_epochs: NotNegative = 0.0,
    warmup_start_ratio: Ratio = 0.01,
) -> Schedule:
    """Multiply by `factor` when `monitor` has stopped improving: the paper's rule (section 3.1)."""
    if warmup_epochs >= horizon.total_steps / horizon.steps_per_epoch:
        raise ValueError(f"warmup_epochs={warmup_epochs:g} leaves nothing of the run")
    reduce = ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode="abs",
        min_lr=min_lr,
    )
    warmup = None
    if warmup_epochs:
        warmup = ChainableWarmup(
            optimizer, warmup_epochs * horizon.steps_per_epoch, warmup_start_ratio
        )
    return Schedule(warmup, "step", plateau=reduce, monitor=monitor)


class ChainableWarmup(LRScheduler):
    """A linear warm-up that leaves the rate alone once it is over, so that plateau can own it."""

    def __init__(self, optimizer: Optimizer, steps: float, start_ratio: float) -> None:
        self.steps = steps
        self.start_ratio = start_ratio
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch > math.ceil(self.steps):
            return [group["lr"] for group in self.optimizer.param_groups]
        progress = min(self.last_epoch / self.steps, 1.0)
        ratio = self.start_ratio + (1 - self.start_ratio) * progress
        return [base * ratio for base in self.base_lrs]


def one_cycle(
    optimizer: Optimizer,
    horizon: Horizon,
    *,
    warmup_fraction: OpenRatio = 0.3,
    initial_divisor: Positive = 25.0,
    final_divisor: Positive = 1e4,
    anneal: Literal["cos", "linear"] = "cos",
) -> Schedule:
    """Up to the configured rate and down again, a step at a time (arXiv 1708.07120).

    The rates of torch's OneCycleLR, which itself cannot continue a run past its first length. The
    momentum stays as the optimiser has it.
    """
    last = horizon.total_steps - 1
    top = max(warmup_fraction * horizon.total_steps - 1, 1e-9)
    first, final = 1 / initial_divisor, 1 / (initial_divisor * final_divisor)

    def between(start: float, end: float, progress: float) -> float:
        progress = min(progress, 1.0)
        if anneal == "cos":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return start + (end - start) * progress

    def ratio(position: int) -> float:
        if position <= top:
            return between(first, 1.0, position / top)
        return between(1.0, final, (position - top) / max(last - top, 1e-9))

    return Schedule(LambdaLR(optimizer, ratio), "step")
