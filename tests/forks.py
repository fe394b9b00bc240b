"""Scripts in forks of one process that has imported everything: a run costs no imports.

Imports take a process of its own five seconds and more. That a fork does as a process does is
tested in tests/cli/test_bad_inputs.py.

`Forks` is for tests; the rest of the file is that process, `python tests/forks.py`.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

SCRIPTS = Path(__file__).parents[1] / "scripts"


class Finished(NamedTuple):
    """What a script left behind. A script that ran past its time has the code of its signal."""

    returncode: int
    stdout: str
    stderr: str


def script_environment() -> dict[str, str]:
    """What a script is to see of this process's environment."""
    mine = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return {**mine, "OMP_NUM_THREADS": "1"}


class Forks:
    """The process that forks; a context manager.

    Args:
        output: a folder for standard output and standard error of the scripts.
    """

    def __init__(self, output: Path) -> None:
        self._output = output

    def __enter__(self) -> "Forks":
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=script_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()  # closes its input, which ends it

    def run(
        self,
        script: str,
        arguments: Sequence[str],
        folder: Path,
        *,
        seconds: float = 240,
        before: str = "",
        largest_file: int | None = None,
    ) -> Finished:
        """Run scripts/SCRIPT.py in a folder; it is killed, with its children, after `seconds`.

        Args:
            script: without its ending.
            arguments: of the command line.
            folder: the working directory, and the one of temporary files.
            seconds: see above.
            before: Python to run before the script, such as a smaller data set's counts.
            largest_file: bytes that a file may have: the disk seems full to whoever writes more.
        """
        out, err = self._output / "stdout", self._output / "stderr"
        request = {
            "script": str(SCRIPTS / f"{script}.py"),
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": script_environment(),
            "stdout": str(out),
            "stderr": str(err),
            "seconds": seconds,
            "before": before,
            "largest_file": largest_file,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        return Finished(code, out.read_text(), err.read_text())


def _import_everything() -> None:
    import torch
    import torchvision.models  # noqa: F401 - the scripts import it late

    import vgglab

    for module in pkgutil.walk_packages(vgglab.__path__, "vgglab."):
        importlib.import_module(module.name)
    torch.set_num_threads(1)
    # Otherwise a fork's first garbage collection copies every page of the imported modules.
    gc.collect()
    gc.freeze()


def _serve() -> None:
    """Answer each request, a line, with an exit code."""
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
        print(_code(pid, request["seconds"]), flush=True)


def _code(pid: int, seconds: float) -> int:
    """Of a script, once the processes that it started are gone too."""
    end = time.monotonic() + seconds
    code: int | None = None
    while code is None or _has_members(pid):
        if code is None:
            done, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
        if time.monotonic() > end:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.01)
    return code


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _become(request: Mapping[str, Any]) -> NoReturn:
    """Run the script as the interpreter would; its own way to the end takes a second."""
    os.setsid()
    os.chdir(request["folder"])
    for name, descriptor, flags in (
        (os.devnull, 0, os.O_RDONLY),
        (request["stdout"], 1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (request["stderr"], 2, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(name, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ["TMPDIR"] = request["folder"]  # a temporary file that stays is seen
    tempfile.tempdir = None
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [request["script"], *request["arguments"]]
    code = 0
    if (limit := request["largest_file"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        exec(request["before"], {})
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined] - waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.path[0] = str(SCRIPTS)
    _import_everything()
    _serve()
    os._exit(0)
