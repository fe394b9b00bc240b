from typing import NamedTuple

import pytest
import torch

from vgglab.data import encoded
from vgglab.data.batches import Batch, BatchMaker, BatchView
from vgglab.data.cropping import CentreCropping
from vgglab.data.device import Resident, Residents, copy_to, one_ahead
from vgglab.data.images import FileImages, TensorImages
from vgglab.data.loading import ResumableLoader
from vgglab.data.sampling import ShardedBatches
from vgglab.errors import BrokenImageError, InputError

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


class Recorder:
    """In place of a `SideStream`: places batches at once, and writes down what it is asked."""

    def __init__(self, place=lambda batch: batch):
        self.place = place
        self.events = []

    def begin(self, batch):
        self.events.append(("begin", number(batch)))
        return self.place(batch)

    def finish(self, begun):
        self.events.append(("finish", number(begun)))
        return begun


def number(batch):
    return batch if isinstance(batch, int) else int(batch.indices[0])


def test_the_copy_of_the_next_batch_begins_before_a_batch_is_handed_out():
    stream = Recorder()
    for batch, copy in one_ahead(iter(range(4)), stream):
        assert batch == copy
        stream.events.append(("use", batch))
    assert stream.events == [
        ("begin", 0),
        ("begin", 1),
        ("finish", 0),
        ("use", 0),
        ("begin", 2),
        ("finish", 1),
        ("use", 1),
        ("begin", 3),
        ("finish", 2),
        ("use", 2),
        ("finish", 3),
        ("use", 3),
    ]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_all_batches_come_however_few(size):
    assert list(one_ahead(iter(range(size)), Recorder())) == [(i, i) for i in range(size)]


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_error_comes_after_the_batches_before_it(good):
    def batches():
        yield from range(good)
        raise InputError("a broken image")

    handed_out = []
    with pytest.raises(InputError, match="a broken image"):
        handed_out.extend(batch for batch, _ in one_ahead(batches(), Recorder()))
    # `extend` keeps what came before the error.
    assert handed_out == list(range(good))


def test_whoever_stops_early_takes_one_batch_too_many_from_the_source_and_no_more():
    source = iter(range(10))
    batches = one_ahead(source, Recorder())
    next(batches)
    batches.close()
    assert next(source) == 2


def tensor_images(size=40):
    pixels = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    return TensorImages(pixels.contiguous(), torch.arange(size) % 4, ["a", "b", "c", "d"])


def loader(stream, workers=0, images=None):
    images = images or tensor_images()
    batches = ShardedBatches(len(images), 8, seed=4, shuffle=True, drop_last=True)
    return ResumableLoader(
        BatchView(images),
        batches,
        stream=stream,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def batches_of(loader, first=0, last=3):
    for epoch in range(first, last):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert loader.indices == batch.indices.tolist()
            yield batch.epoch, batch.images.tolist(), batch.labels.tolist(), loader.indices


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [2, 5])  # of 5 batches an epoch
def test_a_stream_changes_neither_the_batches_nor_where_a_resumed_loader_goes_on(workers, done):
    interrupted = loader(Recorder(), workers)
    stream = batches_of(interrupted)
    first = [next(stream) for _ in range(done)]
    state = interrupted.state_dict()
    assert state == {"epoch": 0, "batches": done}  # not those that were copied ahead
    resumed = loader(Recorder(), workers)
    resumed.load_state_dict(state)
    assert first + list(batches_of(resumed, state["epoch"])) == list(batches_of(loader(None)))


def test_workers_that_persist_begin_the_next_epoch_afresh_when_one_ends_early():
    limited = loader(Recorder(), workers=1)
    for epoch in range(3):
        limited.sampler.set_epoch(epoch)
        seen = [batch.indices.tolist() for _, batch in zip(range(2), limited, strict=False)]
        whole = loader(None)
        whole.sampler.set_epoch(epoch)
        assert seen == [batch.indices.tolist() for batch in whole][:2]


def test_lines_about_skipped_images_come_with_their_batch_and_once():
    class Skipping(BatchView):
        def __getitem__(self, keys):
            batch = super().__getitem__(keys)
            return batch._replace(skipped=(f"image {int(batch.indices.min())}: broken",))

    batches = ShardedBatches(24, 8)
    found = ResumableLoader(Skipping(tensor_images(24)), batches, stream=Recorder())
    assert [len(found.skipped) for _ in found] == [1, 2, 3]
    assert [len(found.skipped) for _ in found] == [3, 3, 3]  # the second epoch tells nothing new
    assert found.skipped == ["image 0: broken", "image 8: broken", "image 16: broken"]
    fresh = ResumableLoader(Skipping(tensor_images(24)), batches, stream=Recorder())
    next(iter(fresh))
    assert fresh.skipped == ["image 0: broken"]  # the next batch is copied, not handed out


