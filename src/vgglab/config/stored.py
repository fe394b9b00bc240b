"""The configuration in a run's folder, which may be a stranger's."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vgglab.config.file_rules import refuse_aliases
from vgglab.errors import InputError

FOLDER = ".hydra"  # in the folder of a run
CONFIG = Path(FOLDER, "config.yaml")


@dataclass(frozen=True)
class Stored:
    """What a run was composed of."""

    config: DictConfig
    """As it was written; `${hydra:...}` is what it was in the run."""
    choices: dict[str, str]
    """The chosen file of each group; empty where Hydra's own settings are not there."""
    overrides: list[str]
    """Of the command line, such as `optimizer.lr=0.1`."""


def read_stored(folder: Path) -> Stored:
    """Read `.hydra/` of a run's folder.

    Raises:
        InputError: there is no configuration, or a file is damaged.
    """
    hydra = _settings(folder / FOLDER / "hydra.yaml")

    def its_own(match: re.Match[str]) -> str:
        found = OmegaConf.select(hydra, f"hydra.{match[1]}")
        return match[0].replace(":", ".") if found is None else str(found)

    # The resolver would answer for this script's own Hydra.
    path = folder / CONFIG
    text = re.sub(r"\$\{hydra:([\w.]+)\}", its_own, _text(path))
    config = _checked(path, _create(path, text))
    listed = _parsed(folder / FOLDER / "overrides.yaml")
    overrides = [str(item) for item in listed] if isinstance(listed, ListConfig) else []
    # Hydra does not keep a choice of several, as in callbacks=[default,ema].
    several = (override.partition("=") for override in overrides)
    lists = {name: value for name, _, value in several if name in config and value[:1] == "["}
    return Stored(config, {**lists, **_choices(hydra)}, overrides)


def _choices(hydra: DictConfig) -> dict[str, str]:
    found = OmegaConf.select(hydra, "hydra.runtime.choices")
    if not isinstance(found, DictConfig):
        return {}
    chosen = ((str(group), choice) for group, choice in found.items())
    return {
        group: "null" if choice is None else str(choice)
        for group, choice in chosen
        if not group.startswith("hydra/")
    }


def _settings(path: Path) -> DictConfig:
    return _checked(path, _parsed(path))


def _checked(path: Path, content: DictConfig | ListConfig) -> DictConfig:
    if not isinstance(content, DictConfig):
        raise InputError(f"{path} holds no settings")
    return content


def _parsed(path: Path) -> DictConfig | ListConfig:
    """Empty where there is no such file."""
    return _create(path, _text(path)) if path.is_file() else OmegaConf.create()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _create(path: Path, text: str) -> DictConfig | ListConfig:
    try:
        refuse_aliases(path, text)
        content: DictConfig | ListConfig = OmegaConf.create(text)
    except (ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    return content
