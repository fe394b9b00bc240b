import pytest
import torch
from PIL import Image

from vgglab.data import ImageFolder
from vgglab.data.cropping import CentreCropping, RandomResizedCropping
from vgglab.data.decoding import decode
from vgglab.data.images import FileImages, TensorImages
from vgglab.errors import InputError

SMALL = {"train/cat": 12, "train/dog": 10, "val/cat": 3, "val/dog": 2, "test/cat": 1, "test/dog": 2}


def split_sizes(data):
    data.setup("fit")
    data.setup("test")
    return {split: len(images) for split, images in data.sets.items()}


def folder(root, **settings):
    return ImageFolder(root=str(root), **{"batch_size": 4, **settings})


def test_the_folders_are_the_sets(make_tree):
    data = folder(make_tree(SMALL))
    assert split_sizes(data) == {"train": 22, "val": 5, "test": 3}
    assert list(data.classes) == ["cat", "dog"]
    assert data.sets["train"].labels.tolist() == [0] * 12 + [1] * 10
    assert data.preprocessing.size == (32, 32)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_the_validation_folder(make_tree, name):
    tree = {key.replace("val", name): count for key, count in SMALL.items()}
    assert split_sizes(folder(make_tree(tree)))["val"] == 5


def without(*splits):
    return {key: count for key, count in SMALL.items() if not key.startswith(splits)}


def test_without_a_validation_folder_training_images_are_held_out(make_tree):
    data = folder(make_tree(without("val")), validation_fraction=0.2)
    sizes = split_sizes(data)
    assert sizes == {"train": 17, "val": 5, "test": 3}
    together = torch.cat([data.sets["train"].images, data.sets["val"].images])
    assert len({bytes(image.flatten().tolist()) for image in together}) == 22


def test_without_a_test_folder_validation_is_the_test_set(make_tree):
    data = folder(make_tree(without("test")))
    assert split_sizes(data) == {"train": 22, "val": 5, "test": 5}
    assert torch.equal(data.sets["val"].images, data.sets["test"].images)


def test_split_keeps_validation_and_test_apart(make_tree):
    data = folder(make_tree(without("test")), validation="split", validation_fraction=0.2)
    assert split_sizes(data) == {"train": 17, "val": 5, "test": 5}
    held_out = {bytes(image.flatten().tolist()) for image in data.sets["val"].images}
    assert all(bytes(i.flatten().tolist()) not in held_out for i in data.sets["test"].images)


def test_missing_sets_are_named(make_tree):
    root = make_tree(without("val", "test"))
    with pytest.raises(InputError, match="no test and no val folder"):
        folder(root).setup("test")
    with pytest.raises(InputError, match=r"data.validation=folder: no val folder"):
        folder(root, validation="folder").setup("fit")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("size", [(32, 32), (20, 64)])
def test_images_in_memory_equal_the_decoded_files(make_tree, suffix, size):
    root = make_tree(SMALL, size=size, suffix=suffix)
    kept, files = folder(root), folder(root, in_memory=False, image_size=16)
    kept.setup("fit")
    files.setup("fit")
    for split in ("train", "val"):
        tensors, paths = kept.sets[split], files.sets[split]
        assert isinstance(tensors, TensorImages)
        assert isinstance(paths, FileImages)
        assert torch.equal(tensors.labels, paths.labels)
        for i in range(len(tensors)):
            assert torch.equal(tensors.image(i), paths.image(i))
    assert kept.preprocessing.size == size
    assert kept.train_crop is None
    assert files.train_crop == "random_resized"
    assert isinstance(kept.stored_split("train"), FileImages)


def is_in_memory(root, **settings):
    return folder(root, **settings).stored_size is not None


def test_auto_keeps_small_images_of_one_size_that_fit(make_tree):
    assert is_in_memory(make_tree(SMALL))
    assert is_in_memory(make_tree(SMALL, size=(64, 64), name="limit"))
    assert not is_in_memory(make_tree(SMALL, size=(65, 10), name="large"))
    assert not is_in_memory(make_tree(SMALL), in_memory=False)
    needed = sum(SMALL.values()) * 3 * 32 * 32 / 2**30
    assert is_in_memory(make_tree(SMALL), memory_limit_gib=needed * 1.01)
    assert not is_in_memory(make_tree(SMALL), memory_limit_gib=needed * 0.99)


