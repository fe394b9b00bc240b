"""What a network says of images: their most probable classes, by name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vgglab.data.sources.imagenette import NAMES
from vgglab.evaluation.trained import Trained
from vgglab.prediction.reading import ReadImage
from vgglab.text import percent, plural


@dataclass(frozen=True)
class Prediction:
    """What a file shows."""

    path: Path
    ranked: Sequence[tuple[str, float]] = ()
    """Classes and their probabilities, most probable first. Empty: the file cannot be read."""
    true_class: str | None = None
    """Where the file's folder tells it."""
    error: str = ""
    """Why the file cannot be read."""

    @property
    def is_right(self) -> bool:
        """Whether the most probable class is the true one."""
        return bool(self.ranked) and self.ranked[0][0] == self.true_class


class Answer(NamedTuple):
    """To the images of a batch that could be read, N of them."""

    inputs: Tensor
    """(N, channels, *size), as the network took them."""
    probabilities: Tensor
    """(N, top) float32, largest first. Over all classes they sum to 1, or are not finite where
    the training diverged."""
    labels: Tensor
    """(N, top) int64: whose they are."""


@torch.inference_mode()
def answer(trained: Trained, images: Sequence[ReadImage], top: int, device: torch.device) -> Answer:
    """One pass of the network over the images that can be read.

    Args:
        trained: on the device, in evaluation mode.
        images: of which at least one can be read.
        top: classes an image, or all of them if there are fewer.
        device: the network's.
    """
    pixels = torch.stack([image.seen for image in images if image.seen is not None])
    inputs = trained.preprocessing.normalize(pixels.to(device))
    probabilities = trained.network(inputs).float().softmax(1)
    return Answer(inputs, *probabilities.topk(min(top, len(trained.classes))))


def predictions_of(
    images: Sequence[ReadImage], found: Answer | None, classes: Sequence[str]
) -> Iterator[Prediction]:
    """An answer by name, in the order of the images, those among them that cannot be read.

    Args:
        images: a batch.
        found: the answer to it. None: none of the images can be read.
        classes: names in label order.
    """
    rows: Iterator[tuple[list[float], list[int]]] = iter(())
    if found is not None:
        rows = zip(found.probabilities.tolist(), found.labels.tolist(), strict=True)
    for image in images:
        known = true_class(image.path, classes)
        if image.seen is None:
            yield Prediction(image.path, true_class=known, error=image.error)
            continue
        probabilities, labels = next(rows)
        names = [classes[label] for label in labels]
        yield Prediction(image.path, list(zip(names, probabilities, strict=True)), known)


def true_class(path: Path, classes: Sequence[str]) -> str | None:
    """The class that a file's folder is named after, by its name or by Imagenette's number."""
    folder = path.parent.name
    name = NAMES.get(folder, folder)
    return name if name in classes else None


def accuracy_line(predictions: Sequence[Prediction]) -> str | None:
    """How many are right, in words, of those whose true class is known; None where none is."""
    judged = [found for found in predictions if found.true_class is not None and found.ranked]
    if not judged:
        return None
    top = max(len(found.ranked) for found in judged)
    counts = {"top-1": sum(found.is_right for found in judged)}
    if top > 1:
        counts[f"top-{top}"] = sum(
            found.true_class in [name for name, _ in found.ranked] for found in judged
        )
    shares = ", ".join(f"{name} {percent(n / len(judged))}" for name, n in counts.items())
    return f"{shares} of {plural(len(judged), 'image')} in folders named after classes"
