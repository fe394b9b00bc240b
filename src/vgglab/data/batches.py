"""What a loader yields: batches of uint8 images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vgglab.data.images import ImageSet, TensorImages
from vgglab.data.sampling import Key, derive_seed


class Batch(NamedTuple):
    """What a loader yields and what travels to the device."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""
    indices: Tensor
    """(N,) int64, indices in the set."""
    epoch: int
    seed: int
    """Of what is drawn for the batch as a whole; from its epoch and images."""


@dataclass
class BatchView(Dataset[Batch]):
    """An image set as a loader sees it: a list of keys in, a batch out."""

    images: ImageSet
    transform: Callable[[Tensor], Tensor] | None = None
    """Applied to each image in the worker; may draw from torch's global generator."""
    seed: int = 0

    def __getitem__(self, keys: list[Key]) -> Batch:
        indices = torch.tensor([key.image for key in keys])
        if isinstance(self.images, TensorImages) and self.transform is None:
            pixels = self.images.images[indices]
        else:
            pixels = torch.stack([self._transformed(key) for key in keys])
        epoch = keys[0].epoch
        seed = derive_seed(self.seed, epoch, *(key.image for key in keys[:2]))
        return Batch(pixels, self.images.labels[indices], indices, epoch, seed)

    def _transformed(self, key: Key) -> Tensor:
        image = self.images.image(key.image)
        if self.transform is None:
            return image
        # Seeded by (seed, epoch, index), as the batched augmentation is: the result does not depend
        # on the worker, the rank or a resume.
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would reseed the GPUs too, and walk the stack to do so.
            torch.default_generator.manual_seed(derive_seed(self.seed, *key))
            return self.transform(image)
