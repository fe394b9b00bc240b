"""From exceptions of Hydra, OmegaConf and pydantic to one line that a person can act on."""

import difflib
import errno
import io
import os
import re
import traceback
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any, get_args

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

from vgglab.config.secrets import line_without_secrets
from vgglab.errors import InputError
from vgglab.text import one_line

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


# What a disk refuses to a program that has no fault.
_DISK = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "ENAMETOOLONG", "EFBIG")
    if hasattr(errno, name)
)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`did you mean X? ` where a choice is close to `word`, and then the choices."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choices: {', '.join(known)}"


def explain(error: BaseException) -> str | None:
    """The one line for an error that the person can mend, without secrets; None for a bug."""
    line = _explained(error)
    return None if line is None else line_without_secrets(line)


def _explained(error: BaseException) -> str | None:
    if isinstance(error, InputError):
        return one_line(str(error))
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, ConfigCompositionException):
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException) and cause.key is not None:
            return _unknown_setting(cause) or one_line(str(error))
        return one_line(str(error))
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is required: give {error.full_key}=... on the command line"
    if isinstance(error, OmegaConfBaseException):
        return _about_setting(error)
    if isinstance(error, HydraException):
        return one_line(str(error))
    if isinstance(error, OSError) and error.errno in _DISK:
        return one_line(f"{_file_of(error)}: {error.strerror}")
    if _is_lack_of_memory(error):
        asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
        what = f" for {asked[1]}" if asked else ""
        return f"not enough memory{what}: fewer or smaller images, or a smaller network, need less"
    if re.match(r"sbatch: |Could not detect .srun.", str(error)):  # from submitit
        return one_line(f"hydra/launcher=slurm: {error}")
    if _raised_while_hydra_prepares(error):
        return _refused_by_hydra(error)
    return None


def _unreadable(error: OverrideParseException) -> str:
    given = str(error.override)
    reason = one_line(str(error.message).partition("\nSee ")[0])
    name, _, value = given.partition("=")
    # Such as images=photos/[ab]*.png; what begins so is a list or a dictionary that is torn.
    quotable = value and not value.startswith(("[", "{")) and not set(value) & {"'", '"'}
    advice = f"; quote it: '{name}=\"{value}\"'" if quotable else ""
    return f"cannot read the override {given!r}: {reason}{advice}"


def _about_setting(error: OmegaConfBaseException) -> str:
    """Such as an interpolation to nowhere; OmegaConf names the setting in a line of its own."""
    message = one_line(str(error).partition("\n")[0])
    message = message.removeprefix("InputError raised while resolving interpolation: ")
    return f"{error.full_key}: {message}" if error.full_key else message


def _refused_by_hydra(error: BaseException) -> str | None:
    """What Hydra lets pass from below: files that it cannot read, folders it cannot make."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return one_line(f"{mark.name}, line {mark.line + 1}: not YAML: {error.problem}")
    if isinstance(error, UnicodeDecodeError | YAMLError):
        return one_line(f"{_file_of(error)}: not a text file of YAML")
    if isinstance(error, OSError):
        return one_line(str(error))  # such as a hydra.run.dir that cannot be made
    if isinstance(error, ValueError) and _modules(error)[-1].startswith("hydra."):
        override = _frames(error)[-1].f_locals.get("override")  # such as model=null
        given = getattr(override, "input_line", None)
        return one_line(f"{given}: {error}" if given else str(error))
    return None


def _frames(error: BaseException) -> list[FrameType]:
    """What the error came through; where it was raised comes last."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _modules(error: BaseException) -> list[str]:
    return [str(frame.f_globals.get("__name__")) for frame in _frames(error)]


def _raised_while_hydra_prepares(error: BaseException) -> bool:
    ours = ("vgglab.config.door", "vgglab.config.guard")  # both are around Hydra's own code
    modules = [name for name in _modules(error) if name not in ours]
    through_hydra = any(name.startswith("hydra.") for name in modules)
    return through_hydra and not any(name.startswith("vgglab.") for name in modules)


def _is_lack_of_memory(error: BaseException) -> bool:
    """torch's errors, by their words where they have no class: this module does without torch."""
    found = ("OutOfMemoryError", "DefaultCPUAllocator", "Storage size calculation overflowed")
    shown = f"{type(error).__name__} {error}"
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in shown for words in found)
    )


def _file_of(error: BaseException) -> str:
    """The file that was read or written. A write that fails does not say: it is open, or it has a
    name, where the error was raised."""
    if isinstance(error, OSError) and error.filename is not None:
        return os.fsdecode(error.filename)
    for frame in reversed(_frames(error)):
        values = list(frame.f_locals.items())
        files = [v.name for _, v in values if isinstance(v, io.IOBase) and hasattr(v, "name")]
        paths = [v for n, v in values if isinstance(v, os.PathLike) or n == "filename"]
        for name in (*files, *paths):
            if isinstance(name, str | bytes | os.PathLike):
                return os.fsdecode(name)
    return "a file"


_TYPE_NAME = re.compile(r"int|str|literal.*|constrained-.*|\w+\[.*\]")


def explain_validation(error: "ValidationError", schema: "type[BaseModel]") -> str:
    """The first thing that a pydantic model refused, with the full name of the setting."""
    first = error.errors()[0]
    # Of a setting that takes one of several types, pydantic also names the type that it tried.
    path = [str(part) for part in first["loc"] if not _TYPE_NAME.fullmatch(str(part))]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        section: Any = schema
        for part in path[:-1]:
            found = section.model_fields[part].annotation
            # Of `Section | None` the section.
            section = next((t for t in get_args(found) if hasattr(t, "model_fields")), found)
        where = ".".join(path[:-1]) or "the configuration"
        return f"{name}: no such setting in {where}; {did_you_mean(path[-1], section.model_fields)}"
    if first["type"] == "missing":
        return f"{name} is required"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # a rule of ours about several settings: it names them
        return f"{name}: {message}" if name else message
    return f"{name}={first['input']!r}: {message[0].lower()}{message[1:]}"


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if choice.startswith("submitit_"):
        return f"{group}={choice.removeprefix('submitit_')} needs submitit: uv sync --extra slurm"
    # Hydra leaves them out of one name in a list, as in callbacks=[default,emma].
    repository = _frames(error)[-1].f_locals.get("repo") if error.__traceback__ else None
    options = error.options or (repository and repository.get_group_options(group))
    if not options:
        return one_line(str(error))
    return f"{group}={choice}: no such file in conf/{group}; {did_you_mean(choice, options)}"


def _unknown_setting(cause: OmegaConfBaseException) -> str | None:
    """`trainer.max_epoch=3`: Hydra refuses a key that the composed configuration does not hold."""
    parent = cause.parent_node
    if parent is None or not hasattr(parent, "keys"):
        return None
    name = str(cause.full_key or cause.key)
    section, _, key = name.rpartition(".")
    known = [str(known) for known in parent.keys()]  # noqa: SIM118 - a DictConfig
    where = section or "the configuration"
    return f"{name}: no such setting in {where}; {did_you_mean(key, known)}"
