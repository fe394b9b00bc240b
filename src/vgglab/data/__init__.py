"""Image sources, their batches and what happens to them on the way to the network."""

from vgglab.data.digits import Digits
from vgglab.data.module import ImageDataModule
from vgglab.data.synthetic import Synthetic

__all__ = ["Digits", "ImageDataModule", "Synthetic"]
