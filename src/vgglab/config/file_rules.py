"""What a configuration file may say: less than the command line.

Hydra itself calls what its `hydra` section names (its callbacks, launcher and sweeper, the
factories of its logging) before our `main` begins, and takes environment variables and folders
from it. What `_target_` may name in our own sections, `vgglab.config.components` says.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from vgglab.config import launching
from vgglab.errors import InputError

# What a folder's name may be made of: nothing that brings another path in. (`last_part` is
# scripts/replay.py's, the last part of a path.)
_IN_FOLDERS = re.compile(
    r"\$\{(run_dir|started:|now:[\w%:-]+|last_part:\$\{run\},\$\{batch\}"
    r"|hydra[.:](runtime\.(output_dir|choices\.\w+)|job\.(num|name|id)))\}"
)
# Where Lightning's and our own callbacks and loggers write.
_WRITES_TO = re.compile(r".*(dir|path|file|name|version)")
# Logging's other handlers write files or send to servers.
_LOGGING_CLASSES = ("logging.StreamHandler", "logging.NullHandler", "logging.Formatter")
_STREAMS = ("ext://sys.stderr", "ext://sys.stdout")
# These write to where the rules say; what else the command line allows by name is trusted.
_OURS = (
    "vgglab",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers.csv_logs",
    "lightning.pytorch.loggers.tensorboard",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.loggers.TensorBoardLogger",
)
# Of scripts/sbatch.py: what a shell runs, and sbatch reads.
_SHELL = ("setup", "command", "options")
_NEVER_SWEPT = ("hydra", "allowed_targets", "run_dir", "callbacks", "logger")
# The texts that are names; other texts of a launcher or sweeper are commands, programs, addresses.
_PLUGIN_NAMES = (
    "partition",
    "qos",
    "account",
    "constraint",
    "name",
    "prefer",
    "backend",
    "direction",
    "study_name",
)


def refuse_aliases(path: str | Path, text: str) -> None:
    """A few lines of YAML aliases may stand for more than memory holds.

    Raises:
        InputError: there is an alias.
        yaml.YAMLError: this is no YAML.
    """
    if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise InputError(f"{path} has YAML aliases; write out what they stand for")


def for_the_command_line(content: dict[Any, Any], allowed_targets: Sequence[str]) -> Iterator[str]:
    """The settings in a file that only the command line may give.

    Args:
        content: the file's, interpolations as written: they can become anything.
        allowed_targets: those of the command line.
    """
    if content.get("allowed_targets", []) != []:
        yield "allowed_targets"
    if not _is_folder_below(content.get("run_dir", ".")):
        yield "run_dir"
    for group in ("callbacks", "logger"):
        yield from (f"{group}{inner}" for inner in _writers(content.get(group), allowed_targets))
    slurm = content.get("slurm", {})
    if isinstance(slurm, str):
        yield "slurm"
    elif isinstance(slurm, dict):
        yield from (f"slurm.{name}" for name in _SHELL if slurm.get(name))
    section = content.get("hydra", {})
    if not isinstance(section, dict):
        yield "hydra"
        return
    for name, value in section.items():
        rule = _RULES.get(name, _nothing)
        yield from (f"hydra.{name}{inner}" for inner in rule(value, allowed_targets))


def _writers(section: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    """Callbacks and loggers, in the run's folder."""
    if isinstance(section, str):
        yield ""
    for name, component in section.items() if isinstance(section, dict) else ():
        if isinstance(component, str):
            yield f".{name}"
        if not isinstance(component, dict) or _is_trusted(component, allowed_targets):
            continue
        for key, value in component.items():
            writes_to = isinstance(value, str) and _WRITES_TO.fullmatch(str(key))
            if writes_to and not _is_folder_below(value):
                yield f".{name}.{key}"


def _is_trusted(component: dict[Any, Any], allowed_targets: Sequence[str]) -> bool:
    from vgglab.config.components import is_inside  # lazily: --help does not need pydantic

    target = str(component.get("_target_"))
    return is_inside(target, allowed_targets) and not is_inside(target, _OURS)


