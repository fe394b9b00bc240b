"""Which images make which batch where images lie in chunks, of which few can be at hand at once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vgglab.data.sampling import BatchKeys, ShardedBatches, derive_seed


class ChunkedBatches(ShardedBatches):
    """As `ShardedBatches`, from few chunks at a time.

    An epoch shuffles the chunks and the images inside each, and cuts this sequence into
    `interleave` equal parts, which are read side by side: each fills its own places of every global
    batch. So a batch mixes the images of so many chunks, and a rank reads the chunks of its own
    places alone. As with `ShardedBatches` a global batch holds the same images whatever the world
    size, all ranks have equally many batches, and the incomplete batch at the end is all that
    training drops.

    Where nothing is shuffled, images come in the order of the chunks.

    Args:
        chunk_of: (N,) int64, the chunk of each image.
        global_batch_size: see `ShardedBatches`.
        interleave: chunks that are read side by side.
        **settings: see `ShardedBatches`.
    """

    def __init__(
        self, chunk_of: Tensor, global_batch_size: int, interleave: int, **settings: Any
    ) -> None:
        super().__init__(len(chunk_of), global_batch_size, **settings)
        self.chunk_of = chunk_of
        self.interleave = min(interleave, global_batch_size)

    def __iter__(self) -> Iterator[BatchKeys]:
        order = self._order()
        needed = self._first_needed(order)
        # A chunk is fetched about as long before its turn as one takes to be read.
        chunks = max(len(needed), 1)
        horizon = 1 + self.size * self.interleave // (chunks * self.global_batch_size)
        for batch in range(self.start, len(self)):
            known = batch + horizon - 1 if batch > self.start else batch
            ahead = [c for c, first in needed if known < first <= batch + horizon]
            yield BatchKeys(self.epoch, self._share(order, batch), ahead)

    def _first_needed(self, order: Tensor) -> list[tuple[int, int]]:
        """This rank's chunks and the first batch that needs each, in the order of those."""
        place = torch.arange(len(order))
        batch, slot = place // self.global_batch_size, place % self.global_batch_size
        mine = self._rank_of(slot) == self.rank
        chunks, batches = self.chunk_of[order[mine]], batch[mine]
        first = torch.full((self._chunks,), len(order)).scatter_reduce(0, chunks, batches, "amin")
        by_turn = first.argsort(stable=True)[: int((first < len(order)).sum())]
        return list(zip(by_turn.tolist(), first[by_turn].tolist(), strict=True))

    @property
    def _chunks(self) -> int:
        return int(self.chunk_of.max()) + 1

    def _rank_of(self, slot: Tensor) -> Tensor:
        if not self.shuffle:
            return slot % self.world_size
        # Neighbouring places, because they are of one part of the sequence.
        return slot // (self.global_batch_size // self.world_size)

    def _share(self, order: Tensor, batch: int) -> list[int]:
        images = order[batch * self.global_batch_size : (batch + 1) * self.global_batch_size]
        mine = self._rank_of(torch.arange(len(images))) == self.rank
        return images[mine].tolist()

    def _order(self) -> Tensor:
        if not self.shuffle:
            return self.chunk_of.argsort(stable=True)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        turn = torch.randperm(self._chunks, generator=generator)
        images = torch.randperm(self.size, generator=generator)
        images = images[turn[self.chunk_of[images]].argsort(stable=True)]
        batches, size = self.size // self.global_batch_size, self.global_batch_size
        order = torch.empty(batches, size, dtype=torch.int64)
        for part in range(self.interleave):
            first, last = (size * p // self.interleave for p in (part, part + 1))
            order[:, first:last] = images[batches * first : batches * last].view(batches, -1)
        return order.flatten()
