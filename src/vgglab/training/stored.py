"""The configuration in a run's folder, as a job that repeats the run elsewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vgglab.config.file_rules import refuse_aliases
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError


def stored_job(folder: Path, run_dir: Path, allowed_targets: list[str]) -> TrainConfig:
    """The job of a run's folder, as one that starts afresh in `run_dir` and writes only there.

    Args:
        folder: the run's, perhaps a stranger's.
        run_dir: where the run is repeated.
        allowed_targets: what may be called beside `vgglab.config.components.ALLOWED_PACKAGES`; what
            the folder says of it is ignored.

    Raises:
        InputError: there is no configuration, or it is not one that may run.
    """
    path = folder / ".hydra" / "config.yaml"
    if not folder.is_dir():
        raise InputError(f"run={folder}: no such folder")
    if not path.is_file():
        raise InputError(f"run={folder} is not the folder of a run: it has no .hydra/config.yaml")
    if run_dir.resolve() == folder.resolve():
        raise InputError(f"hydra.run.dir={run_dir} is the run itself; give another folder")
    config = _load(path)
    try:
        config.run_dir = str(run_dir)
        config.allowed_targets = allowed_targets
        if _is_own(config.get("resume"), folder):
            config.resume = None
        job = parse(config, TrainConfig)
    except (InputError, OmegaConfBaseException, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    for section, components in (("callbacks", job.callbacks), ("logger", job.logger)):
        for name, component in components.items():
            for setting, value in _texts(f"{section}.{name}", component.arguments):
                _refuse_outside(setting, value, run_dir)
    return job


def _load(path: Path) -> DictConfig:
    """The configuration as it was written; `${hydra:...}` is what it was in the run."""
    beside = path.with_name("hydra.yaml")
    hydra = _parsed(beside, _text(beside)) if beside.is_file() else OmegaConf.create()

    def its_own(match: re.Match[str]) -> str:
        found = OmegaConf.select(hydra, f"hydra.{match[1]}")
        return match[0].replace(":", ".") if found is None else str(found)

    # The resolver would answer for this script's own Hydra.
    return _parsed(path, re.sub(r"\$\{hydra:([\w.]+)\}", its_own, _text(path)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _parsed(path: Path, text: str) -> DictConfig:
    try:
        refuse_aliases(path, text)
        config = OmegaConf.create(text)
    except (ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(config, DictConfig):
        raise InputError(f"{path} holds no settings")
    return config


def _is_own(resume: object, folder: Path) -> bool:
    """Whether a run continued from its own checkpoints: undisturbed, it would have the same end."""
    if not isinstance(resume, str) or resume == "auto":
        return True
    return Path(resume).resolve().is_relative_to(folder.resolve())


def _texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """All texts in nested containers, by their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(name, inner)
    elif isinstance(value, str):
        yield name, value


def _refuse_outside(name: str, value: str, run_dir: Path) -> None:
    """Refuse what would be written over the run's own files, or anywhere else."""
    # The names of folders are relative to the working folder, those of files to the folder's.
    start = Path() if "dir" in name.rpartition(".")[2] else run_dir
    if not (start / value).resolve().is_relative_to(run_dir.resolve()):
        raise InputError(f"{name}={value} leads out of the replay's own folder, {run_dir}")
