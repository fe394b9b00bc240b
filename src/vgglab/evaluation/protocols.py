"""How a network is tested: the protocols of section 3.2 of the paper."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vgglab.data.sampling import ResumableLoader
from vgglab.errors import InputError
from vgglab.evaluation.metrics import Score
from vgglab.reporting.terminal import console


@torch.inference_mode()
def center_crop(
    network: nn.Module,
    loader: ResumableLoader,
    normalize: Callable[[Tensor], Tensor],
    *,
    num_classes: int,
    device: torch.device,
    precision: str = "32-true",
) -> dict[str, float]:
    """One central crop an image, as in the paper's Table 3 comparisons with a single crop.

    Args:
        network: (N, C, H, W) float to logits (N, num_classes).
        loader: of uint8 batches, every image once.
        normalize: uint8 images to network input.
        num_classes: of the network.
        device: where to compute.
        precision: as Lightning names it.

    Returns:
        `test/top1`, `test/top5` (0 to 1) and `test/loss` (nats).
    """
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    score = Score(num_classes, "test").to(device)
    batches = track(loader, "center_crop", console=console, disable=not console.is_terminal)
    for batch in batches:
        labels = batch.labels.to(device)
        images = normalize(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
        with autocast(precision, device):
            logits = network(images).float()
        score.update(logits, labels, cross_entropy(logits, labels))
    return {name: float(value) for name, value in score.finish().items()}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast context of a mixed precision, none for full precision."""
    dtypes = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if precision not in dtypes:
        return nullcontext()
    return torch.autocast(device.type, dtypes[precision])


def find_device(accelerator: str) -> torch.device:
    """`auto`, `cpu`, `gpu` or `mps` as a device of this machine.

    Raises:
        InputError: there is no such device.
    """
    current = torch.accelerator.current_accelerator(check_available=True)
    if accelerator == "cpu" or (accelerator == "auto" and current is None):
        return torch.device("cpu")
    fits = current is not None and (
        accelerator == "auto" or (accelerator == "mps") == (current.type == "mps")
    )
    if current is None or not fits:
        found = "only a CPU" if current is None else current.type
        raise InputError(f"device={accelerator}: this machine has {found}")
    return current
