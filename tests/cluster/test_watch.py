"""Processes that die or hang, without a trainer: forks that wait for each other over gloo."""

import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import distributed

from vgglab.cluster import watch
from vgglab.cluster.channel import Channel
from vgglab.cluster.signs import Sign, blame, is_loss, missed_meeting
from vgglab.cluster.watch import Watch
from vgglab.errors import InputError

TIMEOUT = 3  # seconds, of the watch
HANGS = 60  # seconds, of a test's processes


def sign(rank: int, moves: int = 7, waits: bool = True, beat: int = 1) -> Sign:
    place = "" if waits else "loader.py:3 (read)"
    return Sign(rank, f"n{rank}", beat, moves, "epoch 0, batch 3", 9.0, place, waits, time.time())


@pytest.mark.parametrize(
    ("signs", "silent", "named", "how"),
    [
        ([sign(0), sign(2)], set(), "rank 1 of 3 ", "never"),
        ([sign(0), sign(1), sign(2)], {2}, "rank 2 of 3 (node n2)", "no sign of life since"),
        ([sign(0), sign(1), sign(2)], {2, 1}, "rank ", "ago, nor 1 of the others"),
        ([sign(0), sign(1, 6), sign(2)], set(), "rank 1 of 3 (node n1)", "hangs"),
        ([sign(0), sign(1, waits=False), sign(2)], set(), "rank 1 of 3", "in loader.py:3 (read)"),
        ([sign(0), sign(1), sign(2)], set(), "all 3 processes", "wait for each other"),
        # Two are behind: the one that waits does so for the other.
        ([sign(0, 9), sign(1, 6), sign(2, 6, waits=False)], set(), "rank 2 of 3", "hangs"),
    ],
)
def test_the_process_that_all_wait_for_is_named(
    signs: list[Sign], silent: set[int], named: str, how: str
) -> None:
    line = blame(3, {sign.rank: sign for sign in signs}, silent, 600)
    assert line.startswith(named)
    assert how in line


def test_of_several_silent_ones_the_first_is_named() -> None:
    signs = {0: sign(0), 1: replace(sign(1), time=time.time() - 5), 2: sign(2)}
    assert blame(3, signs, {0, 1}, 600).startswith("rank 1 of 3")


def test_the_time_without_a_sign_is_told() -> None:
    old = replace(sign(1), time=time.time() - 61)
    assert "since epoch 0, batch 3, 61 s ago" in blame(2, {0: sign(0), 1: old}, {1}, 600)


def test_torchs_errors_of_a_meeting_become_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(RuntimeError) as in_use:
            store(port, is_master=True)
    with pytest.raises(RuntimeError) as too_few:
        store(0, world_size=2, is_master=True)
    with pytest.raises(RuntimeError) as nobody:
        store(port, world_size=2, is_master=False)
    for error, words in (
        (in_use, f"127.0.0.1:{port} is in use by another program; choose another MASTER_PORT"),
        (too_few, "only 1 of 2 processes came"),
        (nobody, f"the processes have not met at 127.0.0.1:{port}: "),
    ):
        assert is_loss(error.value)
        line = missed_meeting(error.value)
        assert line is not None
        assert words in line
        assert "\n" not in line
    assert not is_loss(RuntimeError("shapes do not fit"))
    assert not is_loss(InputError("no such file"))


