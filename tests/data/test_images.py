from pathlib import Path

import pytest
import torch
from PIL import Image

from vgglab.data.images import FileImages, TensorImages
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
        FileImages(Path(), ["a"], torch.tensor([label]), "abc")


def test_a_subset_keeps_images_and_labels_together():
    chosen = images().subset(torch.tensor([5, 2]))
    assert torch.equal(chosen.image(0), images().image(5))
    assert chosen.labels.tolist() == [2, 2]


def test_a_subset_of_a_tensor_keeps_what_was_skipped():
    whole = TensorImages(images().images, images().labels, "abc", source="x", skipped=["a: no"])
    part = whole.subset(torch.tensor([5, 2]))
    assert part.skipped == ["a: no"]
    assert part.name(1) == "image 1 of x"


def test_file_images_find_their_files(tmp_path):
    names = ["cat/ä.png", "dog/0.png", "dog/long name.png"]
    for level, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 3), (level, 0, 0)).save(tmp_path / name)
    files = FileImages(tmp_path, names, torch.tensor([0, 1, 1]), "ab")
    assert [files.name(i) for i in range(3)] == [str(tmp_path / name) for name in names]
    assert [int(files.image(i)[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert files.read(1) == (tmp_path / names[1]).read_bytes()
    assert int(files.subset(torch.tensor([2])).image(0)[0, 2, 1]) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    files = FileImages(tmp_path, ["a.jpg", "b.jpg"], torch.zeros(2).long(), "a")
    for index, problem in enumerate(("a.jpg: not an image", "b.jpg: no such file")):
        with pytest.raises(InputError, match=problem):
            files.image(index)
