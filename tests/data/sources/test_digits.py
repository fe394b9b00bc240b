import pytest
import torch

from vgglab.data import Digits
from vgglab.errors import InputError


def loaded(**settings):
    data = Digits(**settings)
    data.setup("fit")
    data.setup("test")
    return data


def test_the_three_sets_are_disjoint_and_cover_all_1797_images():
    data = loaded(seed=3)
    assert [len(data.sets[split]) for split in ("train", "val", "test")] == [1293, 144, 360]
    images = torch.cat([data.sets[split].images for split in ("train", "val", "test")])
    assert images.shape == (1797, 1, 8, 8)
    # No image occurs in two sets; scikit-learn's 1,797 images are all different.
    assert len({bytes(image.flatten().tolist()) for image in images}) == 1797


def test_the_test_set_is_the_same_for_every_seed_and_the_validation_set_is_not():
    first, second = loaded(seed=0), loaded(seed=1)
    assert torch.equal(first.sets["test"].images, second.sets["test"].images)
    assert not torch.equal(first.sets["val"].images, second.sets["val"].images)


def test_all_ten_classes_are_in_every_set_in_proportion():
    data = loaded()
    for images in data.sets.values():
        share = torch.bincount(images.labels, minlength=10) / len(images)
        assert float((share - 0.1).abs().max()) < 0.02


def test_normalisation_is_measured_on_the_training_split():
    data = loaded()
    pixels = data.preprocessing.normalize(data.sets["train"].images)
    assert abs(float(pixels.mean())) < 0.02
    assert abs(float(pixels.std()) - 1) < 0.02


def test_without_validation_fraction_there_is_no_validation_set():
    with pytest.raises(InputError, match="validation_fraction=0"):
        Digits(validation_fraction=0.0).setup("fit")
