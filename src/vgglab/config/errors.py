"""From exceptions of Hydra, OmegaConf and pydantic to one line that a person can act on."""

import difflib
import re
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from vgglab.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`did you mean X? ` where a choice is close to `word`, and then the choices."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choices: {', '.join(known)}"


def explain(error: BaseException) -> str | None:
    """The one line for an error that the person can mend; None for one that is a bug."""
    if isinstance(error, InputError):
        return _one_line(str(error))
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {_one_line(error.message)}"
    if isinstance(error, ConfigCompositionException):
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException) and cause.key is not None:
            return _unknown_setting(cause) or _one_line(str(error))
        return _one_line(str(error))
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is required: give {error.full_key}=... on the command line"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _one_line(str(error))
    if isinstance(error, ValueError) and _raised_in_hydra(error):
        return _one_line(str(error))  # such as model=null
    if isinstance(error, OSError) and _raised_while_hydra_prepares(error):
        return _one_line(str(error))  # such as a hydra.run.dir that cannot be made
    return None


def _modules(error: BaseException) -> list[str]:
    """The modules that the error came through, the one that raised it last."""
    frames = traceback.walk_tb(error.__traceback__)
    return [str(frame.f_globals.get("__name__")) for frame, _ in frames]


def _raised_in_hydra(error: BaseException) -> bool:
    return bool(modules := _modules(error)) and modules[-1].startswith("hydra.")


def _raised_while_hydra_prepares(error: BaseException) -> bool:
    modules = [name for name in _modules(error) if name != "vgglab.config.door"]
    through_hydra = any(name.startswith("hydra.") for name in modules)
    return through_hydra and not any(name.startswith("vgglab.") for name in modules)


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
            section = section.model_fields[part].annotation
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
    if not error.options:
        return _one_line(str(error))
    return f"{group}={choice}: no such file in conf/{group}; {did_you_mean(choice, error.options)}"


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


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
