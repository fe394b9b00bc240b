import logging
import multiprocessing
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vgglab.data import sampling
from vgglab.data.images import BatchView, FileImages, TensorImages
from vgglab.data.sampling import (
    ResumableLoader,
    ShardedBatches,
    _Begun,
    derive_seed,
    per_device_batch_size,
    uniforms,
)
from vgglab.errors import InputError

SEEDS = st.integers(0, 2**62)


@settings(deadline=None)
@given(parts=st.lists(st.integers(0, 2**62), min_size=1, max_size=4))
def test_a_derived_seed_is_a_63_bit_number_and_repeatable(parts):
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(*parts)


def test_derived_seeds_are_distinct():
    pairs = {derive_seed(a, b) for a in range(60) for b in range(60)}
    assert len(pairs) == 60 * 60  # (1, 2) and (2, 1) too
    assert derive_seed(0) != derive_seed(0, 0)


@settings(deadline=None)
@given(seed=SEEDS, epoch=st.integers(0, 1000), size=st.integers(1, 50))
def test_uniforms_lie_in_the_half_open_interval(seed, epoch, size):
    numbers = uniforms(seed, epoch, torch.arange(size), 3)
    assert numbers.shape == (size, 3)
    assert numbers.dtype == torch.float32
    assert bool(((numbers >= 0) & (numbers < 1)).all())


@settings(deadline=None)
@given(seed=SEEDS, epoch=st.integers(0, 1000), data=st.data())
def test_an_image_gets_the_same_numbers_in_any_batch(seed, epoch, data):
    indices = data.draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
    batch = uniforms(seed, epoch, torch.tensor(indices), 4)
    alone = torch.cat([uniforms(seed, epoch, torch.tensor([i]), 4) for i in indices])
    assert torch.equal(batch, alone)


def test_uniforms_are_uniform_and_uncorrelated():
    numbers = uniforms(3, 5, torch.arange(20_000), 3)
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    expected = numbers.numel() / 20
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 43.8  # 19 degrees of freedom, p = 0.001
    correlation = torch.corrcoef(torch.cat([numbers.T, numbers.T.roll(1, 1)]))
    assert float((correlation - torch.eye(6)).abs().max()) < 0.03


def test_uniforms_change_with_seed_epoch_and_draw():
    here = uniforms(1, 1, torch.arange(100), 2)
    assert not torch.isclose(here[:, 0], here[:, 1]).all()
    for other in (uniforms(2, 1, torch.arange(100), 2), uniforms(1, 2, torch.arange(100), 2)):
        assert float((here == other).float().mean()) < 0.02


@settings(deadline=None)
@given(size=st.integers(1, 300), world=st.integers(1, 8), per=st.integers(1, 9), seed=SEEDS)
def test_the_ranks_share_out_each_global_batch_of_the_single_process_order(size, world, per, seed):
    def batches(rank, world_size, *, drop_last):
        return list(
            ShardedBatches(
                size,
                world * per,
                seed=seed,
                rank=rank,
                world_size=world_size,
                shuffle=True,
                drop_last=drop_last,
            )
        )

    single = batches(0, 1, drop_last=True)
    shards = [batches(rank, world, drop_last=True) for rank in range(world)]
    assert all(len(shard) == len(single) == size // (world * per) for shard in shards)
    for i, whole in enumerate(single):
        assert all(len(shard[i]) == per for shard in shards)
        interleaved = [
            key for keys in zip(*(shard[i] for shard in shards), strict=True) for key in keys
        ]
        assert interleaved == whole
    seen = [key.image for batch in batches(0, 1, drop_last=False) for key in batch]
    assert sorted(seen) == list(range(size))


@settings(deadline=None)
@given(size=st.integers(1, 100), world=st.integers(1, 4), per=st.integers(1, 9), data=st.data())
def test_the_images_of_a_batch_are_those_it_had(size, world, per, data):
    rank = data.draw(st.integers(0, world - 1))
    batches = ShardedBatches(size, world * per, seed=3, rank=rank, world_size=world, shuffle=True)
    batches.resume(data.draw(st.integers(0, 5)), start := data.draw(st.integers(0, len(batches))))
    for number, keys in enumerate(batches, start):
        assert batches.images_of(number) == [key.image for key in keys]


@settings(deadline=None)
@given(size=st.integers(0, 200), world=st.integers(1, 8), per=st.integers(1, 9))
def test_evaluation_counts_every_image_once_without_padding(size, world, per):
    seen = []
    for rank in range(world):
        batches = ShardedBatches(size, world * per, rank=rank, world_size=world)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        assert all(drawn)
        seen += [key.image for batch in drawn for key in batch]
    assert sorted(seen) == list(range(size))


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        batches = ShardedBatches(50, 10, seed=seed, shuffle=True)
        batches.set_epoch(epoch)
        return [key.image for batch in batches for key in batch]

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0) != list(range(50))


@settings(deadline=None)
@given(world=st.integers(1, 9), batch=st.integers(1, 64))
def test_a_batch_is_divided_exactly_or_refused(world, batch):
    if batch % world == 0:
        assert per_device_batch_size(batch, world) * world == batch
        return
    with pytest.raises(
        InputError, match=f"data.batch_size={batch}.*{world} processes; use"
    ) as caught:
        per_device_batch_size(batch, world)
    proposed = [int(word) for word in str(caught.value).split("use ")[1].split(" or ")]
    assert proposed
    assert all(size % world == 0 and size > 0 for size in proposed)


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

    monkeypatch.setattr(sampling, "_START_SECONDS", 2.0)
    monkeypatch.setattr(_Begun, "__call__", lambda begun, worker: (hang(), begun._count.release()))
    with caplog.at_level(logging.WARNING, "vgglab"):
        batches = [batch[0].flatten().tolist() for batch in loader]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert {record.message for record in caplog.records} == {
        "a loader's worker did not begin: all are started again"
    }
    assert not multiprocessing.active_children()
