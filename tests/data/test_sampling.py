import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vgglab.data.sampling import (
    ShardedBatches,
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
        assert all(len(shard[i].images) == per for shard in shards)
        parts = zip(*(shard[i].images for shard in shards), strict=True)
        assert [image for images in parts for image in images] == whole.images
    seen = [image for keys in batches(0, 1, drop_last=False) for image in keys.images]
    assert sorted(seen) == list(range(size))


@settings(deadline=None)
@given(size=st.integers(0, 200), world=st.integers(1, 8), per=st.integers(1, 9))
def test_evaluation_counts_every_image_once_without_padding(size, world, per):
    seen = []
    for rank in range(world):
        batches = ShardedBatches(size, world * per, rank=rank, world_size=world)
        drawn = [keys.images for keys in batches]
        assert len(drawn) == len(batches)
        assert all(drawn)
        seen += [image for images in drawn for image in images]
    assert sorted(seen) == list(range(size))


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        batches = ShardedBatches(50, 10, seed=seed, shuffle=True)
        batches.set_epoch(epoch)
        return [image for keys in batches for image in keys.images]

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