def test_a_resident_set_gives_the_batches_that_the_loader_gave():
    images = tensor_images()
    resident = Resident(images, CPU)
    assert resident.without_pixels.images.nbytes == 0
    from_there = loader(Recorder(resident), images=resident.without_pixels)
    made = list(batches_of(from_there))
    assert made == list(batches_of(loader(None, images=images)))


@pytest.fixture
def copies(monkeypatch):
    """What was copied, instead of copies."""
    made = []
    monkeypatch.setattr(
        "vgglab.data.device.Resident", lambda *given: made.append(given) or len(made)
    )
    return made


def test_a_set_is_copied_once_to_a_device(copies):
    images, residents = tensor_images(), Residents(True)
    assert [residents.copy_of(images, GPU) for _ in range(3)] == [1, 1, 1]
    assert residents.copy_of(tensor_images(), GPU) == 2
    assert copies[0] == (images, GPU)


def test_by_default_only_small_sets_live_on_a_gpu(monkeypatch, copies):
    images = tensor_images()
    assert Residents(False).copy_of(images, GPU) is None
    assert Residents("auto").copy_of(images, GPU) is not None
    monkeypatch.setattr("vgglab.data.device._MAX_BYTES", images.images.nbytes - 1)
    assert Residents("auto").copy_of(images, GPU) is None
    assert Residents(True).copy_of(images, GPU) is not None


def test_on_a_cpu_they_are_there_and_elsewhere_they_cannot_be():
    images, other = tensor_images(), torch.device("mps")
    assert Residents(True).copy_of(images, CPU) is Residents("auto").copy_of(images, CPU) is None
    assert Residents("auto").copy_of(images, other) is None
    with pytest.raises(InputError, match=r"on_device=true is for CUDA devices, and this is mps"):
        Residents(True).copy_of(images, other)


def test_files_cannot_live_on_a_device(tmp_path):
    files = FileImages(tmp_path, ["a.jpg"], torch.zeros(1).long(), ["a"])
    Residents("auto").check(files)
    assert Residents("auto").copy_of(files, CPU) is None
    with pytest.raises(InputError, match=r"data\.on_device=true needs images of one size"):
        Residents(True).check(files)


def test_what_is_no_tensor_is_copied_as_it_is():
    class Encoded(NamedTuple):
        data: tuple
        labels: torch.Tensor
        epoch: int

    batch = Encoded((torch.ones(2), b"bytes"), torch.tensor([1, 2]), 3)
    moved = copy_to(batch, torch.device("meta"))
    assert isinstance(moved, Encoded)
    assert moved.data is batch.data
    assert moved.labels.device.type == "meta"
    assert moved.epoch == 3


def test_what_the_device_finds_broken_when_it_decodes_is_told_too(make_tree, monkeypatch):
    decode_files = encoded._decode_files

    def found_broken(batch, device):
        images = decode_files(batch, device)
        return [
            BrokenImageError(f"{name}: broken") if name.endswith("002.jpg") else image
            for name, image in zip(batch.names, images, strict=True)
        ]

    monkeypatch.setattr(encoded, "_decode_files", found_broken)
    root = make_tree({"a": 6}, suffix=".jpg")
    (root / "a" / "004.jpg").write_bytes(b"")
    files = FileImages(root, [f"a/{i:03}.jpg" for i in range(6)], torch.zeros(6).long(), ["a"])
    maker = BatchMaker(CentreCropping((8, 8), 3, 8), on_error="skip", training=False)
    make = encoded.EncodedBatchMaker(maker)
    stream = Recorder(lambda batch: make.decode(batch, CPU))
    loader = ResumableLoader(BatchView(files, make), ShardedBatches(6, 3), stream=stream)
    seen = [(loader.indices, batch.indices.tolist(), len(loader.skipped)) for batch in loader]
    assert seen == [([0, 1], [0, 1], 1), ([3, 5], [3, 5], 2)]
    assert [line.split(":")[0][-7:] for line in loader.skipped] == ["002.jpg", "004.jpg"]


def test_a_resident_batch_keeps_its_epoch_and_seed():
    images = tensor_images()
    batch = Batch(torch.empty(2, 0, 2, 2), images.labels[[3, 9]], torch.tensor([3, 9]), 7, 11)
    found = Resident(images, CPU)(batch)
    assert torch.equal(found.images, images.images[[3, 9]])
    assert found[1:] == batch[1:]
