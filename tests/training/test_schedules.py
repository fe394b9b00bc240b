"""Schedules against torch's own, and the properties their settings promise."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from vgglab.training import schedules
from vgglab.training.schedules import Horizon, Schedule

LR = 0.4


def optimizer() -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


def rates(optimizer: Optimizer, scheduler: object, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()  # type: ignore[attr-defined]
    return found


def moved(schedule: Schedule, sgd: SGD, count: int) -> list[float]:
    assert schedule.scheduler is not None
    return rates(sgd, schedule.scheduler, count)


def test_cosine_is_torchs() -> None:
    ours, theirs = optimizer(), optimizer()
    schedule = schedules.cosine(ours, Horizon(30, 10), final_ratio=0.25)
    reference = CosineAnnealingLR(theirs, T_max=30, eta_min=0.25 * LR)
    assert moved(schedule, ours, 31) == pytest.approx(rates(theirs, reference, 31))


def test_step_is_torchs() -> None:
    ours, theirs = optimizer(), optimizer()
    schedule = schedules.step(ours, Horizon(90, 10), milestones=[3, 6], factor=0.1)
    reference = MultiStepLR(theirs, [3, 6], gamma=0.1)
    assert schedule.interval == "epoch"
    assert moved(schedule, ours, 9) == pytest.approx(rates(theirs, reference, 9))


def test_step_without_milestones_falls_at_half_and_three_quarters() -> None:
    sgd = optimizer()
    found = moved(schedules.step(sgd, Horizon(80, 10), factor=0.5), sgd, 8)
    assert found == pytest.approx([LR] * 4 + [LR / 2] * 2 + [LR / 4] * 2)


def test_step_counted_in_steps_falls_at_the_same_epochs() -> None:
    sgd = optimizer()
    schedule = schedules.step(sgd, Horizon(80, 10), interval="step", milestones=[2.5])
    found = moved(schedule, sgd, 80)
    assert found.index(pytest.approx(LR / 10)) == 25


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@given(total=st.integers(8, 60), fraction=st.floats(0.2, 0.8))
def test_one_cycle_is_torchs(anneal: Literal["cos", "linear"], total: int, fraction: float) -> None:
    ours, theirs = optimizer(), optimizer()
    schedule = schedules.one_cycle(ours, Horizon(total, 1), warmup_fraction=fraction, anneal=anneal)
    reference = OneCycleLR(
        theirs,
        LR,
        total_steps=total,
        pct_start=fraction,
        anneal_strategy=anneal,
        cycle_momentum=False,
    )
    expected = rates(theirs, reference, total - 1)
    assert moved(schedule, ours, total - 1) == pytest.approx(expected, rel=1e-6)


@given(
    warmup=st.floats(0.1, 2.9),
    start=st.floats(0, 1),
    interval=st.sampled_from(["step", "epoch"]),
    kind=st.sampled_from(["constant", "cosine", "step"]),
)
def test_warmup_is_a_line_and_never_above_the_rate(
    warmup: float, start: float, interval: schedules.Interval, kind: str
) -> None:
    sgd = optimizer()
    schedule = getattr(schedules, kind)(
        sgd,
        Horizon(40, 10),
        interval=interval,
        warmup_epochs=warmup,
        warmup_start_ratio=start,
    )
    found = moved(schedule, sgd, 40 if interval == "step" else 4)
    length = warmup * (10 if interval == "step" else 1)
    for position in range(math.ceil(length)):
        expected = LR * (start + (1 - start) * position / length)
        assert found[position] == pytest.approx(expected)
    assert max(found) <= LR * (1 + 1e-9)


def test_plateau_falls_when_the_metric_stalls_and_not_before() -> None:
    sgd = optimizer()
    schedule = schedules.plateau(sgd, Horizon(100, 10), patience=1, threshold=0.01)
    assert schedule.plateau is not None
    found = []
    for value in (0.5, 0.6, 0.605, 0.605, 0.8):
        schedule.plateau.step(value)
        found.append(sgd.param_groups[0]["lr"])
    assert found == pytest.approx([LR, LR, LR, LR / 10, LR / 10])


def test_plateau_owns_the_rate_after_its_warmup() -> None:
    sgd = optimizer()
    schedule = schedules.plateau(sgd, Horizon(100, 10), patience=0, warmup_epochs=1)
    warmed = moved(schedule, sgd, 12)
    assert warmed[:11] == pytest.approx([LR * (0.01 + 0.99 * i / 10) for i in range(11)])
    assert schedule.plateau is not None
    for _ in range(2):
        schedule.plateau.step(0.5)
    assert moved(schedule, sgd, 3) == pytest.approx([LR / 10] * 3)


def test_plateau_refuses_a_warmup_that_fills_the_run() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        schedules.plateau(optimizer(), Horizon(20, 10), warmup_epochs=2)
