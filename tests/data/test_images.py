from pathlib import Path

import pytest
import torch

from vgglab.data.batches import BatchView
from vgglab.data.images import FileImages, TensorImages
from vgglab.data.sampling import Key
from vgglab.errors import InputError


def images(count=6, size=8):
    pixels = torch.arange(count * 3 * size * size) % 256
    return TensorImages(
        pixels.to(torch.uint8).view(count, 3, size, size), torch.arange(count) % 3, ["a", "b", "c"]
    )


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_refused(label):
    with pytest.raises(InputError, match=f"x: label {label} lies outside the 3 classes"):
        TensorImages(
            torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, label]), "abc", source="x"
        )
    with pytest.raises(InputError, match=f"label {label} lies outside"):
        FileImages(Path(), ["a"], torch.tensor([label]), "abc", images().image)


def test_a_batch_holds_the_keyed_images_in_order():
    batch = BatchView(images())[[Key(2, 4), Key(2, 1)]]
    assert torch.equal(batch.images, images().images[[4, 1]])
    assert batch.labels.tolist() == [1, 1]
    assert batch.indices.tolist() == [4, 1]
    assert batch.epoch == 2


def test_a_subset_keeps_images_and_labels_together():
    chosen = images().subset(torch.tensor([5, 2]))
    assert torch.equal(chosen.image(0), images().image(5))
    assert chosen.labels.tolist() == [2, 2]


def test_file_images_find_their_files(tmp_path):
    names = ["cat/ä.jpg", "dog/0.jpg", "dog/long name.jpg"]
    files = FileImages(tmp_path, names, torch.tensor([0, 1, 1]), "ab", lambda path: path)
    assert [files.image(i) for i in range(3)] == [tmp_path / name for name in names]
    assert files.subset(torch.tensor([2])).image(0) == tmp_path / names[2]


def test_a_random_transform_depends_on_seed_epoch_and_image_alone():
    def noise(image):
        return image + torch.randint(0, 200, image.shape, dtype=torch.uint8)

    view = BatchView(images(), noise, seed=1)
    whole = view[[Key(0, i) for i in range(6)]].images
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = view[[Key(0, 3)]].images[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(alone, whole[3])
    assert not torch.equal(view[[Key(1, 3)]].images[0], alone)
    assert not torch.equal(BatchView(images(), noise, seed=2)[[Key(0, 3)]].images[0], alone)
