"""What all default callbacks together leave in a run's event files."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Compose
from tests.dashboard.shown import tensors
from tests.training.test_run import job, train_and_kill
from vgglab.training.run import train

EVERYTHING = (
    "callbacks=default",
    "callbacks.first_filters.every_n_epochs=1",
    "callbacks.grad_cam.every_n_epochs=1",
    "callbacks.worst_mistakes.every_n_epochs=1",
    "callbacks.last_checkpoint.every_n_epochs=null",
    "callbacks.last_checkpoint.every_n_train_steps=4",
    "trainer.log_every_n_steps=2",
)
# What stands where an attempt begins, and how fast it went.
OF_AN_ATTEMPT = ("run/", "throughput/")
LAST = 11  # two epochs of six steps


def test_a_resumed_runs_pages_are_those_of_an_undisturbed_one(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(job(composed, *EVERYTHING, run_dir=undisturbed))
    # One step after the last checkpoint, in the middle of the second epoch.
    train_and_kill(job(composed, *EVERYTHING, run_dir=killed), 9, monkeypatch)
    train(job(composed, *EVERYTHING, "resume=auto", run_dir=killed))

    expected, found = tensors(undisturbed, ""), tensors(killed, "")
    assert found.keys() == expected.keys()
    for tag, values in expected.items():
        steps = [step for step, _ in found[tag]]
        if not tag.startswith("_hparams_"):  # TensorBoard reads them from their descriptions
            assert Counter(steps) == Counter(set(steps)), f"{tag} repeats a step: {steps}"
        if tag.startswith(OF_AN_ATTEMPT):
            continue
        assert steps == [step for step, _ in values], tag
        for (step, left), (_, right) in zip(values, found[tag], strict=True):
            np.testing.assert_array_equal(left, right, f"{tag} at step {step}")
            if left.dtype.kind == "f":
                assert np.isfinite(left).all(), tag
    assert [step for step, _ in found["train/loss"]] == list(range(1, LAST + 1, 2))
    for tag in ("run/configuration/text_summary", "run/environment/text_summary"):
        assert [step for step, _ in found[tag]] == [0, 8]
    waits = [float(value) for _, value in found["throughput/data_wait_fraction"]]
    assert all(0 < wait < 1 for wait in waits)
    assert len(waits) == math.ceil(LAST / 2)
