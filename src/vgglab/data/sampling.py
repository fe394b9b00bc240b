"""Which images make which batch: seeded, sharded over ranks, resumable.

Lightning's own resume restores neither the order nor the position of a shuffled loader (its issue
threads call it "not resumable"). Here the order is a pure function of (seed, epoch), so a position
is two integers.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from vgglab.errors import InputError

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # the constants of splitmix64 (Steele, Lea & Flood 2014)
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


class BatchKeys(NamedTuple):
    """A batch that is to be made. Beside the seed, what is drawn for an image may depend on the
    epoch and its index alone."""

    epoch: int
    images: list[int]
    """Their indices in the set."""
    ahead: Sequence[int] = ()
    """The chunks that later batches will need first, where images lie in chunks."""


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, so that neighbouring seeds share no stream."""
    state = 0
    for part in parts:
        state = (state + _GOLDEN + part) & _MASK
        state = (state ^ (state >> 30)) * _FIRST & _MASK
        state = (state ^ (state >> 27)) * _SECOND & _MASK
        state ^= state >> 31
    return state >> 1


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch's >> keeps the sign; splitmix64 must not


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 tensors, whose products wrap around."""
    x = (x ^ _shift_right(x, 30)) * _signed(_FIRST)
    x = (x ^ _shift_right(x, 27)) * _signed(_SECOND)
    return x ^ _shift_right(x, 31)


def uniforms(seed: int, epoch: int, indices: Tensor, draws: int) -> Tensor:
    """Random numbers in [0, 1) that depend on (seed, epoch, index, draw) and on nothing else.

    The same image gets the same numbers in any batch, on any rank and after any resume.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        indices: (N,) int64, the images' indices in the training set.
        draws: how many numbers an image needs.

    Returns:
        (N, draws) float32 on the indices' device.
    """
    stream = _mix(indices + derive_seed(seed, epoch))[:, None]
    counter = torch.arange(1, draws + 1, device=indices.device) * _signed(_GOLDEN)
    return _shift_right(_mix(stream + counter), 40).float() / (1 << 24)  # float32 holds 24 bits


def per_device_batch_size(global_batch_size: int, world_size: int) -> int:
    """What one of `world_size` processes gets of a global batch.

    Raises:
        InputError: the batch cannot be divided exactly.
    """
    if global_batch_size % world_size:
        below = global_batch_size - global_batch_size % world_size
        choices = " or ".join(str(size) for size in (below, below + world_size) if size)
        raise InputError(
            f"data.batch_size={global_batch_size} is the global batch and cannot be divided by "
            f"{world_size} processes; use {choices}"
        )
    return global_batch_size // world_size


class ShardedBatches(Sampler[BatchKeys]):
    """The batches of one rank.

    Global batch `i` of an epoch holds the same images whatever the world size; a rank takes every
    `world_size`-th of them. Training drops an incomplete last batch; evaluation keeps it and pads
    nothing, so that every image is counted once.
    """

    def __init__(
        self,
        size: int,
        global_batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
    ) -> None:
        self.size = size
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch. A resumed epoch keeps its starting batch."""
        if epoch != self.epoch:
            self.resume(epoch, 0)

    def resume(self, epoch: int, start: int) -> None:
        """Begin `epoch` at batch `start`."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.global_batch_size)
        return whole + (not self.drop_last and self.rank < rest)

    def __iter__(self) -> Iterator[BatchKeys]:
        order = self._order()
        for batch in range(self.start, len(self)):
            yield BatchKeys(self.epoch, self._share(order, batch))

    def _share(self, order: Tensor, batch: int) -> list[int]:
        indices = order[batch * self.global_batch_size : (batch + 1) * self.global_batch_size]
        return indices[self.rank :: self.world_size].tolist()

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.size)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        return torch.randperm(self.size, generator=generator)
