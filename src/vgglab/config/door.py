"""The door of every script: bad input leaves as one line on standard error and exit code 2."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from vgglab.config import guard
from vgglab.config.errors import explain

# Hydra users know this variable: with it they see the whole traceback. Read here, because
# `readable_errors` must set it: Hydra otherwise prints errors its own way and exits with 1.
FULL_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors a person can mend into one line and exit code 2; bugs keep their traceback.

    A script uses it twice: around `main()`, for what Hydra refuses, and inside `main`, for what
    comes later; there it also removes the run folder if nothing has been written into it.
    It also puts the guard against strangers' configuration files in place.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    guard.install()
    try:
        yield
    except Exception as error:
        line = explain(error)
        if line is None or FULL_TRACEBACK:
            raise
        if HydraConfig.initialized() and "output_dir" in HydraConfig.get().runtime:
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


def _remove_if_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a run that never began, and its emptied parents."""
    here = Path.cwd()
    parents = [parent for parent in folder.parents if here in parent.parents]
    with suppress(OSError):
        for candidate in (folder, *parents):
            if candidate != here:
                candidate.rmdir()
