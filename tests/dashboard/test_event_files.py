"""What all callbacks together leave in a run's event files."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Compose
from tests.dashboard.shown import tensors
from tests.training.runs import assert_same_end, job, train_and_kill
from vgglab.training.run import train

# What drawing could disturb: batch norm's statistics, dropout's masks, an average of the weights.
DELICATE = (
    "model=vgg11_bn",
    "model.dropout=0.5",
    "data.pad=2",
    "callbacks.ema.decay=0.9",
    "callbacks.last_checkpoint.every_n_epochs=null",
    "callbacks.last_checkpoint.every_n_train_steps=2",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=2",
)
EVERYTHING = (
    "callbacks=[default,ema]",
    "callbacks.first_filters.every_n_epochs=2",
    "callbacks.grad_cam.every_n_epochs=2",
    "callbacks.worst_mistakes.every_n_epochs=1",
    "callbacks.pr_curves.every_n_epochs=1",
)
LAST = 17  # three epochs of six steps
RESUMED = 14  # one step before the kill, in the middle of the third epoch
STEPS = {
    "train/loss": [*range(1, LAST + 1, 2)],
    "run/": [0, RESUMED],
    "images/augmented": [0],
    "network/receptive_field": [0],
    "network/filters": [0, 11, 17],  # the beginning, two epochs, the end
    "network/grad_cam": [0, 11, 17],
    "val/mistakes": [5, 11, 17],
    "test/mistakes": [18],
    "test/confusion": [18],
    "weights/": [*range(0, LAST + 1, 2)],
    "gradients/": [*range(0, LAST + 1, 2)],
    "pr_val/": [5, 11, 17],
    "pr_test/": [18],
}
# What stands where an attempt begins, and how fast it went.
OF_AN_ATTEMPT = ("run/", "throughput/")


def test_drawing_changes_no_bit_of_a_run_and_a_resumed_runs_pages_are_an_undisturbed_ones(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, undisturbed, killed = (
        tmp_path / name for name in ("without", "undisturbed", "killed")
    )
    train(job(composed, *DELICATE, "callbacks=[essential,ema]", run_dir=without))
    train(job(composed, *DELICATE, *EVERYTHING, run_dir=undisturbed))
    assert_same_end(without, undisturbed)
    train_and_kill(job(composed, *DELICATE, *EVERYTHING, run_dir=killed), RESUMED + 1, monkeypatch)
    train(job(composed, *DELICATE, *EVERYTHING, "resume=auto", run_dir=killed))
    assert_same_end(undisturbed, killed)

    expected, found = tensors(undisturbed, ""), tensors(killed, "")
    assert found.keys() == expected.keys()
    for tag, values in expected.items():
        steps = [step for step, _ in found[tag]]
        if not tag.startswith("_hparams_"):  # TensorBoard reads them from their descriptions
            assert len(steps) == len(set(steps)), f"{tag} repeats a step: {steps}"
        if tag.startswith(OF_AN_ATTEMPT):
            continue
        assert steps == [step for step, _ in values], tag
        for (step, left), (_, right) in zip(values, found[tag], strict=True):
            np.testing.assert_array_equal(left, right, f"{tag} at step {step}")
            if left.dtype.kind == "f":
                assert np.isfinite(left).all(), tag
    for prefix, steps in STEPS.items():
        tags = [tag for tag in found if tag.startswith(prefix)]
        assert tags, prefix
        for tag in tags:
            assert [step for step, _ in found[tag]] == steps, tag
    for tag in ("network/filters", "network/grad_cam"):
        assert len({picture.tobytes() for _, picture in found[tag]}) == 3
    waits = [float(value) for _, value in found["throughput/data_wait_fraction"]]
    assert all(0 < wait < 1 for wait in waits)
    assert len(waits) == math.ceil(LAST / 2)
