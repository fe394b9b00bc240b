"""Image sources, their batches and what happens to them on the way to the network."""

from vgglab.data.module import ImageDataModule
from vgglab.data.shards.source import ImageStream
from vgglab.data.sources.cifar import CIFAR10, CIFAR100
from vgglab.data.sources.digits import Digits
from vgglab.data.sources.folder import ImageFolder
from vgglab.data.sources.imagenet import ImageNet
from vgglab.data.sources.imagenette import Imagenette
from vgglab.data.sources.synthetic import Synthetic

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Digits",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet",
    "ImageStream",
    "Imagenette",
    "Synthetic",
]
