"""scripts/visualize.py: filters, feature maps and Grad-CAM of image files."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from vgglab.config.jobs import VisualizeConfig
from vgglab.data.decoding import decode
from vgglab.data.finding import find_images
from vgglab.errors import InputError
from vgglab.evaluation.protocols import find_device
from vgglab.evaluation.trained import Trained, subject
from vgglab.files import replace_file
from vgglab.inspection.figures import feature_map_figure, heat_figure
from vgglab.networks import VGG
from vgglab.networks.attribution import feature_maps, grad_cam, heat_layer
from vgglab.progress import each
from vgglab.reporting.environment import open_run_folder
from vgglab.reporting.pixels import filter_grid, png, rendered
from vgglab.reporting.terminal import print_result

SHOWN_MAPS = 64

Picture = tuple[str, Tensor]
"""A name such as `grad_cam/000_cat`, and (3, height, width) uint8."""


def visualize(job: VisualizeConfig) -> None:
    """Write every picture as a PNG and into TensorBoard, both in the run's folder.

    Raises:
        InputError: an image or the network cannot be read, there is no such layer or class, or the
            network is not a VGG, whose layers have names.
    """
    device = find_device(job.device)
    files = find_images(job.images)
    trained = subject(job.checkpoint, job.weights, job.model, job.allowed_targets)
    if not isinstance(trained.network, VGG):
        raise InputError("only the layers of a VGG have names to visualize by")
    network = trained.network.to(device)
    images = [trained.preprocessing.fit(decode(path)).to(device) for path in files]
    layer = _checked_layer(trained, network, job.layer, images[0])
    target = None if job.class_ is None else _class_index(job.class_, trained.classes)
    folder = Path(job.run_dir)
    open_run_folder(folder, job.composition)
    with SummaryWriter(str(folder / "tensorboard")) as board:
        _write("filters", filter_grid(network), folder, board)
        numbered = list(enumerate(zip(files, images, strict=True)))
        for number, (path, image) in each(numbered, "visualize", unit="images"):
            for name, picture in _pictures(trained, network, path, image, layer, target):
                _write(f"{name}/{number:03d}_{path.stem}", picture, folder, board)
    print_result({}, {"images": str(len(files)), "layer": layer, "run folder": str(folder)})


def _pictures(
    trained: Trained, network: VGG, path: Path, image: Tensor, layer: str, target: int | None
) -> Iterator[Picture]:
    """The pictures of one image, (C, H, W) uint8."""
    normalized = trained.preprocessing.normalize(image[None])
    maps = feature_maps(network, normalized, layer)[0]
    count, height, width = maps.shape
    shown = f"{SHOWN_MAPS} strongest of {count}" if count > SHOWN_MAPS else str(count)
    title = f"{layer}: the {shown} maps, {height}x{width}"
    yield "feature_maps", rendered(feature_map_figure(image, maps, title, SHOWN_MAPS))
    with torch.inference_mode():
        probabilities = network(normalized).float().softmax(1)[0]
    predicted = int(probabilities.argmax())
    label = predicted if target is None else target
    cam = grad_cam(network, normalized, layer, torch.tensor([label], device=image.device))
    caption = f"{path.name}\nprediction: {_named(trained, probabilities, predicted)}"
    title = f"Grad-CAM at {layer}\n{_named(trained, probabilities, label)}"
    yield "grad_cam", rendered(heat_figure(image, cam[0], caption, title))


def _named(trained: Trained, probabilities: Tensor, label: int) -> str:
    return f"{trained.classes[label]}, {probabilities[label]:.1%}"


def _write(name: str, picture: Tensor, folder: Path, board: SummaryWriter) -> None:
    path = folder / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    replace_file(path, png(picture))
    board.add_image(name, picture, 0)


def _checked_layer(trained: Trained, network: VGG, layer: str | None, image: Tensor) -> str:
    """The layer asked for, or `heat_layer`."""
    if layer is None:
        layer = heat_layer(network, image.shape)
        if layer is None:
            raise InputError("no ReLU of this network has 4 x 4 positions; give layer=...")
        return layer
    try:
        feature_maps(network, trained.preprocessing.normalize(image[None]), layer)
    except ValueError as error:
        raise InputError(f"layer={layer}: {error}") from error
    return layer


def _class_index(name: str | int, classes: Sequence[str]) -> int:
    # YAML reads the digit classes' names as numbers.
    if str(name) in classes:
        return classes.index(str(name))
    near = difflib.get_close_matches(str(name), classes, n=5, cutoff=0.5) or classes[:5]
    raise InputError(
        f"class={name}: not among the {len(classes)} classes, such as {', '.join(near)}"
    )
