"""What feeds a GPU, against the same on the CPU; skipped without one. See scripts/check_gpus.sh."""

from functools import partial

import pytest
import torch

from vgglab.data import ImageFolder, Synthetic
from vgglab.data.augmentation import (
    RESIZED_DRAWS,
    pad_crop_flip,
    rescale_crop_flip,
    resized_crop_flip,
)
from vgglab.data.batches import BatchView
from vgglab.data.device import Residents, SideStream, copy_to
from vgglab.data.images import TensorImages
from vgglab.data.loading import ResumableLoader
from vgglab.data.sampling import ShardedBatches, uniforms

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda", 0)


class Trainer:
    """What a data module asks its trainer."""

    training = True
    global_rank, world_size = 0, 1

    def __init__(self, device):
        self.strategy = type("Strategy", (), {"root_device": device})


def module(device, **settings):
    data = Synthetic(train_size=512, batch_size=64, **settings)
    data.trainer = Trainer(device)
    data.setup("fit")
    return data


def large_images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 3, 96, 96), generator=generator).to(torch.uint8)
    return TensorImages(pixels, torch.arange(64), [str(i) for i in range(64)])


def loader(images, stream, workers=0):
    return ResumableLoader(
        BatchView(images),
        ShardedBatches(len(images), 8, seed=1, shuffle=True),
        stream=stream,
        num_workers=workers,
        pin_memory=stream is not None,
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resident", [False, True])
def test_batches_arrive_whole_while_the_gpu_is_busy(workers, resident):
    images = large_images()
    place, source = partial(copy_to, device=GPU), images
    if resident:
        place = Residents("auto").copy_of(images, GPU)
        source = place.without_pixels
    there = loader(source, SideStream(GPU, place), workers)
    plain = loader(images, None)
    for epoch in range(3):
        there.sampler.set_epoch(epoch)
        plain.sampler.set_epoch(epoch)
        results = []
        for batch in there:
            assert batch.images.device == batch.labels.device == batch.indices.device == GPU
            torch.cuda._sleep(20_000_000)  # some 10 ms: the step that the next copy overlaps with
            results.append((batch.images.clone(), batch.labels.clone(), there.indices))
            del batch  # its memory is free for a copy now, but not before the clone has run
        for (pixels, labels, indices), expected in zip(results, plain, strict=True):
            assert torch.equal(pixels.cpu(), expected.images)
            assert torch.equal(labels.cpu(), expected.labels)
            assert indices == expected.indices.tolist()


def test_a_copy_does_not_wait_for_the_step_before_it():
    stream = SideStream(GPU, partial(copy_to, device=GPU))
    batch = next(iter(loader(large_images(), None)))
    batch = batch._replace(
        images=batch.images.pin_memory(),
        labels=batch.labels.pin_memory(),
        indices=batch.indices.pin_memory(),
    )
    stream.finish(stream.begin(batch))  # the first one sets things up
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # half a second
    step = torch.cuda.current_stream(GPU).record_event()
    _, arrived = stream.begin(batch)
    arrived.synchronize()
    assert not step.query()
    torch.cuda.synchronize()


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_on_the_gpu_sees_what_one_on_the_cpu_sees(on_device, split):
    settings = {"pad": 4, "flip": True, "colour_deviation": 0.1}
    there, here = (
        module(GPU, on_device=on_device, **settings),
        module(torch.device("cpu"), **settings),
    )
    for data in (there, here):
        data.trainer.training = split == "train"
    loaders = [getattr(data, f"{split}_dataloader")() for data in (there, here)]
    for batch, expected in zip(*loaders, strict=True):
        assert torch.equal(batch.images.cpu(), expected.images)
        images, labels = there.on_after_batch_transfer(batch, 0)
        wanted, wanted_labels = here.on_after_batch_transfer(expected, 0)
        torch.testing.assert_close(images.cpu(), wanted, rtol=0, atol=1e-4)
        assert torch.equal(labels.cpu(), wanted_labels)


def test_augmentation_on_the_gpu_equals_that_on_the_cpu():
    images, indices = large_images().images, torch.arange(64)
    numbers = uniforms(3, 1, indices, RESIZED_DRAWS)
    assert torch.equal(uniforms(3, 1, indices.to(GPU), RESIZED_DRAWS).cpu(), numbers)
    for change, allowed in (
        (partial(pad_crop_flip, pad=4, flip=True), 0),
        (partial(rescale_crop_flip, scale=(96, 140), flip=True), 1),  # grey level, of rounding
        (partial(resized_crop_flip, area=(0.25, 1.0), flip=True), 1),
    ):
        draws = {"pad": 3, "scale": 4, "area": RESIZED_DRAWS}[next(iter(change.keywords))]
        there = change(images.to(GPU), numbers[:, :draws].to(GPU)).cpu()
        assert (there.int() - change(images, numbers[:, :draws]).int()).abs().max() <= allowed


@pytest.mark.parametrize(
    "changes",
    [
        {"pad": 4, "colour_deviation": 0.1},
        {"train_scale": [32, 48]},
        {"crop": "random_resized", "crop_area": [0.25, 1.0]},
        {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
    ],
    ids=str,
)
def test_nothing_on_the_way_to_the_network_waits_for_the_gpu(changes):
    data = module(GPU, flip=True, **changes)
    batch, *others = list(data.train_dataloader())
    data.on_after_batch_transfer(batch, 0)  # which makes the constants that stay there
    torch.cuda.set_sync_debug_mode("error")
    try:
        for other in others:
            data.on_after_batch_transfer(other, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_the_gpu_decodes_differs_by_rounding(make_tree):
    counts = {"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4}
    root = str(make_tree(counts, size=(90, 120), suffix=".jpg"))

    def batches(device, decode):
        data = ImageFolder(root=root, image_size=64, decode=decode, batch_size=4, num_workers=0)
        data.trainer = Trainer(device)
        data.setup("fit")
        return [*data.train_dataloader(), *data.val_dataloader()]

    for there, here in zip(
        batches(GPU, "cuda"), batches(torch.device("cpu"), "torchvision"), strict=True
    ):
        assert there.images.device == GPU
        assert torch.equal(there.indices.cpu(), here.indices)
        assert torch.equal(there.labels.cpu(), here.labels)
        difference = (there.images.cpu().int() - here.images.int()).abs().float()
        assert float(difference.mean()) < 2  # grey levels; random pixels are the hardest to encode
