"""scripts/predict.py: the most probable classes of image files."""

import csv
import glob
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table

from vgglab.config.jobs import PredictConfig
from vgglab.data.decoding import IMAGE_SUFFIXES, decode
from vgglab.errors import InputError
from vgglab.evaluation.protocols import find_device
from vgglab.evaluation.trained import Trained, load_trained
from vgglab.reporting.terminal import console

Prediction = tuple[Path, list[tuple[str, float]]]
"""A file with its classes and their probabilities, most probable first."""


def predict(job: PredictConfig) -> None:
    """Print the top classes of each image as a table, JSON or CSV.

    Raises:
        InputError: no image matches, or the checkpoint or an image cannot be read.
    """
    device = find_device(job.device)
    files = find_images(job.images)
    trained = load_trained(Path(job.checkpoint), job.allowed_targets)
    predictions = list(predictions_of(trained, files, job.top, job.batch_size, device))
    for path, ranked in predictions:
        if not all(math.isfinite(probability) for _, probability in ranked):
            raise InputError(
                f"checkpoint={job.checkpoint}: its outputs for {path} are not finite; its training "
                "diverged"
            )
    {"table": _print_table, "json": _print_json, "csv": _print_csv}[job.format](predictions)


def find_images(patterns: str | Sequence[str]) -> list[Path]:
    """Files, folders (searched to the bottom) and globs, as files in sorted order.

    Raises:
        InputError: a pattern matches no image.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        if Path(pattern).is_dir():
            matches = sorted(Path(pattern).rglob("*"))
        # Not a pipe, which would be waited for.
        images = [p for p in matches if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        if not images:
            raise InputError(f"images={pattern}: no image file there")
        found += images
    if not found:
        raise InputError("images=[] names no image")
    return found


@torch.inference_mode()
def predictions_of(
    trained: Trained, files: Sequence[Path], top: int, batch_size: int, device: torch.device
) -> Iterator[Prediction]:
    """The `top` classes of each file, with probabilities that sum to 1 over all classes."""
    network = trained.network.to(device).eval()
    starts = range(0, len(files), batch_size)
    for start in track(starts, "predict", console=console, disable=not console.is_terminal):
        chunk = files[start : start + batch_size]
        images = torch.stack([trained.preprocessing.fit(decode(path)) for path in chunk])
        logits = network(trained.preprocessing.normalize(images.to(device)))
        probabilities, labels = logits.float().softmax(1).topk(min(top, len(trained.classes)))
        for path, values, indices in zip(
            chunk, probabilities.tolist(), labels.tolist(), strict=True
        ):
            named = [trained.classes[index] for index in indices]
            yield path, list(zip(named, values, strict=True))


def _print_table(predictions: Sequence[Prediction]) -> None:
    table = Table("image", "class", "probability")
    for path, ranked in predictions:
        for place, (name, probability) in enumerate(ranked):
            last = place == len(ranked) - 1
            label = str(path) if place == 0 else ""
            table.add_row(label, name, f"{probability:.1%}", end_section=last)
    console.print(table)


def _print_json(predictions: Sequence[Prediction]) -> None:
    rows = [
        {
            "image": str(path),
            "top": [{"class": name, "probability": value} for name, value in ranked],
        }
        for path, ranked in predictions
    ]
    print(json.dumps(rows, indent=2))


def _print_csv(predictions: Sequence[Prediction]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "rank", "class", "probability"])
    for path, ranked in predictions:
        writer.writerows(
            [path, place, name, f"{value:.6f}"] for place, (name, value) in enumerate(ranked, 1)
        )