def _nothing(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    """Such as callbacks, searchpath and overrides."""
    yield ""


def _job(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    """Not env_set, env_copy and such. The name, and what `config` joins the overrides with, may
    be in the names of folders."""
    for name, inner in value.items() if isinstance(value, dict) else [("", value)]:
        plain = re.search(r"/|\.\.|\$\{", str(inner)) is None
        named = name in ("name", "config") and plain
        if not (named or (name == "chdir" and inner in (None, False))):
            yield f".{name}" if name else ""


def _verbose(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    if "${" in str(value):
        yield ""


def _mode(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    if value not in ("RUN", "MULTIRUN"):
        yield ""


def _output_subdir(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    if value is not None:  # Hydra would write there what vgglab writes without its secrets
        yield ""


def _folders(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    for name, text in value.items() if isinstance(value, dict) else [("", value)]:
        if not _is_folder_below(text):
            yield f".{name}"


def _is_folder_below(text: Any) -> bool:
    """Whether this is a local path that leads nowhere above the working directory."""
    text = _IN_FOLDERS.sub("x", str(text))
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts
    return not (leaves or any(part in text for part in ("${", "://", "::")))


def _logging(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    """Of what `logging.config.dictConfig` calls or imports, only streams and formatters."""
    if isinstance(value, dict):
        for name, inner in value.items():
            known = name == "class" and inner in (*_LOGGING_CLASSES, *allowed_targets)
            if name in ("class", "()", ".") and not known:
                yield f".{name}"
            for rest in _logging(inner, allowed_targets):
                yield f".{name}{rest}"
    elif isinstance(value, list):
        for inner in value:
            yield from _logging(inner, allowed_targets)
    elif value not in _STREAMS and re.search(r"\$\{|^[a-z]+://", str(value)):
        yield ""


def _plugin(value: Any, allowed_targets: Sequence[str]) -> Iterator[str]:
    """Of a launcher or sweeper, which Hydra lets only plugins be: what is swept, numbers, names."""
    for name, inner in value.items() if isinstance(value, dict) else [("", value)]:
        if name in launching.SAID and inner == launching.SAID[name]:
            continue
        if name == "params" and isinstance(inner, dict):
            swept = ((str(key), str(values)) for key, values in inner.items())
            yield from (f".params.{key}" for key, values in swept if not _may_be_swept(key, values))
        elif isinstance(inner, str):
            named = name in _PLUGIN_NAMES and re.fullmatch(r"[\w.,:|-]+", inner)
            target = name == "_target_" and re.fullmatch(
                r"hydra(_plugins|\._internal)\.[\w.]+", inner
            )
            if not (named or target):
                yield f".{name}"
        elif not isinstance(inner, bool | int | float | None):
            yield f".{name}"


def _may_be_swept(name: str, values: str) -> bool:
    """Hydra makes overrides of these names, as if the command line had given them."""
    if setting := re.fullmatch(r"(callbacks|logger)\.\w+\.(\w+)", name):
        return _WRITES_TO.fullmatch(setting[2]) is None
    if name in ("callbacks", "logger"):  # which of the files in that group
        return re.fullmatch(r"[\w\[\], -]+", values) is not None
    first = re.split(r"[./]", name.lstrip("+/"))[0]
    is_setting = re.fullmatch(r"\+{0,2}[\w./-]+", name) is not None
    return is_setting and first not in _NEVER_SWEPT


_RULES: dict[str, Callable[[Any, Sequence[str]], Iterator[str]]] = {
    "run": _folders,
    "sweep": _folders,
    "mode": _mode,
    "output_subdir": _output_subdir,
    "job_logging": _logging,
    "hydra_logging": _logging,
    "launcher": _plugin,
    "sweeper": _plugin,
    "job": _job,
    "verbose": _verbose,
}
