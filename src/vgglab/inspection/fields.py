"""scripts/receptive_field.py: what the layers of a network see, in theory and measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from vgglab.config.jobs import ReceptiveFieldConfig
from vgglab.config.schema import Network
from vgglab.data.decoding import decode
from vgglab.data.finding import find_images
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.protocols import find_device
from vgglab.evaluation.trained import IMAGENET_CLASSES, IMAGENET_INPUT, subject
from vgglab.files import replace_file
from vgglab.inspection.field_figures import (
    Measured,
    effective_figure,
    effective_table,
    field_records,
    field_table,
    fields_figure,
)
from vgglab.networks import receptive_field
from vgglab.networks.effective_field import Box, central_box, effective_receptive_field
from vgglab.progress import each
from vgglab.reporting.environment import open_run_folder, write_json
from vgglab.reporting.pixels import png, rendered
from vgglab.reporting.terminal import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEGINNINGS = ("weights", "init_from")  # arguments of a network that name trained weights


@dataclass(frozen=True)
class _Subject:
    trained: nn.Module | None
    random: nn.Module
    """The same network before training."""
    preprocessing: Preprocessing

    @property
    def networks(self) -> dict[str, nn.Module]:
        found = {"random weights": self.random, "trained": self.trained}
        return {title: network for title, network in found.items() if network is not None}


def show_fields(job: ReceptiveFieldConfig) -> list[dict[str, Any]]:
    """Print the receptive fields; with `image`, draw them into the run's folder and TensorBoard.

    Returns:
        The rows that `format=json` prints; see `field_records`.

    Raises:
        InputError: no network or two, one whose fields are not known, a layer that has none, or
            images that cannot be read or are too small; nothing is written then.
    """
    found = _subject(job)
    try:
        heights, widths = (receptive_field(found.random, axis) for axis in ("height", "width"))
    except ValueError as error:
        raise InputError(f"model: {error}") from error
    if not heights:
        raise InputError("model: it has no layer with a receptive field")
    measured: Measured = {}
    figures: dict[str, Figure] = {}
    if job.image is not None and job.layers is not None:
        measured, figures = _look(found, find_images(job.image), job.layers, job)
    records = field_records(heights, widths, measured)
    if figures:
        folder = Path(job.run_dir)
        open_run_folder(folder, job.composition)
        _write(folder, records, figures)
    if job.format == "json":
        print(json.dumps(records, indent=2))
        return records
    console.print(field_table(records))
    if measured:
        console.print(effective_table(records))
    if figures:
        console.print(f"run folder  {job.run_dir}", soft_wrap=True)
    return records


def _subject(job: ReceptiveFieldConfig) -> _Subject:
    if job.checkpoint is None and job.weights is None:
        if job.model is None:
            raise InputError("give model=..., such as model=vgg16, or checkpoint=PATH")
        untrained = _random(job.model, IMAGENET_CLASSES, IMAGENET_INPUT.channels, job.seed)
        return _Subject(None, untrained, IMAGENET_INPUT)
    trained = subject(job.checkpoint, job.weights, job.model, job.allowed_targets)
    section = job.model or Network.model_validate(trained.config["model"])
    channels = trained.preprocessing.channels
    untrained = _random(section, len(trained.classes), channels, job.seed)
    return _Subject(trained.network, untrained, trained.preprocessing)


def _random(section: Network, classes: int, channels: int, seed: int) -> nn.Module:
    """The network as it is before any training, also where its section names trained weights."""
    named = {name: None for name in _BEGINNINGS if name in section.arguments}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = section.with_arguments(**named).build_for(classes, channels)
    return network.eval()


def _look(
    found: _Subject, files: Sequence[Path], layers: Sequence[str], job: ReceptiveFieldConfig
) -> "tuple[Measured, dict[str, Figure]]":
    """The effective fields of all images where they are wanted, and the pictures by file name."""
    device = find_device(job.device)
    preprocessing = found.preprocessing
    if job.size is not None:
        preprocessing = replace(preprocessing, size=(job.size, job.size), resize=None)
    used = files if job.effective else files[:1]
    pictures = torch.stack([preprocessing.fit(decode(file)) for file in used])
    images = preprocessing.normalize(pictures.to(device))
    networks = {title: network.to(device) for title, network in found.networks.items()}
    try:
        boxes = _boxes(found.random, images, layers)
        figures = {"receptive_fields": fields_figure(pictures[0], boxes)}
        if not job.effective:
            return {}, figures
        measured = {
            title: [
                effective_receptive_field(network, images, layer)
                for layer in each(layers, f"fields of {title}", unit="layers")
            ]
            for title, network in networks.items()
        }
    except ValueError as error:  # a layer without a field
        raise InputError(f"layers={list(layers)}: {error}") from error
    return measured, {**figures, "effective_fields": effective_figure(measured, len(files))}


def _boxes(network: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Box]:
    try:
        return {layer: central_box(network, images, layer) for layer in layers}
    except RuntimeError as error:
        size = "x".join(map(str, images.shape[-2:]))
        raise InputError(f"size: the network cannot take an image of {size}: {error}") from error


def _write(
    folder: Path, records: Sequence[Mapping[str, Any]], figures: "Mapping[str, Figure]"
) -> None:
    write_json(folder / "receptive_fields.json", records)
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for name, figure in figures.items():
            picture = rendered(figure)
            replace_file(folder / f"{name}.png", png(picture))
            board.add_image(name, picture)
        board.add_text("receptive_fields", _markdown(records))


def _markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """TensorBoard's text is Markdown."""
    lines = ["| layer | size | jump | start |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {record['name']} | {record['size']} | {record['jump']} | {record['start']} |"
        for record in records
    ]
    return "\n".join(lines)
