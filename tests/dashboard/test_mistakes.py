"""The worst mistakes against a sort of all images at once."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY, Compose
from tests.training.runs import curves
from vgglab.config.schema import TrainConfig, parse
from vgglab.dashboard.mistakes import Candidate, Worst
from vgglab.data.sampling import ShardedBatches
from vgglab.evaluation.trained import load_trained
from vgglab.reporting.pixels import thumbnail
from vgglab.training.assembly import build_data
from vgglab.training.run import train

ALONE: Any = SimpleNamespace(strategy=SimpleNamespace(all_gather=lambda part: part))


def expected(logits: torch.Tensor, labels: torch.Tensor, count: int) -> list[tuple[float, int]]:
    shares = logits.double().softmax(1)
    wrong = [
        (round(float(shares[i].max()), 5), i)
        for i in range(len(labels))
        if shares[i].argmax() != labels[i]
    ]
    return sorted(wrong, key=lambda pair: (-pair[0], pair[1]))[:count]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [4, 32])
def test_the_worst_of_all_processes_are_the_worst_of_all_images(
    world_size: int, count: int
) -> None:
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(23, 5, generator=generator).repeat(2, 1)  # each confidence twice
    labels = torch.randint(5, (46,), generator=generator)
    parts = []
    for rank in range(world_size):
        worst = Worst(count, torch.device("cpu"))
        batches = ShardedBatches(46, 6, rank=rank, world_size=world_size)
        for batch in batches:
            indices = batch.images
            worst.add(logits[indices], labels[indices], indices)
        parts.append(worst)

    def all_gather(own: torch.Tensor) -> torch.Tensor:
        kind = "_numbers" if own is parts[0]._numbers else "_probabilities"
        return torch.stack([getattr(part, kind) for part in parts])

    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(all_gather=all_gather))
    found = parts[0].of_all(trainer)
    assert [(round(m.probability, 5), m.index) for m in found] == expected(logits, labels, count)
    for mistake in found:
        shares = logits[mistake.index].softmax(0)
        assert mistake.true == labels[mistake.index] != mistake.predicted == shares.argmax()
        assert mistake.true_probability == pytest.approx(float(shares[mistake.true]))


def test_right_answers_and_numbers_that_are_not_finite_are_no_mistakes() -> None:
    worst = Worst(3, torch.device("cpu"))
    logits = torch.tensor([[9.0, 0.0], [float("nan"), 0.0], [0.0, 1.0]])
    worst.add(logits, torch.tensor([0, 1, 0]), [0, 1, 2])
    (mistake,) = worst.of_all(ALONE)
    assert mistake == Candidate(*logits[2].softmax(0).flip(0).tolist(), 0, 1, 2)


def test_a_batch_of_broken_images_alone_changes_nothing() -> None:
    worst = Worst(3, torch.device("cpu"))
    worst.add(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), [5])
    worst.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), [])
    assert [mistake.index for mistake in worst.of_all(ALONE)] == [5]


def test_a_run_writes_its_test_sets_mistakes(composed: Compose, tmp_path: Path) -> None:
    pictures = ("callbacks=[essential,pictures]", "callbacks.worst_mistakes.count=5")
    # An odd test set, whose last batch is smaller.
    job = parse(composed("train", *TINY, *pictures, "data.test_size=19"), TrainConfig)
    train(job)
    rows = json.loads((tmp_path / "run/mistakes.json").read_text())["mistakes"]

    data = build_data(job)
    trained = load_trained(tmp_path / "run/checkpoints/best.ckpt")
    images = data.sets["test"]
    pixels = torch.stack([images.image(i) for i in range(19)])
    with torch.no_grad():
        logits = trained.network(data.preprocessing.normalize(pixels))
    wanted = expected(logits, images.labels, 5)
    assert wanted
    assert [row["index"] for row in rows] == [index for _, index in wanted]
    for row, (probability, index) in zip(rows, wanted, strict=True):
        assert row["probability"] == pytest.approx(probability, abs=1e-4)
        assert row["true"] == data.classes[images.labels[index]]
        assert row["predicted"] == data.classes[logits[index].argmax()]
        with Image.open(io.BytesIO(base64.b64decode(row["image"]))) as read:
            shown = torch.from_numpy(np.array(read)).permute(2, 0, 1)
        assert torch.equal(shown, thumbnail(images.image(index)))

    shown_steps = {
        tag: [step for step, _ in points] for tag, points in curves(tmp_path / "run").items()
    }
    assert shown_steps["test/mistakes"] == [12]
    assert shown_steps["val/mistakes"] == [11]  # of ten epochs none is due but the last
