import itertools
import logging
import multiprocessing
import time
from types import SimpleNamespace

import pytest
import torch

from vgglab.data import loading
from vgglab.data.batches import BatchMaker, BatchView
from vgglab.data.cropping import CentreCropping
from vgglab.data.images import FileImages, TensorImages
from vgglab.data.loading import ResumableLoader, _Begun
from vgglab.data.sampling import ShardedBatches
from vgglab.errors import InputError


def tensor_images(size):
    pixels = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1)
    return TensorImages(pixels, torch.zeros(size).long(), ["a"])


def loader(workers, batch=8, size=40):
    images = tensor_images(size)
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
    (tmp_path / "a.jpg").write_text("no image")
    files = FileImages(tmp_path, ["a.jpg"], torch.zeros(1).long(), ["a"])
    make = BatchMaker(CentreCropping((8, 8), 3, 8))
    broken = ResumableLoader(BatchView(files, make), ShardedBatches(1, 1), num_workers=workers)
    with pytest.raises(InputError) as caught:
        list(broken)
    assert str(caught.value) == f"{tmp_path / 'a.jpg'}: not an image"
    assert not multiprocessing.active_children()


def test_waiting_for_batches_is_timed_and_using_them_is_not(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loading, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Slow(BatchView):
        def __getitem__(self, keys):
            clock.now += 3
            return super().__getitem__(keys)

    timed = ResumableLoader(Slow(tensor_images(24)), ShardedBatches(24, 8))
    for _ in timed:
        clock.now += 100
    assert timed.seconds_waited == 9


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="forked workers alone")
def test_workers_that_do_not_begin_are_started_again(monkeypatch, tmp_path, caplog):
    view = BatchView(tensor_images(8))
    loader = ResumableLoader(view, ShardedBatches(8, 4), num_workers=1)
    first = tmp_path / "first"
    first.touch()

    def begin(begun: _Begun, worker: int) -> None:
        if first.exists():  # the first child alone hangs, as fork does
            first.unlink()
            time.sleep(600)
        begun._count.release()

    def begun_within(begun: _Begun, seconds: float) -> bool:
        if next(asked) == 0:  # the one that hangs
            return begun._count.acquire(timeout=0.2)
        monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 60)
        return begun._count.acquire(timeout=300)

    asked = itertools.count()
    monkeypatch.setattr(_Begun, "__call__", begin)
    monkeypatch.setattr(_Begun, "next_one", begun_within)
    # So many seconds does torch give a worker to end by itself.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    with caplog.at_level(logging.WARNING, "vgglab"):
        batches = [batch.images.flatten().tolist() for batch in loader]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [record.message for record in caplog.records] == [
        "a loader's worker did not begin: all are started again"
    ]
    assert not multiprocessing.active_children()
