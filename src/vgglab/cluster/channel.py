"""What the processes of a run tell each other while their main threads are at work."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from threading import Event, Thread
from typing import Any

from torch import distributed

from vgglab.cluster.signs import Sign

Word = tuple[int, str]  # an exit code and a line


class Channel:
    """Gives a sign of life through the run's store each period, and hears why another one ends.

    The thread that talks to the store may wait for it, for ever where its node is gone: nothing
    here makes the callers wait for that thread longer than they say.

    Args:
        rank: of this process.
        world_size: how many there are.
        period: seconds.
        sign: makes this process's next sign from its number.
    """

    def __init__(
        self, rank: int, world_size: int, period: float, sign: Callable[[int], Sign]
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.period = period
        self.looks = False
        """Whether to read the others' signs, too, which costs the store much more."""
        self.word: Word | None = None
        """Why the run ends: the word of the first process that said one."""
        self._sign = sign
        self._own_word: Word | None = None
        self._listeners = world_size
        self._answered: float | None = None
        self._signs: dict[int, tuple[Sign, float]] = {}
        self._wake, self._heard, self._ended = Event(), Event(), Event()
        self._thread = Thread(target=self._run, name="watch-channel", daemon=True)

    def open(self) -> None:
        """Begin as soon as there is a store."""
        self._thread.start()

    def close(self) -> None:
        """Say no more."""
        self._ended.set()
        self._wake.set()
        # A thread that comes back from C++ into an interpreter that is ending aborts the process.
        self._thread.join(10 * self.period)

    def tell(self, word: Word, listeners: int) -> None:
        """Let the others know why the run ends; the first word stands.

        Args:
            word: exit code and line.
            listeners: how many processes live: it is waited for four periods until they know.
        """
        self._own_word, self._listeners = word, listeners
        self._wake.set()
        if _has_store():
            self._heard.wait(4 * self.period)

    def look(self) -> None:
        """Read the others' signs now, and from now on."""
        self.looks = True
        self._wake.set()

    def answers(self, seconds: float) -> bool:
        """Whether the store has answered within the last seconds."""
        return self._answered is not None and time.monotonic() - self._answered <= seconds

    def signs(self) -> dict[int, Sign]:
        """The last sign of each process that has been looked at."""
        return {rank: sign for rank, (sign, _) in self._signs.items()}

    def silent(self, seconds: float) -> set[int]:
        """The other processes that have given no new sign for so long."""
        now = time.monotonic()
        return {rank for rank, (_, at) in self._signs.items() if now - at > seconds} - {self.rank}

    def _run(self) -> None:
        store: Any = None
        beat = 0
        while not self._ended.is_set():
            self._wake.wait(self.period if store is not None else self.period / 10)
            self._wake.clear()
            beat += 1
            try:
                store = store or self._connected()
                if store is not None:
                    self._exchange(store, beat)
                    self._answered = time.monotonic()
            except RuntimeError:  # torch's: the store is gone, or cannot be reached for a while
                store = None

    def _connected(self) -> Any:
        """A connection of this thread's own: the main thread's may be waiting for something."""
        if not _has_store():
            return None
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=10 * self.period),
            wait_for_workers=False,
        )
        # torchrun may start all processes again, with the same store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return distributed.PrefixStore(f"vgglab/{attempt}", store)  # type: ignore[attr-defined]

    def _exchange(self, store: Any, beat: int) -> None:
        store.set(f"sign/{self.rank}", json.dumps(asdict(self._sign(beat))))
        if self._own_word is not None and self.word is None:
            store.compare_set("word", "", json.dumps(self._own_word))
        if self.word is None and store.check(["word"]):
            code, line = json.loads(store.get("word"))
            self.word = code, line
            store.add("listeners", 1)
        if self._own_word is not None and store.add("listeners", 0) >= self._listeners:
            self._heard.set()
        if self.looks:
            for rank in range(self.world_size):
                self._look_at(rank, store)

    def _look_at(self, rank: int, store: Any) -> None:
        if rank in self._signs or store.check([f"sign/{rank}"]):
            sign = Sign(**json.loads(store.get(f"sign/{rank}")))
            if rank not in self._signs or self._signs[rank][0].beat != sign.beat:
                self._signs[rank] = sign, time.monotonic()


def _has_store() -> bool:
    """torchrun keeps a store, from the beginning; otherwise rank 0 does."""
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return kept or distributed.is_initialized()
