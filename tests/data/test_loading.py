import logging
import multiprocessing
import time

import pytest
import torch

from vgglab.data import loading
from vgglab.data.batches import BatchView
from vgglab.data.images import FileImages, TensorImages
from vgglab.data.loading import ResumableLoader, _Begun
from vgglab.data.sampling import (
    ShardedBatches,
)
from vgglab.errors import InputError


def loader(workers, batch=8, size=40):
    images = TensorImages(
        torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1), torch.zeros(size).long(), ["a"]
    )
    batches = ShardedBatches(size, batch, seed=4, shuffle=True, drop_last=True)
    return ResumableLoader(
        BatchView(images), batches, num_workers=workers, persistent_workers=workers > 0
    )


def epochs(loader, first, last):
    for epoch in range(first, last):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield batch.epoch, batch.indices.tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 2, 5, 7])  # 5 batches an epoch: start, middle, end, second
def test_a_resumed_loader_gives_exactly_what_remained(workers, done):
    interrupted = loader(workers)
    stream = epochs(interrupted, 0, 3)
    first = [next(stream) for _ in range(done)]
    state = interrupted.state_dict()
    resumed = loader(workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = list(epochs(resumed, state["epoch"], 3))
    assert first + rest == list(epochs(loader(0), 0, 3))


def test_a_resumed_loader_can_be_interrupted_again():
    whole = list(epochs(loader(0), 0, 1))
    seen, state = [], {"epoch": 0, "batches": 0}
    for _ in range(2):
        resumed = loader(0)
        resumed.load_state_dict(state)
        stream = epochs(resumed, 0, 1)
        seen += [next(stream), next(stream)]
        state = resumed.state_dict()
    assert state == {"epoch": 0, "batches": 4}
    assert seen == whole[:4]


def test_making_an_iterator_leaves_the_global_random_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(loader(0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line_also_from_a_worker(tmp_path, workers):
    def refuse(path):
        raise InputError(f"{path}: not an image")

    files = FileImages(tmp_path, ["a.jpg"], torch.zeros(1).long(), ["a"], refuse)
    broken = ResumableLoader(BatchView(files), ShardedBatches(1, 1), num_workers=workers)
    with pytest.raises(InputError) as caught:
        list(broken)
    assert str(caught.value) == f"{tmp_path / 'a.jpg'}: not an image"


@pytest.mark.slow
def test_workers_that_do_not_begin_are_started_again(monkeypatch, tmp_path, caplog):
    images = torch.arange(8, dtype=torch.uint8).reshape(8, 1, 1, 1)
    view = BatchView(TensorImages(images, torch.arange(8), ["class"] * 8))
    loader = ResumableLoader(view, ShardedBatches(8, 4), num_workers=1)
    first = tmp_path / "first"
    first.touch()

    def hang() -> None:  # as fork does, in the first child alone
        if first.exists():
            first.unlink()
            time.sleep(600)

    monkeypatch.setattr(loading, "_START_SECONDS", 2.0)
    monkeypatch.setattr(_Begun, "__call__", lambda begun, worker: (hang(), begun._count.release()))
    with caplog.at_level(logging.WARNING, "vgglab"):
        batches = [batch[0].flatten().tolist() for batch in loader]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert {record.message for record in caplog.records} == {
        "a loader's worker did not begin: all are started again"
    }
    assert not multiprocessing.active_children()
