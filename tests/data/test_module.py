import pytest
import torch
from tests.data.test_device import Recorder
from torch.utils._python_dispatch import TorchDispatchMode

from vgglab.data import ImageFolder, Synthetic
from vgglab.data.batches import Batch, BatchView
from vgglab.data.device import Resident, copy_to
from vgglab.data.loading import ResumableLoader
from vgglab.errors import InputError


class OnRank:
    """What the data module asks its trainer."""

    training = True

    def __init__(self, rank, world_size):
        self.global_rank, self.world_size = rank, world_size
        self.strategy = type("Strategy", (), {"root_device": torch.device("cpu")})


def on_rank(rank, world_size, **settings):
    data = Synthetic(height=8, width=8, train_size=64, val_size=21, batch_size=16, **settings)
    data.trainer = OnRank(rank, world_size)
    data.setup("fit")
    return data


def test_two_ranks_see_together_what_one_process_sees():
    whole = next(iter(on_rank(0, 1, pad=2, flip=True).train_dataloader()))
    shards = [next(iter(on_rank(rank, 2, pad=2, flip=True).train_dataloader())) for rank in (0, 1)]
    assert len(shards[0].images) == len(shards[1].images) == 8
    data = on_rank(0, 1, pad=2, flip=True)
    expected, _ = data.on_after_batch_transfer(whole, 0)
    for rank, shard in enumerate(shards):
        got, labels = data.on_after_batch_transfer(shard, 0)
        assert torch.equal(got, expected[rank::2])
        assert torch.equal(labels, whole.labels[rank::2])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_sees_every_image_once(world_size):
    seen = []
    for rank in range(world_size):
        for batch in on_rank(rank, world_size).val_dataloader():
            seen += batch.indices.tolist()
    assert sorted(seen) == list(range(21))


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(InputError, match=r"batch_size=16.*3 processes; use 15 or 18"):
        on_rank(0, 3).train_dataloader()


def test_a_batch_larger_than_the_training_set_is_refused():
    data = Synthetic(train_size=8, batch_size=16)
    data.setup("fit")
    with pytest.raises(InputError, match=r"batch_size=16 is larger than the training set \(8"):
        data.train_dataloader()


def test_only_training_batches_are_augmented():
    data = on_rank(0, 1, pad=3, flip=True)
    batch = next(iter(data.train_dataloader()))
    plain = data.preprocessing.normalize(batch.images)
    assert not torch.equal(data.on_after_batch_transfer(batch, 0)[0], plain)
    data.trainer.training = False
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], plain)
    data.trainer.training = True
    data.augment = False
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], plain)


def test_mixing_gives_label_weights():
    data = on_rank(0, 1, mixup_alpha=0.2, cutmix_alpha=1.0)
    batch = next(iter(data.train_dataloader()))
    _, labels = data.on_after_batch_transfer(batch, 0)
    assert labels.shape == (16, 10)


def test_other_batches_pass_through():
    data = on_rank(0, 1)
    other = (torch.zeros(1), torch.zeros(1))
    assert data.on_after_batch_transfer(other, 0) is other


def test_shuffle_can_be_switched_off():
    batch: Batch = next(iter(on_rank(0, 1, shuffle=False).train_dataloader()))
    assert batch.indices.tolist() == list(range(16))


def prepared(**settings):
    data = Synthetic(train_size=20, batch_size=10, **settings)
    data.setup("fit")
    return data


def test_evaluation_resizes_to_the_centre_of_the_training_scale():
    data = prepared(train_scale=[32, 48])
    assert data.preprocessing.resize == 40
    assert data.preprocessing.train_scale == (32, 48)
    batch = next(iter(data.val_dataloader()))
    images, _ = data.network_input(batch, augment=False)
    expected = torch.stack([data.preprocessing.fit(image) for image in batch.images])
    assert torch.equal(images, data.preprocessing.normalize(expected))


