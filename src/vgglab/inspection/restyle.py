"""scripts/restyle.py: the content of one image in the style of another (Gatys et al. 2015)."""

import os
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from vgglab.config.jobs import RestyleConfig
from vgglab.data.decoding import decode
from vgglab.errors import InputError
from vgglab.evaluation.protocols import find_device
from vgglab.evaluation.trained import Trained, subject
from vgglab.files import replace_file
from vgglab.networks import VGG, PerceptualLoss
from vgglab.progress import each
from vgglab.reporting.pixels import png
from vgglab.reporting.terminal import console

# The layers of Johnson et al. 2016 (arXiv 1603.08155, section 4.1).
CONTENT_LAYERS = {"relu3_3": 1.0}
STYLE_LAYERS = {"relu1_2": 30.0, "relu2_2": 30.0, "relu3_3": 30.0, "relu4_3": 30.0}

_LINES = 10  # losses printed in a run


def restyle(job: RestyleConfig) -> None:
    """Write the restyled image, a PNG of the content's shape with the shortest side `size`.

    Raises:
        InputError: an image cannot be read, the output cannot be written, the network has not these
            layers, or it is no VGG for colour images.
    """
    output = _checked_output(Path(job.output))
    device = find_device(job.device)
    content, style = (_pixels(Path(path), job.size) for path in (job.content, job.style))
    loss = _loss(subject(job.checkpoint, job.weights, job.model, job.allowed_targets), job)
    image = restyled(
        loss.to(device),
        content.to(device),
        style.to(device),
        steps=job.steps,
        learning_rate=job.learning_rate,
    )
    pixels = (image[0] * 255).round().to(torch.uint8)
    try:
        replace_file(output, png(pixels))
    except OSError as error:
        raise InputError(f"output={output} cannot be written: {error}") from error
    console.print(f"restyled image  {output}", soft_wrap=True)


def restyled(
    loss: PerceptualLoss, content: Tensor, style: Tensor, *, steps: int, learning_rate: float
) -> Tensor:
    """Change the content image until its layers answer as both images' do; print the losses.

    Args:
        loss: what the images are compared by.
        content: (1, 3, H, W) of 0 to 1; where it begins.
        style: (1, 3, h, w) of 0 to 1.
        steps: of Adam, which needs no scale of the loss.
        learning_rate: the change of a pixel in a step, of 0 to 1.

    Returns:
        (1, 3, H, W) of 0 to 1.
    """
    targets = loss.targets(content, style)
    image = content.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=learning_rate)
    for step in each(range(steps), "restyle", unit="steps"):
        content_loss, style_loss = loss.terms(image, targets)
        if step % max(1, steps // _LINES) == 0:
            # Not by the console, which would write into the bar's line.
            print(f"step {step:>4}  content {content_loss:.4g}  style {style_loss:.4g}")
        optimizer.zero_grad()
        (content_loss + style_loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return image.detach()


def _loss(trained: Trained, job: RestyleConfig) -> PerceptualLoss:
    if not isinstance(trained.network, VGG) or trained.preprocessing.channels != 3:
        raise InputError("restyling needs a VGG for images of three channels")
    try:
        return PerceptualLoss(
            CONTENT_LAYERS if job.content_layers is None else job.content_layers,
            STYLE_LAYERS if job.style_layers is None else job.style_layers,
            network=trained.network,
            mean=trained.preprocessing.mean,
            std=trained.preprocessing.std,
        )
    except ValueError as error:
        raise InputError(f"content_layers, style_layers: {error}") from error


def _pixels(path: Path, size: int) -> Tensor:
    """(1, 3, H, W) of 0 to 1, the shortest side `size` pixels."""
    image = functional.resize(decode(path), [size], antialias=True)
    return functional.to_dtype(image[None], torch.float32, scale=True)


def _checked_output(path: Path) -> Path:
    """Refuse before the work what could not be written after it."""
    if path.is_dir():
        raise InputError(f"output={path} is a folder; give a file that ends in .png")
    if path.suffix.lower() != ".png":
        raise InputError(f"output={path} must end in .png")
    if not path.parent.is_dir():
        raise InputError(f"output={path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"output={path}: {path.parent} cannot be written")
    return path
