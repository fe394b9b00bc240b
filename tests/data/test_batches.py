import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms.v2 import functional

from vgglab.data.batches import Batch, BatchMaker, BatchView, Source
from vgglab.data.cropping import CentreCropping, RandomCropping, RandomResizedCropping
from vgglab.data.decoding import decode_bytes
from vgglab.data.images import EncodedImages, FileImages, TensorImages
from vgglab.data.resampling import cut_out
from vgglab.data.sampling import BatchKeys
from vgglab.errors import InputError

SIZE = (24, 24)
CROPPINGS = [
    RandomResizedCropping(SIZE, 3),
    RandomCropping(SIZE, 3, (24, 40)),
    CentreCropping(SIZE, 3, 28),
]


def picture(height, width, seed=0):
    """Like a photo: smooth, with some noise."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + generator.normal(0, 8, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image, form="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def source(index, data, label=0):
    return Source(index, label, f"image {index}", lambda: data)


JPEGS = [encoded(picture(30 + 7 * i, 61 - 5 * i, i), quality=90) for i in range(5)]
SOURCES = [source(i, data, label=i % 3) for i, data in enumerate(JPEGS)]
BROKEN = [source(9, b"no image"), source(8, b""), source(7, JPEGS[0][:-600])]


@pytest.mark.parametrize("cropping", CROPPINGS)
def test_a_batch_holds_torchvisions_pixels(cropping):
    maker = BatchMaker(cropping, seed=5)
    batch = maker(SOURCES, epoch=2)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.labels.tolist(), batch.indices.tolist()) == ([0, 1, 2, 0, 1], [0, 1, 2, 3, 4])
    assert (batch.epoch, batch.skipped) == (2, ())
    for image, (each, numbers) in zip(batch.images, maker.draw(SOURCES, 2), strict=True):
        decoded = decode_bytes(each.read(), each.name)
        cut = cropping.cut(*decoded.shape[1:], numbers)
        top, left, height, width, *rest = (int(number) for number in cut)
        resized = functional.resized_crop(
            decoded, top, left, height, width, rest[:2], antialias=True
        )
        assert torch.equal(image, functional.crop(resized, *rest[2:]))


@pytest.mark.parametrize("decoder", ["torchvision", "simplejpeg"])
@pytest.mark.parametrize("cropping", CROPPINGS)
def test_a_batch_is_close_to_pillows(cropping, decoder):
    """The reference's: Pillow's decoder and resizing, of the same boxes."""
    pytest.importorskip("simplejpeg")
    maker = BatchMaker(cropping, seed=5, decoder=decoder)
    for image, (each, numbers) in zip(
        maker(SOURCES, 0).images, maker.draw(SOURCES, 0), strict=True
    ):
        opened = Image.open(io.BytesIO(each.read()))
        top, left, height, width, *rest = cropping.cut(opened.height, opened.width, numbers)
        crop = v1.functional.resized_crop(opened, top, left, height, width, rest[:2])
        expected = v1.functional.pil_to_tensor(v1.functional.crop(crop, *rest[2:]))
        assert (image.float() - expected.float()).abs().mean() < 0.1  # grey levels


@pytest.mark.parametrize("size", [(301, 401), (300, 400), (203, 777)])
def test_decoding_at_a_reduced_size_moves_no_pixel(size):
    """The same cut of the whole image; to round it to whole pixels costs some 2 grey levels."""
    pytest.importorskip("simplejpeg")
    data = encoded(picture(*size, seed=3), quality=90)
    for cropping in CROPPINGS:
        plain, turbo = (BatchMaker(cropping, decoder=d) for d in ("torchvision", "simplejpeg"))
        sources = [source(i, data) for i in range(12)]
        decoded = [turbo.decode(*each) for each in turbo.draw(sources, 0)]
        assert any(image.shape[1] < size[0] for image, _ in decoded)
        difference = plain(sources, 0).images.float() - turbo(sources, 0).images.float()
        assert difference.abs().mean() < 0.8
        assert difference.mean().abs() < 0.1


def test_what_simplejpeg_cannot_read_is_read_as_always():
    pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = picture(90, 70)
    odd = [
        encoded(photo, exif=exif),
        encoded(photo.convert("CMYK")),
        encoded(photo.convert("L")),
        encoded(photo, "PNG"),
        encoded(photo, "WEBP"),
        encoded(picture(2, 3)),
    ]
    sources = [source(i, data) for i, data in enumerate(odd)]
    for cropping in CROPPINGS:
        plain, turbo = (BatchMaker(cropping, decoder=d) for d in ("torchvision", "simplejpeg"))
        assert torch.equal(plain(sources[:2], 0).images, turbo(sources[:2], 0).images)
        assert torch.equal(plain(sources[3:], 0).images, turbo(sources[3:], 0).images)
        grey = turbo(sources, 0).images[2]
        assert torch.equal(grey[0], grey[2])
    for broken in BROKEN:
        with pytest.raises(InputError, match=f"^{broken.name}: "):
            turbo([broken], 0)


def test_a_cut_depends_on_seed_epoch_and_image_alone():
    cropping = CROPPINGS[0]
    maker = pickle.loads(pickle.dumps(BatchMaker(cropping, seed=1)))
    whole = maker(SOURCES, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = maker(SOURCES[3:4], 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(alone.images[0], whole.images[3])
    assert not torch.equal(maker(SOURCES[3:4], 1).images[0], whole.images[3])
    other = BatchMaker(cropping, seed=2)(SOURCES, 0)
    assert not torch.equal(other.images[3], whole.images[3])
    assert len({whole.mix_seed, alone.mix_seed, other.mix_seed, maker(SOURCES, 1).mix_seed}) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_images_get_the_channels_of_the_network(channels):
    cropping = CentreCropping((20, 30), channels, 30)
    batch = BatchMaker(cropping)(
        [source(0, JPEGS[0]), source(1, encoded(Image.new("L", (9, 9))))], 0
    )
    assert batch.images.shape == (2, channels, 20, 30)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_image_is_named(broken):
    for training in (True, False):
        maker = BatchMaker(CROPPINGS[0], training=training)
        with pytest.raises(InputError, match=f"^{broken.name}: ") as caught:
            maker([*SOURCES, broken], 0)
        assert "\n" not in str(caught.value)


def test_in_training_the_good_image_before_takes_a_broken_ones_place():
    maker = BatchMaker(CROPPINGS[0], on_error="skip")
    batch = maker([BROKEN[0], *SOURCES[:2], *BROKEN[1:], SOURCES[2]], 0)
    good = maker(SOURCES[:3], 0)
    assert batch.indices.tolist() == [0, 0, 1, 1, 1, 2]
    assert batch.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert torch.equal(batch.images, good.images[batch.indices])
    assert len(batch.skipped) == 3
    assert [line.split(":")[0] for line in batch.skipped] == ["image 9", "image 8", "image 7"]
    with pytest.raises(InputError, match=r"all 3 images of a batch are broken.*image 9: not an"):
        maker(BROKEN, 0)


def test_in_evaluation_broken_images_are_left_out():
    maker = BatchMaker(CROPPINGS[2], on_error="skip", training=False)
    batch = maker([BROKEN[0], SOURCES[0], BROKEN[1], SOURCES[4]], 0)
    assert torch.equal(batch.images, maker([SOURCES[0], SOURCES[4]], 0).images)
    assert (batch.labels.tolist(), batch.indices.tolist()) == ([0, 1], [0, 4])
    empty = maker(BROKEN, 0)
    assert empty.images.shape == (0, 3, *SIZE)
    assert (len(empty.labels), len(empty.skipped)) == (0, 3)


class Kept(EncodedImages):
    """Encoded images in memory."""

    def __init__(self, data):
        self.data = data
        self.labels = torch.arange(len(data))
        self.classes = [str(i) for i in range(len(data))]

    def read(self, index):
        return self.data[index]

    def subset(self, indices):
        raise NotImplementedError


def test_a_view_makes_the_batch_of_its_keys():
    images, maker = Kept(JPEGS), BatchMaker(CROPPINGS[0], seed=3)
    batch = BatchView(images, maker)[BatchKeys(2, [4, 1])]
    sources = [source(4, JPEGS[4], 4), source(1, JPEGS[1], 1)]
    for ours, expected in zip(batch, maker(sources, 2), strict=True):
        assert torch.equal(ours, expected) if isinstance(ours, torch.Tensor) else ours == expected
    broken = BatchView(Kept([b""]), maker)
    with pytest.raises(InputError, match=r"^image 0: empty file$"):
        broken[BatchKeys(0, [0])]


def test_files_need_a_maker(tmp_path):
    files = FileImages(tmp_path, ["a.jpg"], torch.zeros(1).long(), ["a"])
    with pytest.raises(TypeError, match="FileImages cannot be put into batches"):
        BatchView(files)[BatchKeys(0, [0])]


def test_a_batch_of_a_tensor_is_a_gather():
    images = torch.arange(6 * 3 * 4).to(torch.uint8).view(6, 3, 2, 2)
    view = BatchView(TensorImages(images, torch.arange(6) % 3, "abc"), seed=1)
    batch = view[BatchKeys(2, [4, 1])]
    assert torch.equal(batch.images, images[[4, 1]])
    assert batch.labels.tolist() == [1, 1]
    assert batch.indices.tolist() == [4, 1]
    assert batch.epoch == 2
    assert batch.mix_seed != view[BatchKeys(3, [4, 1])].mix_seed


def test_a_workers_batch_is_in_shared_memory_from_the_start():
    view = BatchView(Kept(JPEGS), _Shared(BatchMaker(CROPPINGS[1], seed=3)))
    keys = [BatchKeys(0, [0, 1]), BatchKeys(0, [2, 3, 4])]
    loader = DataLoader(view, batch_size=None, sampler=keys, num_workers=1, collate_fn=list)
    for ours, chosen in zip(loader, keys, strict=True):
        assert torch.equal(ours[0], view.make.maker(_sources(chosen), 0).images)


def _sources(keys):
    return [SOURCES[index] for index in keys.images]


class _Shared:
    def __init__(self, maker):
        self.maker = maker

    def __call__(self, sources, epoch) -> Batch:
        batch = self.maker(sources, epoch)
        assert batch.images.is_shared() == (torch.utils.data.get_worker_info() is not None)
        return batch


def _deep(folder):
    deep = np.asarray(picture(40, 50).convert("L")).astype(np.uint16) << 8
    Image.fromarray(deep + 200).save(folder, "PNG")


ODD = {
    "cmyk.JPEG": lambda path: picture(40, 50).convert("CMYK").save(path),
    "png.JPEG": lambda path: picture(40, 50).save(path, "PNG"),
    "grey.JPEG": lambda path: picture(40, 50).convert("L").save(path),
    "deep.png": _deep,
    "wide.JPEG": lambda path: picture(24, 20_000).save(path),
    "tall.JPEG": lambda path: picture(20_000, 3).save(path),
    "small.JPEG": lambda path: picture(5, 4).save(path),
    "turned.JPEG": lambda path: picture(40, 50).save(path, exif=_turned()),
}


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 8
    return exif


@pytest.mark.parametrize("decoder", ["torchvision", "simplejpeg"])
@pytest.mark.parametrize("name", ODD)
def test_oddities_are_cut_as_pillow_sees_them(tmp_path, name, decoder):
    pytest.importorskip("simplejpeg")
    ODD[name](tmp_path / name)
    files = FileImages(tmp_path, [name], torch.zeros(1).long(), ["a"])
    picture = ImageOps.exif_transpose(Image.open(tmp_path / name))
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture = picture.convert("RGB")
    for cropping in CROPPINGS:
        maker = BatchMaker(cropping, decoder=decoder)
        batch = BatchView(files, maker)[BatchKeys(0, [0])]
        ((_, numbers),) = maker.draw([source(0, b"")], 0)
        cut = cropping.cut(picture.height, picture.width, numbers)
        expected = cut_out(functional.pil_to_tensor(picture), cut)
        assert batch.images.shape == (1, 3, *SIZE)
        # CMYK has no agreed way to RGB; what is reduced is a little sharper.
        assert (batch.images[0].float() - expected.float()).abs().mean() < 2
