"""The fuzzers can fail: each thing that must not happen is seen."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.fuzz.worker import Worker
from vgglab.errors import InputError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(target) gives the outcome of one input."""
    monkeypatch.setattr("tests.fuzz.worker.MEMORY", 200 << 20)
    workers = []

    def make(target):
        workers.append(Worker(target, tmp_path / str(len(workers)), cpu_seconds=1))
        return workers[-1].run("name.bin", b"data")

    yield make
    for worker in workers:
        worker.close()


def refuse(file, folder):
    raise InputError(f"{file}: no")


def test_answers_and_refusals(run):
    assert run(lambda file, folder: (folder / "x").write_bytes(file.read_bytes())) == "accepted"
    assert run(refuse) == "refused"


def loop(file, folder):
    while True:
        pass


def several_lines(file, folder):
    raise InputError(f"{file}: no\nnever")


def nameless(file, folder):
    raise InputError("no")


@pytest.mark.parametrize(
    ("target", "what"),
    [
        (lambda file, folder: os.kill(os.getpid(), signal.SIGSEGV), "died of SIGSEGV"),
        (lambda file, folder: os.abort(), "died of SIGABRT"),
        (lambda file, folder: os._exit(5), "ended with 5"),
        (loop, "CPU time is up"),
        (lambda file, folder: 1 / 0, "ZeroDivisionError"),
        (lambda file, folder: file.missing, "AttributeError"),
        (several_lines, "not one line"),
        (nameless, "not one line"),
        (lambda file, folder: (file.parent / "stray").touch(), "stray"),
        (lambda file, folder: os.symlink("/", folder.parent / "link"), "link"),
        (lambda file, folder: (file.parent.parent / "escaped").touch(), "open '.*escaped'"),
        (lambda file, folder: os.remove(file) or file.touch(), "os.remove"),
        (lambda file, folder: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda file, folder: os.system("true"), "os.system"),
        (lambda file, folder: len(b"x" * (300 << 20)), "took 3.. MiB"),
        (lambda file, folder: len(b"x" * (30 << 30)), "MemoryError"),
    ],
)
def test_what_must_not_happen_is_seen(run, target, what):
    with pytest.raises(AssertionError, match=what):
        run(target)


def test_a_failed_input_stays_and_the_next_one_runs(tmp_path):
    worker = Worker(lambda file, folder: file.read_bytes() == b"a" or os.abort(), tmp_path / "w")
    with pytest.raises(AssertionError, match="w/b"):
        worker.run("b", b"b")
    assert (tmp_path / "w" / "b").read_bytes() == b"b"
    assert worker.run("a", b"a") == "accepted"
    worker.close()
    shutil.rmtree(tmp_path / "w")
