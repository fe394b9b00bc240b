"""The loader of batches: resumable, with workers that begin and end as they should."""

import logging
import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader

from vgglab.cores import usable_cores
from vgglab.data.device import SideStream, one_ahead
from vgglab.data.notices import notice
from vgglab.data.sampling import ShardedBatches
from vgglab.errors import InputError
from vgglab.text import plural

log = logging.getLogger(__name__)

_START_SECONDS = 15.0  # a worker begins within a tenth of one, on a busy machine within some
_STARTS = 3


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over whole batches whose state is (epoch, batches handed out).

    Lightning saves and restores it through `state_dict` and `load_state_dict`. The dataset is
    indexed with the keys of a whole batch, so one gather can make it.

    Args:
        dataset: see `BatchView`.
        batches: which images make which batch.
        stream: brings batches to the device, one ahead of the one that is in use. None: they stay
            where they were made.
        **settings: torch's.
    """

    sampler: ShardedBatches

    def __init__(
        self,
        dataset: Any,
        batches: ShardedBatches,
        *,
        stream: SideStream | None = None,
        **settings: Any,
    ) -> None:
        # The loader's generator seeds its workers. One of its own leaves the global stream alone,
        # which otherwise moves with every iterator made and differs after a resume.
        generator = torch.Generator().manual_seed(batches.seed)
        with warnings.catch_warnings():
            # Said below, in one line and once a run.
            warnings.filterwarnings("ignore", "This DataLoader will create")
            super().__init__(
                dataset,
                batch_size=None,
                sampler=batches,
                collate_fn=_as_it_is,
                worker_init_fn=_Begun(),
                generator=generator,
                **settings,
            )
        if self.num_workers > (cores := usable_cores()):
            notice(f"data.num_workers={self.num_workers}, but {plural(cores, 'core')} to run on")
        self.stream = stream
        self.seconds_waited = 0.0
        """How long whoever iterates has waited so far, the start of the workers included."""
        self.handed_out = 0
        """Batches of this epoch; not those that were made, or copied, ahead."""
        self.indices: list[int] = []
        """The images of the batch that was handed out last, by their index in the set."""
        self._skipped: dict[str, None] = {}
        if self.num_workers:
            Finalize(None, _end_workers, exitpriority=0)

    @property
    def skipped(self) -> list[str]:
        """A line for each broken image that was left out so far, in this process."""
        return list(self._skipped)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """
        Raises:
            InputError: an image cannot be read, in one line also where a worker found it.
        """
        # A generator, so that workers start at the first `next`, after Lightning's `set_epoch`:
        # started earlier they would fetch a resumed epoch in the order of epoch 0.
        batches: Any = super().__iter__()
        try:
            yield from self._hand_out(batches)
        except Exception as error:
            if self.num_workers:
                # The error holds the iterator in a cycle. Collected as garbage it would have lost
                # the way to its workers, and wait 10 seconds for them in vain.
                batches._shutdown_workers()
                self._iterator = None
            if not isinstance(error, InputError):
                raise
            # A worker's error arrives with its whole traceback as the message: keep the last line.
            line = str(error).strip().splitlines()[-1]
            kind = type(error)
            line = line.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")
            raise InputError(line) from error

    def _hand_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        self.handed_out = self.sampler.start
        asked = time.perf_counter()
        for made, batch in self._placed(batches):
            self.handed_out += 1
            self._note(made, batch)
            self.seconds_waited += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def _placed(self, batches: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        """Each batch as it was made, and where it is needed."""
        if self.stream is None:
            return ((batch, batch) for batch in batches)
        return one_ahead(batches, self.stream)

    def _note(self, made: Any, batch: Any) -> None:
        """Of evaluation's batches of shapes there is nothing to tell."""
        skipped = getattr(batch, "skipped", ())
        self._skipped.update(dict.fromkeys(skipped))
        if hasattr(made, "indices"):
            # As they were on the CPU, because to read a GPU's waits for it; but what could not be
            # decoded there is no longer among the batch's.
            self.indices = (batch if skipped else made).indices.tolist()

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
                worker.join(_START_SECONDS)
        return iterator

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "batches": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.resume(state["epoch"], state["batches"])
        self.handed_out = state["batches"]


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
