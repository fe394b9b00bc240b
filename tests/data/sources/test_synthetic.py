import pytest
import torch

from vgglab.data import Synthetic


def sets(**settings):
    data = Synthetic(**settings)
    data.setup("fit")
    data.setup("test")
    return data.sets


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 17), (4, 1, 5)])
def test_any_shape_and_size(shape):
    channels, height, width = shape
    made = sets(
        channels=channels, height=height, width=width, train_size=20, val_size=5, test_size=7
    )
    assert {split: tuple(images.images.shape) for split, images in made.items()} == {
        "train": (20, *shape),
        "val": (5, *shape),
        "test": (7, *shape),
    }
    assert made["train"].images.dtype == torch.uint8


def test_it_is_a_function_of_the_seed():
    first, again, other = sets(seed=1), sets(seed=1), sets(seed=2)
    for split in ("train", "val", "test"):
        assert torch.equal(first[split].images, again[split].images)
        assert not torch.equal(first[split].images, other[split].images)


def test_the_splits_differ_but_share_their_classes():
    made = sets(noise=0.5, num_classes=5)
    train, test = made["train"], made["test"]
    assert not torch.equal(train.images[:128], test.images)
    centres = torch.stack([train.images[train.labels == c].float().mean(0) for c in range(5)])
    distances = torch.cdist(test.images.float().flatten(1), centres.flatten(1))
    assert torch.equal(distances.argmin(1), test.labels)


def test_labels_are_equally_frequent():
    assert torch.bincount(sets(num_classes=4, train_size=40)["train"].labels).tolist() == [10] * 4
