"""A child process that reads hostile files, so that a crash or a hang is seen and told."""

import json
import os
import resource
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vgglab.errors import InputError

Target = Callable[[Path, Path], None]
"""Reads the file; what it unpacks goes into the folder. Raises InputError, or the test fails."""

WALL_SECONDS = 300  # for waiting without work, as at a pipe
MEMORY = 2 << 30  # bytes of resident memory above the start's
_ADDRESSES = 8 << 30  # likewise of address space, so that a bomb kills the child alone

# Audit events that change something: where their paths stand among the arguments.
_CHANGES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.connect")


class Worker:
    """Runs `target` in a forked child, which is replaced when it dies.

    Args:
        target: what is fuzzed.
        folder: holds the input, and `inside/out` for what is unpacked.
        cpu_seconds: of one input; of the process, because a busy neighbour costs no CPU time.
    """

    def __init__(self, target: Target, folder: Path, *, cpu_seconds: float = 30) -> None:
        self.target = target
        self.cpu_seconds = cpu_seconds
        self.folder = folder
        self.out = folder / "inside" / "out"
        self.out.mkdir(parents=True)
        self.pid = 0

    def run(self, name: str, data: bytes) -> str:
        """`accepted` or `refused`; anything else is an AssertionError, and the input stays."""
        if not self.pid:
            self._start()
        file = self.folder / name
        before = {file, *self.folder.iterdir(), *self.out.parent.iterdir()}
        file.write_bytes(data)
        os.write(self._requests, f"{name}\n".encode())
        ready, _, _ = select.select([self._answers], [], [], WALL_SECONDS)
        line = os.read(self._answers, 1 << 20) if ready else b""
        if not line:
            raise AssertionError(f"{file}: {self._end()}")
        outcome = json.loads(line)
        strays = {*self.folder.iterdir(), *self.out.parent.iterdir()} - before
        if outcome["failure"] or strays:
            raise AssertionError(f"{file}: {outcome['failure']} {strays or ''}")
        file.unlink()
        return outcome["result"]

    def close(self) -> None:
        if self.pid:
            self._end()

    def _start(self) -> None:
        their_requests, self._requests = os.pipe()
        self._answers, their_answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with suppress(BaseException):
                os.close(self._requests)
                os.close(self._answers)
                self._serve(their_requests, their_answers)
            os._exit(3)
        os.close(their_requests)
        os.close(their_answers)

    def _end(self) -> str:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        os.close(self._requests)
        os.close(self._answers)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            what = {signal.SIGPROF: "CPU time is up", signal.SIGKILL: "waits without an end"}
            return what.get(signal.Signals(number), f"died of {signal.Signals(number).name}")
        return f"ended with {os.WEXITSTATUS(status)}"

    def _serve(self, requests: int, answers: int) -> None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESSES, size + _ADDRESSES))
        started = _peak()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)  # what native decoders say
        watch = _Watch(self.out)
        for name in os.fdopen(requests):
            signal.setitimer(signal.ITIMER_PROF, self.cpu_seconds)
            result, failure = self._attempt(self.folder / name.strip(), watch)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if not failure and _peak() - started > MEMORY:
                failure = f"took {(_peak() - started) >> 20} MiB"
            os.write(answers, json.dumps({"result": result, "failure": failure}).encode())

    def _attempt(self, file: Path, watch: "_Watch") -> tuple[str, str]:
        watch.seen = []
        watch.on = True
        result, failure = "accepted", ""
        try:
            self.target(file, self.out)
        except InputError as error:
            result = "refused"
            if "\n" in str(error) or file.name not in str(error):
                failure = f"not one line with the file's name: {error}"
        except BaseException:  # noqa: BLE001 - that is what is looked for
            failure = traceback.format_exc()
        watch.on = False
        shutil.rmtree(self.out)
        self.out.mkdir()
        return result, failure or "; ".join(watch.seen)


class _Watch:
    """Notes what is changed outside of a folder, and programs that are started."""

    def __init__(self, folder: Path) -> None:
        self.folder = f"{folder}{os.sep}"
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event}{arguments}")
        paths = [arguments[at] for at in _CHANGES.get(event, ())]
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & 0o3:  # to write
            paths.append(arguments[0])
        for path in paths:
            if isinstance(path, (str, bytes, os.PathLike)):
                real = f"{os.path.realpath(os.fsdecode(path))}{os.sep}"
                if not real.startswith(self.folder):
                    self.seen.append(f"{event} {path!r}")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
