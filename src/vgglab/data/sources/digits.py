"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images that ship inside a dependency."""

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits

from vgglab.data.images import TensorImages
from vgglab.data.module import ImageDataModule
from vgglab.data.splitting import stratified_split
from vgglab.data.transforms import Preprocessing

_SPLIT_SEED = 0  # the test set is the same for every run, whatever its seed
_TEST_FRACTION = 0.2


class Digits(ImageDataModule):
    """10 classes, 8x8 grey, needs no network and no disk. 20 % are the fixed test set.

    Source: UCI "Optical Recognition of Handwritten Digits", as shipped by scikit-learn.
    """

    @property
    def classes(self) -> Sequence[str]:
        return [str(digit) for digit in range(10)]

    @property
    def preprocessing(self) -> Preprocessing:
        mean, std = (0.305,), (0.376,)  # measured on the training split
        return Preprocessing(mean, std, (8, 8), self.test_scale, self.train_scale)

    def load(self, split: str) -> TensorImages | None:
        if split == "val":
            return None
        digits = load_digits()
        # Pixels are 0 to 16. 255/16 rounded spreads them over the bytes.
        images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).long()
        everything = TensorImages(images, labels, self.classes)
        train, test = stratified_split(labels, _TEST_FRACTION, _SPLIT_SEED)
        return everything.subset(train if split == "train" else test)
