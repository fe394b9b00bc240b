"""A run is disturbed and resumed until it ends, and then compared with an undisturbed one."""

import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import torch

from tests.faults.disk import Fault
from tests.faults.forked import PATIENCE, ForkedRun, Reference
from tests.faults.launched import LaunchedRun
from tests.faults.trials import Trial
from tests.training.runs import assert_same, ending
from vgglab.cluster.preemption import REQUEUE


class LostSaveError(AssertionError):
    """A checkpoint whose save was completed is gone."""


def undergo(
    trial: Trial, run: ForkedRun | LaunchedRun, reference: Reference, within: float
) -> bool:
    """Disturb, resume until the end, compare.

    Args:
        trial: what is done to the run.
        run: not started yet.
        reference: the undisturbed run.
        within: seconds that its processes have, at most, until a signal.

    Returns:
        False if it ended before anything happened to it.

    Raises:
        AssertionError: it did not end as the undisturbed run did.
        LostSaveError: on the way.
    """
    disturbed = 0
    while disturbed < trial.disturbances and _disturb(trial, run, reference, within):
        disturbed += 1
        run.end()
        _nothing_is_lost(run)
    if disturbed == trial.disturbances:
        run.start()
    code = run.end()
    run.story.append(f"ended with {code}")
    assert code == 0, run.output
    assert_same(reference.ending, ending(run.run_dir), "")
    expected = _load(reference.diary / "final.pt")
    for path in run.folder.glob("process*/final.pt"):
        assert_same(expected, _load(path), "at the end of training")
    return disturbed > 0


def _disturb(
    trial: Trial, run: ForkedRun | LaunchedRun, reference: Reference, within: float
) -> bool:
    """Start it and let something happen to it; False if it ended before that."""
    chance = trial.chance
    if isinstance(run, LaunchedRun):
        return run.disturb(chance, within)
    moment = chance.uniform(0, within)
    if trial.kind in ("SIGKILL", "SIGTERM"):
        return _signal(trial.kind, run, moment)
    if trial.several:
        return _lose_a_process(chance, run, moment)
    effects = {"power cut": "power", "full disk": "full"}
    return _strike(_fault(chance, reference, effects.get(trial.kind, "kill")), run)


def _signal(name: str, run: ForkedRun, moment: float) -> bool:
    run.start()
    if run.wait(moment):
        return False
    run.story.append(f"{name} after {moment:.3f} s")
    os.kill(run.processes[0].pid, getattr(signal, name))
    code = run.end()
    if name == "SIGTERM":
        # While modules are imported the signal's own effect.
        assert code in (0, REQUEUE, -signal.SIGTERM), run.output
        assert "Traceback" not in run.output, run.output
    return code != 0


def _strike(fault: Fault, run: ForkedRun) -> bool:
    run.start(fault)
    code = run.end()
    run.story.append(f"{fault}: {code}")
    if code == 0:
        return False
    if fault.effect == "full":
        assert code == 2, run.output
        assert re.fullmatch(r"error: .*\n", run.output), run.output
    else:
        assert code == -signal.SIGKILL, run.output
    return True


def _fault(chance: random.Random, reference: Reference, effect: str) -> Fault:
    possible = [
        key
        for key in reference.operations
        if effect != "full" or key[0] in ("open", "write", "fsync")
    ]
    operation, kind = chance.choice(possible)
    number = chance.randint(1, reference.operations[operation, kind])
    moments = ["before", "after"] if operation != "write" else ["before", "within", "after"]
    return Fault(effect, operation, kind, number, chance.choice(moments), chance.getrandbits(32))


def _lose_a_process(chance: random.Random, run: ForkedRun, moment: float) -> bool:
    victims = chance.choice([(0,), (1,), (0, 1)])
    run.start()
    if run.wait(moment):
        return False
    run.story.append(f"SIGKILL of {victims} after {moment:.3f} s")
    for rank in victims:
        os.kill(run.processes[rank].pid, signal.SIGKILL)
    run.processes[victims[0]].join()
    # Before the processes have met, nobody tells one that the other is gone: here is no launcher.
    run.wait(PATIENCE / 10)
    run.kill()
    return any(process.exitcode != 0 for process in run.processes)


def _nothing_is_lost(run: ForkedRun | LaunchedRun) -> None:
    """The newest checkpoint that loads knows at least what the last completed save knew."""
    saved = max(map(_progress, run.folder.glob("process*/saves/*")), default=(-1, -1))
    found = max(map(_progress, run.run_dir.glob("checkpoints/*.ckpt")), default=(-1, -1))
    if found < saved:
        raise LostSaveError(f"{found} left of {saved} (optimiser steps, whole epochs)")


def _progress(path: Path) -> tuple[int, int]:
    """Optimiser steps, then whole epochs: one saved after the epoch's validation knows more."""
    try:
        checkpoint = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError):
        return -1, -1
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    return int(checkpoint["global_step"]), int(epochs)


def _load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state
