"""Image sources, their batches and what happens to them on the way to the network."""

from vgglab.data.cifar import CIFAR10, CIFAR100
from vgglab.data.digits import Digits
from vgglab.data.folder import ImageFolder
from vgglab.data.imagenet import ImageNet
from vgglab.data.imagenette import Imagenette
from vgglab.data.module import ImageDataModule
from vgglab.data.stream import ImageStream
from vgglab.data.synthetic import Synthetic

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
