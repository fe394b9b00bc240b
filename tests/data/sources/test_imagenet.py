import hashlib
import tarfile

import pytest
from torchvision.models import VGG16_Weights

from vgglab.data import ImageNet, Imagenette
from vgglab.data.sources import imagenette as imagenette_module
from vgglab.data.sources.imagenette import NAMES
from vgglab.errors import InputError


def test_imagenet_has_readable_classes_in_torchvisions_order(make_tree):
    wnids = [f"n{i:08d}" for i in range(1000)]
    counts = {f"{split}/{wnid}": 1 for wnid in wnids for split in ("train", "val")}
    data = ImageNet(root=str(make_tree(counts, size=(2, 2), suffix=".JPEG")), batch_size=10)
    assert data.classes == VGG16_Weights.IMAGENET1K_V1.meta["categories"]
    assert data.classes[0] == "tench"
    data.setup("fit")
    data.setup("test")
    assert [len(data.sets[s]) for s in ("train", "val", "test")] == [1000, 1000, 1000]
    assert data.sets["train"].labels.tolist() == list(range(1000))


def test_imagenet_that_is_missing_or_partial_points_to_the_script(make_tree, tmp_path):
    with pytest.raises(InputError, match=r"no such folder; scripts/prepare_imagenet\.py"):
        ImageNet(root=str(tmp_path / "none")).setup("fit")
    root = make_tree({"train/n00000001": 1, "train/n00000002": 1})
    with pytest.raises(InputError, match=r"2 class folders instead of 1000.*data=image_folder"):
        ImageNet(root=str(root)).setup("fit")


@pytest.fixture
def ten_classes(make_tree):
    counts = {f"{split}/{wnid}": 3 for split in ("train", "val") for wnid in NAMES}
    return make_tree(counts, size=(80, 70), suffix=".JPEG", name="imagenette2-160")


def test_an_unpacked_imagenette_of_any_size_is_read(ten_classes):
    data = Imagenette(root=str(ten_classes), batch_size=10)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert [len(data.sets[s]) for s in ("train", "val", "test")] == [30, 30, 30]
    assert data.classes[0] == "tench"
    assert data.classes[9] == "parachute"
    assert data.preprocessing.size == (224, 224)


def test_the_names_agree_with_imagenets():
    assert set(NAMES.values()) <= set(VGG16_Weights.IMAGENET1K_V1.meta["categories"])
    assert list(NAMES) == sorted(NAMES)


def test_classes_are_known_before_the_download(tmp_path):
    assert len(Imagenette(root=str(tmp_path / "none")).classes) == 10


def test_imagenette_is_downloaded_and_unpacked_once(ten_classes, server, tmp_path, monkeypatch):
    archive = tmp_path / "packed.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(ten_classes, arcname="imagenette2-160")
    packed = server.files["mirror/imagenette2-160.tgz"] = archive.read_bytes()
    entry = ("imagenette2-160", "md5:" + hashlib.md5(packed).hexdigest(), len(packed))
    monkeypatch.setitem(imagenette_module._ARCHIVES, "160px", entry)
    root = tmp_path / "data"
    for _ in range(2):
        data = Imagenette(
            root=str(root), size="160px", mirrors=[server.url("mirror/")], batch_size=10
        )
        data.prepare_data()
        data.setup("fit")
        assert len(data.sets["train"]) == 30
    assert len(server.ranges) == 1
    assert not list(root.glob("*.part"))


def test_other_classes_are_no_imagenette(make_tree):
    data = Imagenette(root=str(make_tree({"train/cat": 1, "train/dog": 1})))
    data.prepare_data()
    with pytest.raises(InputError, match=r"not Imagenette's ten; data=image_folder"):
        data.setup("fit")