@pytest.mark.parametrize("odd", ["train/dog", "val/cat", "test/dog"])
def test_one_image_of_another_size_makes_auto_read_files(make_tree, odd):
    root = make_tree(SMALL)
    Image.new("RGB", (32, 31)).save(root / odd / "000.png")
    data = folder(root)
    data.setup("fit")
    assert isinstance(data.sets["train"], FileImages)
    with pytest.raises(InputError, match=r"data.in_memory=true: .*32x32 pixels, .*000\.png 32x31"):
        folder(root, in_memory=True).setup("fit")


def test_a_wanted_size_is_never_ignored(make_tree):
    root = make_tree(SMALL)
    assert is_in_memory(root, image_size=32)
    for settings in ({"image_size": 24}, {"image_size": 32, "resize_size": 40}):
        data = folder(root, **settings)
        assert data.stored_size is None
        assert data.preprocessing.size[0] == settings["image_size"]
        with pytest.raises(InputError, match="would have to be resized"):
            folder(root, in_memory=True, **settings).setup("fit")


def test_in_memory_true_keeps_larger_images_but_not_too_many(make_tree):
    root = make_tree(SMALL, size=(80, 80))
    assert folder(root, in_memory=True).preprocessing.size == (80, 80)
    with pytest.raises(InputError, match=r"images need 0.0 GiB, more than data.memory_limit_gib"):
        folder(root, in_memory=True, memory_limit_gib=1e-5).setup("fit")


def test_an_image_turned_by_exif_is_refused_in_memory(make_tree):
    root = make_tree(SMALL, size=(20, 30), suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(root / "train/dog/009.jpg", exif=exif)
    with pytest.raises(InputError, match=r"009\.jpg is turned .* data.in_memory=false"):
        folder(root).setup("fit")
    folder(root, in_memory=False).setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crop", ["random_resized", "random", "none"])
def test_files_are_cropped_to_the_networks_size(make_tree, crop, workers):
    root = make_tree(SMALL, size=(70, 90), suffix=".jpg")
    data = folder(root, image_size=48, crop=crop, num_workers=workers)
    data.setup("fit")
    data.setup("test")
    assert data.preprocessing.resize == 55  # 48 * 256 / 224
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        assert batch.images.shape[1:] == (3, 48, 48)
        assert batch.images.dtype == torch.uint8


def test_the_share_of_the_area_reaches_the_crops_of_files(make_tree):
    data = folder(make_tree(SMALL, size=(70, 90)), image_size=48, crop_area=[0.5, 0.6])
    data.setup("fit")
    cropping = data.train_dataloader().dataset.make.cropping
    assert (type(cropping), cropping.area) == (RandomResizedCropping, (0.5, 0.6))
    assert isinstance(data.val_dataloader().dataset.make.cropping, CentreCropping)


def test_images_in_memory_can_be_cropped_as_files_are(make_tree):
    data = folder(make_tree(SMALL), crop="random_resized", crop_area=[0.1, 0.2])
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    plain = data.preprocessing.normalize(batch.images)
    assert not torch.equal(data.network_input(batch, augment=True)[0], plain)
    assert torch.equal(data.network_input(batch, augment=False)[0], plain)


def test_crops_are_random_in_training_alone_and_repeatable(make_tree):
    root = make_tree(SMALL, size=(70, 90))

    def first(epoch=0, workers=0, **settings):
        data = folder(root, image_size=48, num_workers=workers, shuffle=False, **settings)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader)).images

    plain = folder(root, image_size=48).preprocessing
    centre = torch.stack([plain.fit(decode(root / f"train/cat/00{i}.png")) for i in range(4)])
    assert torch.equal(first(), first(workers=2))
    assert not torch.equal(first(), first(epoch=1))
    assert not torch.equal(first(), first(seed=1))
    assert not torch.equal(first(), centre)
    assert torch.equal(first(augment=False), centre)


def test_a_resize_below_the_crop_is_refused(make_tree):
    with pytest.raises(InputError, match=r"resize_size: 20 is smaller than data.image_size=24"):
        folder(make_tree(SMALL), image_size=24, resize_size=20).preprocessing  # noqa: B018


def test_folders_that_hold_no_tree_are_explained(make_tree, tmp_path):
    cases = {
        "none": "none: no such folder; expected root/train/<class>/<image>",
        "flat": "flat: no train folder in it; expected",
        "bare": "bare: no class folders in .*train; expected",
        "one": r"one: only one class folder \(cat\)",
    }
    make_tree({"cat": 1, "dog": 1}, name="flat")
    (tmp_path / "bare" / "train").mkdir(parents=True)
    make_tree({"train/cat": 1}, name="one")
    for name, problem in cases.items():
        data = folder(tmp_path / name)
        for ask in (lambda data=data: data.classes, lambda data=data: data.setup("fit")):
            with pytest.raises(InputError, match=f"data.root={tmp_path}/{problem}"):
                ask()


