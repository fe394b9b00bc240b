"""Batches from a few chunks at a time: each image once, on whichever ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vgglab.data.shards.order import ChunkedBatches


def batches(
    chunk_of: Tensor,
    batch: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    interleave: int = 3,
    shuffle: bool = True,
    seed: int = 5,
) -> ChunkedBatches:
    return ChunkedBatches(
        chunk_of,
        batch,
        interleave,
        seed=seed,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle,
        drop_last=shuffle,
    )


def images(order: ChunkedBatches) -> list[list[int]]:
    return [keys.images for keys in order]


def in_chunks(count: int, size: int) -> Tensor:
    return (torch.arange(count) // size)[torch.randperm(count)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(12, 300),
    size=st.integers(1, 50),
    world_size=st.integers(1, 4),
    share=st.integers(1, 3),
    interleave=st.integers(1, 20),
)
def test_each_image_comes_once_over_all_ranks(
    count: int, size: int, world_size: int, share: int, interleave: int
) -> None:
    chunk_of = in_chunks(count, size)
    batch = world_size * share
    ranks = [
        images(batches(chunk_of, batch, rank=rank, world_size=world_size, interleave=interleave))
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {count // batch}  # or the ranks would wait for ever
    seen = [image for rank in ranks for part in rank for image in part]
    assert len(seen) == len(set(seen)) == count - count % batch
    # The images of a step do not depend on the number of processes.
    alone = images(batches(chunk_of, batch, interleave=interleave))
    together = [[i for part in step for i in part] for step in zip(*ranks, strict=True)]
    assert together == alone


def test_a_rank_reads_the_chunks_of_its_own_places() -> None:
    chunk_of = in_chunks(4000, 50)
    orders = [batches(chunk_of, 40, rank=rank, world_size=2, interleave=4) for rank in (0, 1)]
    read = [{int(chunk_of[i]) for part in images(order) for i in part} for order in orders]
    assert len(read[0] & read[1]) <= 1  # the one that the parts share, where they meet


def test_a_batch_mixes_as_many_chunks_as_are_interleaved() -> None:
    chunk_of = in_chunks(4000, 50)
    mixed = [len({int(chunk_of[i]) for i in part}) for part in images(batches(chunk_of, 40))]
    assert min(mixed) >= 3
    assert max(mixed) <= 6  # at the ends of chunks


def test_each_epoch_has_its_order() -> None:
    order = batches(in_chunks(60, 7), 6)
    first = images(order)
    assert images(order) == first
    order.set_epoch(1)
    assert images(order) != first
    assert images(batches(order.chunk_of, 6, seed=6)) != first


@pytest.mark.parametrize("shuffle", [True, False])
def test_it_resumes_where_it_stopped(shuffle: bool) -> None:
    order = batches(in_chunks(61, 7), 6, shuffle=shuffle)
    order.set_epoch(2)
    whole = images(order)
    assert len(whole) == len(order) == (10 if shuffle else 11)
    for start in (0, 4, len(whole)):
        order.resume(2, start)
        assert images(order) == whole[start:]


def test_evaluation_goes_through_the_chunks_and_leaves_none_out() -> None:
    chunk_of = in_chunks(61, 7)
    ranks = [
        images(batches(chunk_of, 6, rank=rank, world_size=2, shuffle=False)) for rank in (0, 1)
    ]
    assert sorted(i for rank in ranks for part in rank for i in part) == list(range(61))
    for rank in ranks:
        read = chunk_of[[i for part in rank for i in part]].tolist()
        assert read == sorted(read)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("start", [0, 7])
def test_chunks_are_named_once_and_before_their_turn(shuffle: bool, start: int) -> None:
    order = batches(in_chunks(600, 20), 6, rank=1, world_size=2, shuffle=shuffle)
    order.resume(0, start)
    asked: list[int] = []
    needed: set[int] = set()
    early = 0
    for number, keys in enumerate(order):
        here = {int(order.chunk_of[index]) for index in keys.images}
        if number > 0:
            early += sum(chunk in asked for chunk in here - needed)
            assert here - needed <= set(asked)
        asked += keys.ahead
        needed |= here
    assert early
    assert len(asked) == len(set(asked))
