"""Which images make which batch: seeded, sharded over ranks, resumable.

Lightning's own resume restores neither the order nor the position of a shuffled loader (its issue
threads call it "not resumable"). Here the order is a pure function of (seed, epoch), so a position
is two integers.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from vgglab.errors import InputError

log = logging.getLogger(__name__)

_START_SECONDS = 15.0  # a worker begins within a tenth of one, on a busy machine within some
_STARTS = 3

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # the constants of splitmix64 (Steele, Lea & Flood 2014)
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


class Key(NamedTuple):
    """One image of one epoch: all that its random augmentation may depend on, beside the seed."""

    epoch: int
    image: int


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


class ShardedBatches(Sampler[list[Key]]):
    """The batches of one rank, each a list of keys.

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

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        for batch in range(self.start, len(self)):
            yield [Key(self.epoch, image) for image in self._share(order, batch)]

    def images_of(self, batch: int) -> list[int]:
        """This rank's images of a batch of the present epoch, in order."""
        return self._share(self._order(), batch)

    def _share(self, order: Tensor, batch: int) -> list[int]:
        indices = order[batch * self.global_batch_size : (batch + 1) * self.global_batch_size]
        return indices[self.rank :: self.world_size].tolist()

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.size)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        return torch.randperm(self.size, generator=generator)


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over whole batches whose state is (epoch, batches done).

    Lightning saves and restores it through `state_dict` and `load_state_dict`. The dataset is
    indexed with a whole list of keys, so one gather can make one batch. `seconds_waited` is how
    long whoever iterates has waited for batches so far, the start of the workers included.
    """

    sampler: ShardedBatches

    def __init__(self, dataset: Any, batches: ShardedBatches, **kwargs: Any) -> None:
        # The loader's generator seeds its workers. One of its own leaves the global stream alone,
        # which otherwise moves with every iterator made and differs after a resume.
        generator = torch.Generator().manual_seed(batches.seed)
        super().__init__(
            dataset,
            batch_size=None,
            sampler=batches,
            collate_fn=_as_it_is,
            worker_init_fn=_Begun(),
            generator=generator,
            **kwargs,
        )
        self.seconds_waited = 0.0
        self._done = 0
        if self.num_workers:
            Finalize(None, _end_workers, exitpriority=0)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that workers start at the first `next`, after Lightning's `set_epoch`:
        # started earlier they would fetch a resumed epoch in the order of epoch 0.
        self._done = self.sampler.start
        asked = time.perf_counter()
        try:
            for batch in super().__iter__():
                self._done += 1
                self.seconds_waited += time.perf_counter() - asked
                yield batch
                asked = time.perf_counter()
        except InputError as error:
            # A worker's error arrives with its whole traceback as the message: keep the last line.
            line = str(error).strip().splitlines()[-1]
            raise InputError(line.removeprefix(f"{InputError.__module__}.InputError: ")) from error

    def _get_iterator(self) -> Any:
        """torch's, with workers that live.

        Now and then a forked one does not: CPython's `fork` waits for ever in the child where a
        thread that is not Python's, such as gloo's, enters Python at that moment (seen with 3.11 in
        `PyOS_AfterFork_Child`, at one start of two processes in some dozens). Then all are started
        again; what they load does not depend on them.
        """
        begun: _Begun = self.worker_init_fn  # type: ignore[assignment]
        starts = _STARTS if multiprocessing.get_start_method() == "fork" else 1
        for attempt in range(starts):
            iterator: Any = super()._get_iterator()
            is_last = attempt == starts - 1  # there may be a reason why it takes so long
            if is_last or all(begun.next_one(_START_SECONDS) for _ in range(self.num_workers)):
                break
            log.warning("a loader's worker did not begin: all are started again")
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()
        return iterator

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.resume(state["epoch"], state["batches"])
        self._done = state["batches"]


class _Begun:
    """What each worker does first: tell that it lives, and be deaf to SIGTERM.

    SLURM sends it to all processes of a job, and the step that is to be finished may yet need the
    worker.
    """

    def __init__(self) -> None:
        self._count = multiprocessing.Semaphore(0)

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._count.release()

    def next_one(self, seconds: float) -> bool:
        """Whether one more has begun, within so long."""
        return self._count.acquire(timeout=seconds)


def _end_workers() -> None:
    """At the end of this process, before Python terminates them with the signal that they do not
    hear, and waits."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call it an error
    for worker in workers:
        worker.kill()


def _as_it_is(batch: Any) -> Any:
    return batch