def store(port: int, **how: Any) -> Any:
    return distributed.TCPStore("127.0.0.1", port, timeout=timedelta(seconds=1), **how)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store, kept as torchrun keeps it."""
    server = store(0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return server


@pytest.fixture
def channels(served: Any) -> Iterator[list[Channel]]:
    opened = [Channel(rank, 2, 0.05, lambda n, rank=rank: sign(rank, beat=n)) for rank in (0, 1)]
    for channel in opened:
        channel.open()
    yield opened
    for channel in opened:
        channel.close()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_first_word_stands(channels: list[Channel]) -> None:
    channels[0].tell((2, "a full disk"), 2)
    until(lambda: channels[1].word == (2, "a full disk"))
    channels[1].tell((1, "something else"), 2)
    until(lambda: channels[0].word == channels[1].word == (2, "a full disk"))


def test_who_is_silent_is_known_and_that_others_speak(channels: list[Channel]) -> None:
    channels[0].look()
    until(lambda: channels[0].signs().keys() == {0, 1})
    beat = channels[0].signs()[1].beat
    until(lambda: channels[0].signs()[1].beat > beat)
    channels[1].close()
    until(lambda: channels[0].silent(0.5) == {1})
    assert channels[0].answers(1)


# What rank 1 does while rank 0 waits for it, what each says, and the exit codes.
WHO = r"error: rank 1 of 2 \(node \S+\)"
SILENT = WHO + r" gives no sign of life since epoch 0, batch 3, \d+ s ago; resume=auto continues"
HANGING = WHO + r" hangs in cluster/test_watch.py:\d+ \(sleep\) since epoch 0, batch 3, \d+ s ago"
CASES: dict[str, tuple[Callable[[], object], list[str], list[int]]] = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), [SILENT, ""], [1, -signal.SIGKILL]),
    "stopped": (lambda: os.kill(os.getpid(), signal.SIGSTOP), [SILENT, ""], [1, -signal.SIGKILL]),
    "sleeps": (lambda: sleep(), [HANGING, HANGING], [1, 1]),
    "fails": (lambda: refuse(), [WHO + ": no such image", ""], [2, 1]),
}


def sleep() -> None:
    time.sleep(HANGS)


def refuse() -> None:
    raise InputError("no such image")


def trainer(rank: int) -> Any:
    """As much of Lightning's as the watch looks at."""
    progress = SimpleNamespace(ready=4, completed=3)
    loop = SimpleNamespace(batch_progress=SimpleNamespace(total=progress, current=progress))
    return SimpleNamespace(
        global_rank=rank,
        world_size=2,
        callbacks=[],
        strategy=SimpleNamespace(launcher=None),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=loop, **vars(loop))),
        test_loop=loop,
        state=SimpleNamespace(finished=False),
        current_epoch=0,
        testing=False,
        validating=False,
        sanity_checking=False,
    )


def begin(rank: int, port: int, folder: Path) -> None:
    descriptor = os.open(folder / f"err{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def wait_in_vain(folder: Path) -> None:
    begin(1, 29500, folder)
    watch.GRACE_SECONDS = 0
    with Watch(trainer(1), 1):
        time.sleep(HANGS)


def meet(rank: int, port: int, act: Callable[[], object], folder: Path) -> None:
    begin(rank, port, folder)
    distributed.init_process_group(
        "gloo",
        store=store(port, is_master=False, wait_for_workers=False),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=HANGS),
    )
    with Watch(trainer(rank), TIMEOUT) as watching:
        until(lambda: watching.channel.answers(TIMEOUT))
        distributed.barrier()
        if rank == 1:
            act()
        distributed.barrier()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[list[int], list[str]]]]:
    context = multiprocessing.get_context("fork")
    started: list[Any] = []

    def both(act: Callable[[], object]) -> tuple[list[int], list[str]]:
        server = store(0, is_master=True, wait_for_workers=False)
        for rank in (0, 1):
            started.append(context.Process(target=meet, args=(rank, server.port, act, tmp_path)))
            started[-1].start()
        started[0].join(HANGS)
        if act is CASES["stopped"][0]:  # as its launcher would
            started[1].kill()
        started[1].join(HANGS)
        return (
            [process.exitcode for process in started],
            [(tmp_path / f"err{rank}").read_text() for rank in (0, 1)],
        )

    yield both
    for process in started:
        process.kill()


@pytest.mark.parametrize("case", CASES)
def test_a_lost_process_ends_the_others(case: str, run: Any) -> None:
    act, expected, codes = CASES[case]
    found, said = run(act)
    assert found == codes, said
    for pattern, text in zip(expected, said, strict=True):
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(lines) == bool(pattern), text
        assert not pattern or re.match(pattern, lines[0]), lines[0]


def test_a_process_that_meets_no_other_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LATE", 0)
    process = multiprocessing.get_context("fork").Process(target=wait_in_vain, args=(tmp_path,))
    process.start()
    process.join(HANGS)
    assert process.exitcode == 1
    line = "error: the processes have not met: nothing answers at 127.0.0.1:29500\n"
    assert (tmp_path / "err1").read_text() == line


def test_how_far_a_real_trainer_is() -> None:
    seen: list[tuple[int, str]] = []

    class Look(Callback):
        def on_train_batch_start(self, *what: Any) -> None:
            seen.append((watching._count(), watching._position()))

        on_validation_batch_start = on_train_batch_start

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Look()],
    )
    watching = Watch(trainer, TIMEOUT)
    trainer.fit(BoringModel())
    # Each batch counts when it is there, and when it is done.
    assert seen == [
        (1, "epoch 0, batch 0"),
        (3, "epoch 0, batch 1"),
        (5, "epoch 0, validation batch 0"),
        (7, "epoch 0, validation batch 1"),
    ]


def test_a_line_that_nobody_hears_hides_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the terminal is gone, the process must end all the same."""

    def gone(*given: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(watch, "_speech", threading.Lock())
    monkeypatch.setattr(os, "write", gone)
    watch.say("rank 1 is lost")
