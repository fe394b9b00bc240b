"""`environment.json`: what somebody else needs to know to repeat a run, and nothing private.

No host name, no user name, no environment variable: it is what people paste into reports.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vgglab.config.secrets import without_secrets
from vgglab.errors import InputError
from vgglab.files import replace_file

_PACKAGES = (
    "vgglab",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "torchmetrics",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Versions, git state, hardware (memory in bytes), command and start time, as plain values.

    What cannot be found out is None: the git state of an installed package, for example.
    """
    return {
        "command": _command(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
        "git": _git(Path(__file__).parent),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),  # they decide on the order of sums
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpus": _gpus(),
        },
        "os": platform.platform(),
    }


def write_json(path: Path | str, data: Any) -> None:
    """Write `data` as indented JSON with sorted keys; the file appears whole or not at all.

    Raises:
        OSError: the folder is missing or cannot be written.
        TypeError: `data` holds something that JSON has not.
    """
    replace_file(Path(path), (json.dumps(data, indent=2, sort_keys=True) + "\n").encode())


def _command() -> str:
    script, *arguments = sys.argv
    if Path(script).is_absolute() and Path(script).is_relative_to(Path.cwd()):
        script = str(Path(script).relative_to(Path.cwd()))
    return shlex.join(["python", script, *without_secrets(arguments)])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit, whether anything differs from it, and the SHA-256 of `git diff HEAD`."""
    # Without locks: another process may be committing.
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    output = []
    for arguments in (
        ["rev-parse", "HEAD"],
        ["status", "--porcelain"],
        ["diff", "HEAD", "--no-color", "--no-ext-diff"],
    ):
        try:
            output.append(
                subprocess.run([*git, *arguments], capture_output=True, check=True).stdout
            )
        except (OSError, subprocess.CalledProcessError):
            return None
    commit, status, diff = output
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(status.strip()),
        "diff_sha256": hashlib.sha256(diff).hexdigest(),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory": gpu.total_memory} for gpu in found]


def open_run_folder(run_dir: Path, composition: dict[str, str]) -> None:
    """Write what was asked for (`.hydra/`) and where it runs (`environment.json`).

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder = run_dir / ".hydra"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in composition.items():
            replace_file(folder / name, text.encode())
        write_json(run_dir / "environment.json", environment())
    except OSError as error:
        raise InputError(f"cannot write into the run folder {run_dir}: {error}") from error
