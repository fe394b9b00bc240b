"""scripts/predict.py: the most probable classes of image files."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vgglab.config.jobs import PredictConfig
from vgglab.data.finding import find_images
from vgglab.errors import InputError
from vgglab.evaluation.protocols import find_device
from vgglab.evaluation.trained import Trained, load_trained
from vgglab.prediction.answers import Prediction, accuracy_line, answer, predictions_of
from vgglab.prediction.formats import print_csv, print_json, print_table
from vgglab.prediction.reading import read_images
from vgglab.progress import progress
from vgglab.reporting.terminal import console
from vgglab.text import printable

if TYPE_CHECKING:
    from vgglab.prediction.sheet import Sheet


def predict(job: PredictConfig) -> None:
    """Print the top classes of each image as a table, JSON or CSV, and draw them where asked to.

    Of images in folders that are named after classes it also says how many are right. Nothing is
    printed or written before all images are done.

    Raises:
        InputError: no image matches, the checkpoint or an image cannot be read (with
            `on_error=skip`: no image at all), the network's outputs are not finite, or the sheet
            cannot be written.
    """
    device = find_device(job.device)
    files = find_images(job.images)
    trained = load_trained(Path(job.checkpoint), job.allowed_targets)
    trained.network.to(device).requires_grad_(False)
    with ExitStack() as pages:
        sheet = None
        if job.sheet is not None:
            # Here, because of matplotlib, which few predictions need.
            from vgglab.prediction.sheet import Sheet

            sheet = Sheet(Path(job.sheet), files, trained, job.checkpoint, pages)
        found = list(_predictions(job, files, trained, device, sheet))
        if not any(prediction.ranked for prediction in found):
            raise InputError(f"images={job.images}: none can be read; {found[0].error}")
    {"table": print_table, "json": print_json, "csv": print_csv}[job.format](found)
    for line in _notes(found, sheet):
        if job.format == "table":
            console.print(line, soft_wrap=True, highlight=False)
        else:  # what a program reads from standard output is the predictions alone
            print(line, file=sys.stderr)
    for prediction in found:
        if not prediction.ranked:
            print(f"skipped: {printable(prediction.error)}", file=sys.stderr)


def _predictions(
    job: PredictConfig,
    files: Sequence[Path],
    trained: Trained,
    device: torch.device,
    sheet: "Sheet | None",
) -> Iterator[Prediction]:
    """Of all files, drawn as they come."""
    reading = read_images(
        files,
        trained.preprocessing,
        ahead=2 * job.batch_size,
        skip=job.on_error == "skip",
        whole_side=None if sheet is None else sheet.side,
    )
    with closing(reading), progress("predict", len(files)) as advance:
        while images := list(islice(reading, job.batch_size)):
            found = None
            if any(image.seen is not None for image in images):
                found = answer(trained, images, job.top, device)
            predictions = list(predictions_of(images, found, trained.classes))
            _check_finite(predictions, job.checkpoint)
            if sheet is not None:
                sheet.add(images, predictions, found)
            yield from predictions
            advance(len(images))
    if sheet is not None:
        sheet.finish()


def _check_finite(predictions: Sequence[Prediction], checkpoint: str) -> None:
    for found in predictions:
        if not all(math.isfinite(probability) for _, probability in found.ranked):
            raise InputError(
                f"checkpoint={checkpoint}: its outputs for {found.path} are not finite; its "
                "training diverged"
            )


def _notes(found: Sequence[Prediction], sheet: "Sheet | None") -> Iterator[str]:
    """What there is to say beside the predictions."""
    if (line := accuracy_line(found)) is not None:
        yield line
    if sheet is not None:
        pages = sheet.pages
        yield f"sheet: {pages[0]}" + (f" to {pages[-1].name}" if len(pages) > 1 else "")
        if sheet.layer is None:
            yield "without Grad-CAM: the network has no layer of 4 x 4 positions known by name"
