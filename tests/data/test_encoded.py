import pickle
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tests.data.test_batches import BROKEN, CROPPINGS, JPEGS, SOURCES, encoded, picture, source

from vgglab.data import ImageFolder
from vgglab.data.batches import BatchMaker
from vgglab.data.encoded import EncodedBatchMaker, check_cuda
from vgglab.data.headers import is_complete, jpeg_header
from vgglab.errors import BrokenImageError, InputError

CPU = torch.device("cpu")
EXIF = Image.Exif()
EXIF[0x0112] = 6
MIXED = [
    source(0, JPEGS[0], 2),
    source(1, encoded(picture(40, 50), "PNG"), 1),
    source(2, encoded(picture(40, 50), exif=EXIF)),
    source(3, JPEGS[3], 1),
    source(4, encoded(picture(40, 50).convert("CMYK"))),
    source(5, encoded(picture(40, 50).convert("L"))),
]
# Its header is good and it has an end: only the decoder finds out.
HOLLOW = source(9, JPEGS[0][: JPEGS[0].index(b"\xff\xda") + 14] + b"\xff\xd9")


def assert_equal(batch, expected):
    for ours, theirs in zip(batch, expected, strict=True):
        equal = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
        assert equal


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cropping", CROPPINGS)
@pytest.mark.parametrize("sources", [MIXED, SOURCES, MIXED[1:3]])
def test_on_the_cpu_it_equals_the_plain_batch(cropping, sources, channels):
    cropping = type(cropping)(*{**vars(cropping), "channels": channels}.values())
    plain = BatchMaker(cropping, 3)
    maker = EncodedBatchMaker(plain)
    batch = maker.decode(pickle.loads(pickle.dumps(maker(sources, 1))), CPU)
    assert_equal(batch, plain(sources, 1))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_what_a_gpu_decodes_otherwise_is_decoded_before():
    made = EncodedBatchMaker(BatchMaker(CROPPINGS[0]))(MIXED, 0)
    assert made.slots.tolist() == [0, 3, 5]
    assert made.pixel_slots.tolist() == [1, 2, 4]
    assert len(made.data) == sum(len(MIXED[slot].read()) for slot in (0, 3, 5))
    assert len(made.batch.images) == 3


@pytest.mark.parametrize("training", [True, False])
def test_broken_images_are_skipped_as_in_a_plain_batch(training):
    assert jpeg_header(HOLLOW.read()).is_plain
    assert is_complete(HOLLOW.read())
    sources = [BROKEN[0], *MIXED[:2], BROKEN[2], MIXED[3]]
    plain = BatchMaker(CROPPINGS[0], seed=3, on_error="skip", training=training)
    maker = EncodedBatchMaker(plain)
    made = maker(sources, 0)
    assert len(made.batch.skipped) == 2
    assert_equal(maker.decode(made, CPU), plain(sources, 0))


def test_one_of_many_that_the_decoder_refuses(monkeypatch):
    def refuse(files, **settings):
        if any(len(file) == len(JPEGS[3]) for file in files):
            raise RuntimeError("one of them")
        return [torch.zeros(3, 30, 60, dtype=torch.uint8) for _ in files]

    monkeypatch.setattr("vgglab.data.encoded.decode_jpeg", refuse)
    plain = BatchMaker(CROPPINGS[2])
    maker = EncodedBatchMaker(plain)
    made = maker(MIXED, 0)
    batch = maker.decode(made, CPU)
    assert int(batch.images[0].max()) == 0
    assert torch.equal(batch.images[3], plain(MIXED, 0).images[3])

    def broken(data, name):
        raise BrokenImageError(f"{name}: unreadable image")

    monkeypatch.setattr("vgglab.data.encoded.decode_bytes", broken)
    with pytest.raises(InputError, match=r"^image 3: unreadable image$"):
        maker.decode(made, CPU)
    batch = EncodedBatchMaker(replace(plain, on_error="skip")).decode(made, CPU)
    assert batch.indices.tolist() == [0, 1, 2, 2, 4, 5]
    assert batch.skipped == ("image 3: unreadable image",)


def test_a_broken_file_is_named():
    for training in (True, False):
        for broken in BROKEN:
            maker = EncodedBatchMaker(BatchMaker(CROPPINGS[0], training=training))
            with pytest.raises(InputError, match=f"^{broken.name}: "):
                maker.decode(maker([*SOURCES, broken], 0), CPU)


@pytest.mark.parametrize("decode", ["torchvision", "simplejpeg", "cuda"])
def test_the_setting_chooses_the_maker(monkeypatch, make_tree, decode):
    root = str(make_tree({"train/a": 1, "train/b": 1}, suffix=".jpg"))
    data = ImageFolder(root=root, image_size=16, decode=decode, on_error="skip", seed=3)
    monkeypatch.setattr("vgglab.extras.find_spec", lambda name: name)
    for training in (True, False):
        maker = data._maker(training=training)
        assert isinstance(maker, EncodedBatchMaker) == (decode == "cuda")
        plain = maker.maker if decode == "cuda" else maker
        assert plain.decoder == ("torchvision" if decode == "cuda" else decode)
        assert (plain.on_error, plain.training, plain.seed) == ("skip", training, 3)
    monkeypatch.setattr("vgglab.extras.find_spec", lambda name: None)
    if decode == "simplejpeg":
        with pytest.raises(
            InputError, match=r"data\.decode=simplejpeg needs: uv sync --extra turbo"
        ):
            data._maker(training=True)


def test_cuda_decoding_needs_cuda():
    check_cuda(torch.device("cuda"))
    with pytest.raises(InputError, match=r"data\.decode=cuda needs a CUDA device.*is on cpu"):
        check_cuda(CPU)