def test_a_class_without_images_is_refused(make_tree):
    root = make_tree(SMALL)
    (root / "train/eel").mkdir()
    for split in ("val", "test"):
        (root / split / "eel").mkdir()
    with pytest.raises(InputError, match=r"train/eel: no images \(\.bmp .*\) in it$"):
        folder(root).setup("fit")
    (root / "train/eel/a.npy").write_bytes(b"x")
    with pytest.raises(InputError, match=r"in it, only e\.g\. eel/a\.npy"):
        folder(root).setup("fit")


def test_other_files_beside_images_are_reported(make_tree, caplog):
    root = make_tree(SMALL)
    (root / "train/cat/notes.txt").write_text("x")
    (root / "train/cat/.DS_Store").write_text("x")
    data = folder(root)
    data.setup("fit")
    assert len(data.sets["train"]) == 22
    assert "cat/notes.txt: not called an image, and left out" in caplog.text


def test_splits_with_other_classes_are_refused(make_tree):
    root = make_tree(SMALL)
    (root / "val/dog").rename(root / "val/wolf")
    with pytest.raises(InputError, match=r"val must have the classes.*missing: dog; .*them: wolf"):
        folder(root).setup("fit")


def test_files_in_folders_of_a_class_and_capital_endings_count(make_tree):
    root = make_tree(SMALL)
    (root / "train/cat/more").mkdir()
    (root / "train/cat/000.png").rename(root / "train/cat/more/000.PNG")
    data = folder(root)
    data.setup("fit")
    assert len(data.sets["train"]) == 22


@pytest.mark.parametrize("in_memory", ["auto", False])
@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_broken_image_is_named(make_tree, in_memory, content):
    root = make_tree(SMALL)
    (root / "train/dog/004.png").write_bytes(content)

    def read_all():
        data = folder(root, in_memory=in_memory)
        data.setup("fit")
        list(data.train_dataloader())

    with pytest.raises(InputError, match=r"train/dog/004\.png: "):
        read_all()


def test_normalisation_can_be_set(make_tree):
    data = folder(make_tree(SMALL), mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert data.preprocessing.mean == (0.1, 0.2, 0.3)
    assert data.preprocessing.std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("in_memory", ["auto", False])
def test_broken_images_can_be_skipped(make_tree, in_memory):
    root = make_tree(SMALL)
    broken = {"train/cat/000.png": b"", "train/dog/004.png": b"no image", "test/dog/001.png": b"x"}
    for name, content in broken.items():
        (root / name).write_bytes(content)
    cut = root / "val/cat/001.png"  # its header is good
    cut.write_bytes(cut.read_bytes()[:-400])
    data = folder(root, in_memory=in_memory, on_error="skip", image_size=32)
    data.setup("fit")
    data.setup("test")
    counts = {split: len(images) for split, images in data.sets.items()}
    if in_memory is False:
        assert counts == {"train": 22, "val": 5, "test": 3}
        lines = list(next(iter(data.test_dataloader())).skipped)
    else:
        assert counts == {"train": 20, "val": 4, "test": 2}
        assert [len(images.skipped) for images in data.sets.values()] == [2, 1, 1]
        assert data.sets["train"].labels.tolist() == [0] * 11 + [1] * 9
        assert f"{root}/train/dog/004.png: not an image" in data.sets["train"].skipped
        lines = list(data.sets["test"].skipped)
    assert lines == [f"{root}/test/dog/001.png: not an image"]


def test_a_tree_without_any_good_image_is_refused(make_tree):
    root = make_tree({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"data\.root=.*: none of its images can be read"):
        folder(root, on_error="skip").setup("fit")


def test_the_decoder_is_a_setting(make_tree):
    pytest.importorskip("simplejpeg")
    root = make_tree(SMALL, size=(70, 90), suffix=".jpg")

    def batch(**settings):
        data = folder(root, image_size=24, shuffle=False, **settings)
        data.setup("fit")
        return next(iter(data.train_dataloader())).images.float()

    plain, turbo = batch(), batch(decode="simplejpeg")
    assert not torch.equal(plain, turbo)  # some were decoded at a reduced size
    assert (plain - turbo).abs().mean() < 10  # of noise
    with pytest.raises(InputError, match=r"data\.decode=cuda needs a CUDA device"):
        batch(decode="cuda")