def test_training_images_are_rescaled_or_cropped_and_their_colours_shifted():
    batch = next(iter(prepared().train_dataloader()))
    plain, _ = prepared().network_input(batch, augment=True)
    for changed in ({"train_scale": 40}, {"crop": "random_resized"}, {"colour_deviation": 0.1}):
        images, _ = prepared(**changed).network_input(batch, augment=True)
        assert images.shape == plain.shape
        assert not torch.equal(images, plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_scale": 30}, "below the network's input of 32"),
        ({"train_scale": [48, 32]}, "smallest comes first"),
        ({"train_scale": 40, "pad": 4}, "one of them"),
        ({"crop": "random_resized", "crop_area": [0.9, 0.3]}, "crop_area.*smallest comes first"),
        ({"crop_area": [0.3, 1.0]}, "crop_area needs data.crop=random_resized, not null"),
        ({"crop_area": [0.3, 1.0], "train_scale": 40}, "crop_area needs .*, not random"),
        ({"crop": "random_resized", "pad": 4}, "crop=random_resized and data.pad: give one"),
        ({"crop": "none", "pad": 4}, "crop=none and data.pad: give one"),
        ({"crop": "random_resized", "train_scale": 40}, "train_scale needs data.crop=random, not"),
        ({"crop": "random"}, "crop=random of images in memory needs data.train_scale"),
        ({"colour_deviation": 0.1, "channels": 1}, "RGB"),
        ({"colour_deviation": 0.1, "colour_axes": "nowhere.json"}, "no such file"),
    ],
)
def test_scales_and_colours_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        prepared(**settings)


def test_the_share_of_the_area_of_a_crop_is_a_setting():
    """A crop of nearly all of the image is nearly the image."""
    batch = next(iter(prepared(noise=0.0).train_dataloader()))
    plain = prepared().network_input(batch, augment=False)[0]

    def distance(**settings):
        images, _ = prepared(crop="random_resized", **settings).network_input(batch, augment=True)
        return (images - plain).abs().mean()

    assert distance(crop_area=[0.99, 1.0]) < distance() / 2


def test_a_crop_by_its_name_is_that_of_the_scale():
    batch = next(iter(prepared().train_dataloader()))
    named, scaled = prepared(train_scale=40, crop="random"), prepared(train_scale=40)
    first, second = (data.network_input(batch, augment=True)[0] for data in (named, scaled))
    assert torch.equal(first, second)
    uncropped = prepared(crop="none").network_input(batch, augment=True)[0]
    assert torch.equal(uncropped, prepared().preprocessing.normalize(batch.images))


@pytest.mark.parametrize("world_size", [1, 2])
def test_sets_that_live_on_the_device_give_the_same_batches(world_size):
    # The device is the CPU here; tests/data/test_on_gpu.py does it on a GPU.
    def batches(on_device, split):
        data = on_rank(world_size - 1, world_size, on_device=True, pad=2, flip=True)
        loader = getattr(data, f"{split}_dataloader")()
        assert loader.stream is None  # on a CPU they are there
        if on_device:
            place = Resident(loader.dataset.images, torch.device("cpu"))
            view = BatchView(place.without_pixels, seed=data.seed)
            loader = ResumableLoader(view, loader.sampler, stream=Recorder(place))
        return [
            (loader.indices, batch.indices.tolist(), *data.on_after_batch_transfer(batch, 0))
            for batch in loader
        ]

    for split in ("train", "val"):
        for there, here in zip(batches(True, split), batches(False, split), strict=True):
            assert there[:2] == here[:2]
            assert torch.equal(there[2], here[2])
            assert torch.equal(there[3], here[3])


def test_a_gpus_decoder_needs_a_gpu(make_tree):
    data = ImageFolder(
        root=str(make_tree({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}, suffix=".jpg")),
        image_size=16,
        decode="cuda",
        batch_size=2,
    )
    data.setup("fit")
    with pytest.raises(InputError, match=r"decode=cuda needs a CUDA device.*is on cpu"):
        data.train_dataloader()


class NoCopies(TorchDispatchMode):
    """Fails where something of the CPU goes to the device, for which a GPU would be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_meta:
            inputs = [arg for arg in args if isinstance(arg, torch.Tensor)]
            assert all(arg.is_meta or arg.ndim == 0 for arg in inputs), func
            assert func is not torch.ops.aten.lift_fresh.default, "made from a list"
        return result


@pytest.mark.parametrize(
    "changes",
    [
        {"pad": 4},
        {"train_scale": [32, 48]},
        {"crop": "random_resized", "crop_area": [0.25, 1.0]},
        {"colour_deviation": 0.1},
        {"mixup_alpha": 0.4},
        {"cutmix_alpha": 1.0},
        {"augment": False},
        {"augment": False, "train_scale": 40},
    ],
    ids=str,
)
def test_nothing_on_the_way_to_the_network_waits_for_the_device(changes):
    # A tensor on `meta` has no numbers: whatever asks for one, or chooses by them, fails.
    data = prepared(flip=True, **changes)
    batch = copy_to(next(iter(data.train_dataloader())), torch.device("meta"))
    data.network_input(batch, augment=data.augment)  # which makes the constants that stay there
    with NoCopies():
        images, labels = data.network_input(batch, augment=data.augment)
    assert images.is_meta
    assert labels.is_meta
