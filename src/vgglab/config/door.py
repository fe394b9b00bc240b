"""The door of every script: bad input leaves as one line on standard error and exit code 2."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from vgglab.config import guard
from vgglab.config.errors import explain
from vgglab.errors import InputError
from vgglab.ranks import process_rank
from vgglab.streams import outlive_readers

BAD_INPUT = 2  # the exit code
STOPPED = 128 + signal.SIGINT  # as shells tell that Ctrl-C ended a program
SWEEP = "multirun.yaml"  # Hydra writes it before the first job of a --multirun

# Hydra users know this variable: with it they see the whole traceback. Read here, because
# `readable_errors` must set it: Hydra otherwise prints errors its own way and exits with 1.
_SET_BY_US = "VGGLAB_READABLE_ERRORS"  # which the processes that a run starts inherit
FULL_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1" and _SET_BY_US not in os.environ

_FIRST_SPEAKS = 10.0  # seconds


@contextmanager
def readable_errors(*, outlives_output: bool = False) -> Iterator[None]:
    """Turn errors a person can mend into one line and exit code 2; bugs keep their traceback.

    A script uses it twice: around `main()`, for what Hydra refuses, and inside `main`, for what
    comes later; there it also removes the run folder if nothing has been written into it.
    Ctrl-C is no bug either.
    It also puts the guard against strangers' configuration files in place.

    Args:
        outlives_output: work of days goes on when nobody reads standard output any more. Other
            scripts end then, quietly.
    """
    if not FULL_TRACEBACK:
        os.environ[_SET_BY_US] = "1"
        # Of lost processes torch would print frames of its C++; it reads this when it is imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    guard.install()
    outlive_readers(goes_on=outlives_output)
    argparse.ArgumentParser.error = _refuse  # type: ignore[assignment,method-assign]
    try:
        yield
        sys.stdout.flush()
    except Exception as error:
        line = explain(error)
        if line is None or FULL_TRACEBACK:
            raise
        if HydraConfig.initialized() and not OmegaConf.is_missing(
            HydraConfig.get().runtime, "output_dir"
        ):
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
        rank = process_rank()
        if rank:
            # What all processes found the first one says; whoever launched them then ends this one.
            time.sleep(_FIRST_SPEAKS)
            line = f"process {rank}: {line}"
        print(f"error: {line}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        if FULL_TRACEBACK:
            raise
        print("stopped", file=sys.stderr)
        sys.exit(STOPPED)
    finally:
        with suppress(OSError):  # of a full disk the line above has told
            sys.stdout.flush()  # Python's own, at its exit, would speak of a reader that is gone


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """argparse's own would print its usage, too, in several lines."""
    raise InputError(f"{message}; --help lists the options")


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that never began, and its emptied parents."""
    here = Path.cwd()
    parents = [parent for parent in folder.parents if here in parent.parents]
    with suppress(OSError):
        for candidate in (folder, *parents):
            if [path.name for path in candidate.iterdir()] == [SWEEP]:
                (candidate / SWEEP).unlink()
            if candidate != here:
                candidate.rmdir()
