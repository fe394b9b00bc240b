"""How a page's run ended, how to go on with it and run it again, and what it ran on."""

import re
import shlex
from pathlib import Path

from vgglab.config.stored import Stored
from vgglab.config.typed import typed
from vgglab.files import shown
from vgglab.reporting.page import banner, code, facts, note
from vgglab.reporting.record import Environment, RunRecord
from vgglab.reporting.status import state_of
from vgglab.text import duration

# Overrides that a resumed run gets anew.
_OF_THE_FOLDER = re.compile(r"\+*(resume|hydra\.run\.dir|hydra\.sweep\.\w+)=")


def outcome_banner(run: RunRecord, run_dir: Path, is_running: bool) -> str:
    """The banner at the top.

    Args:
        run: what its folder holds.
        run_dir: the folder.
        is_running: a process trains in it now.
    """
    state = state_of(run.status, run.metrics is not None, is_running)
    where = _position(run)
    if state == "running":
        return banner("paused", "Still running", note(f"This page was written {where}."))
    if state == "finished":
        took = f" in {duration(run.status.seconds)}" if run.status is not None else ""
        return banner("good", f"Finished{took}", "")
    if state == "unfinished":
        return banner("bad", "Did not finish", note(f"This page shows how far it got: {where}."))
    again = _resume(run, run_dir)
    if state == "stopped":
        return banner("paused", "Stopped", note(f"It was told to stop {where}.") + again)
    if state == "failed":
        error = code(run.status.error or "") if run.status is not None else ""
        return banner("bad", f"Failed {where}", error + again)
    killed = f"It was killed, or its machine was lost, {where}."
    return banner("bad", "Did not end", note(killed) + again)


def reproduction(run: RunRecord, run_dir: Path) -> str:
    """What to type."""
    environment = run.environment
    if environment is None:
        return ""
    command = f"uv run {environment.command}"
    git = environment.git
    if git is None:
        text = code(command) + note("The code was not in a git repository.", warn=True)
    else:
        text = code(f"git checkout {git.commit}\n{command}")
        if git.dirty:
            changes = (
                "The working tree differed from this commit; the SHA-256 of its git diff HEAD was "
                f"{git.diff_sha256}."
            )
            text += note(changes, warn=True)
    if run.stored is not None:
        if {"--multirun", "-m"} & set(_words(environment.command)):
            alone = _command(run.stored, environment)
            text += note("That was a sweep; this one of its runs:") + code(alone)
        if "trainer" not in run.stored.config:  # an evaluation
            return text
        text += note("Trained once more from its folder, and compared bit for bit:")
        text += code(f"uv run scripts/replay.py {shlex.quote(shown(run_dir))}")
    return text


def what_was_run(run: RunRecord) -> str:
    """Choices, overrides, hardware and versions."""
    pairs: dict[str, str] = {}
    if run.stored is not None:
        # Hydra lists the last of the defaults first.
        chosen = reversed([f"{k}={v}" for k, v in run.stored.choices.items() if v != "null"])
        pairs["groups"] = " ".join(chosen) or "not recorded"
        pairs["overrides"] = " ".join(run.stored.overrides) or "none"
    if run.environment is not None:
        hardware = run.environment.hardware
        gpus = [f"{gpu.name} ({_gibibytes(gpu.memory)})" for gpu in hardware.gpus]
        versions = run.environment.versions.items()
        pairs |= {
            "processor": f"{hardware.cpu}, {hardware.cores} cores, {_gibibytes(hardware.memory)}",
            "GPUs": ", ".join(gpus) or "none",
            "system": run.environment.os,
            "versions": ", ".join(f"{name} {version}" for name, version in versions if version),
        }
    return facts(pairs) if pairs else ""


def _position(run: RunRecord) -> str:
    steps = [row for row in run.history if "step" in row]
    if not steps:
        return "before the first step was recorded"
    last = steps[-1]
    epoch = f" (epoch {last['epoch']:.0f})" if "epoch" in last else ""
    return f"after step {last['step']:,.0f}{epoch}"


def _resume(run: RunRecord, run_dir: Path) -> str:
    environment = run.environment
    if environment is None or run.stored is None or not run.has_checkpoint:
        return ""
    if not any(word.endswith("train.py") for word in _words(environment.command)):
        return ""  # of replay.py, which begins anew
    folder = f"hydra.run.dir={typed(shown(run_dir))}"
    command = _command(run.stored, environment, folder, "resume=auto")
    return note("It goes on from its last checkpoint with") + code(command)


def _command(stored: Stored, environment: Environment, *more: str) -> str:
    """The command of this run alone, also where it was one of a sweep."""
    scripts = [word for word in _words(environment.command) if word.endswith(".py")]
    kept = [word for word in stored.overrides if not _OF_THE_FOLDER.match(word)]
    return shlex.join(["uv", "run", *scripts[:1], *kept, *more])


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a stranger's
        return command.split()


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.0f} GiB"
