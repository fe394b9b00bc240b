"""Strangers' configuration files: looked at while Hydra composes, before anything is used.

What a file may say is in `vgglab.config.file_rules`. The command line is the user's own and may
say everything. Both hooks below are private names of Hydra's, which has no public ones;
tests/config/test_guard.py runs the attacks with and without them, and fails if Hydra passes by.
"""

import importlib
import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from vgglab.config import started
from vgglab.config.file_rules import for_the_command_line, refuse_aliases
from vgglab.errors import InputError

# On import: a job that submitit has sent elsewhere unpickles the loader below, and no more.
started.register()

# Sources that are installed code. All others hold files from somewhere.
_TRUSTED = ("pkg://hydra.conf", "pkg://hydra_plugins.", "structured://")
# The user's own defaults for this machine, ignored by git, in the folder of the scripts' own files.
_CONF = Path(__file__).parents[3] / "conf"
_LOCAL = "local/default"
# Folders, and what a scheduler tells a job.
_ENVIRONMENT = re.compile(
    r"HOME|HOSTNAME|PWD|USER|TE?MP|TMPDIR|CUDA_VISIBLE_DEVICES|WORLD_SIZE|(LOCAL_)?RANK|JOBFS"
    r"|\w*(DIR|ROOT|PATH|HOME|DATA|DATASETS|SCRATCH|WORK)|SLURM_(?!JWT)\w+|PBS_\w+"
)


def install() -> None:
    """Make Hydra look at the files it composes, bound what `${oc.env:NAME}` reads, and refuse
    `--experimental-rerun`."""
    # The one place where Hydra makes its loader: for a run, for every job of a --multirun and for
    # hydra.compose.
    hydra._internal.hydra.ConfigLoaderImpl = GuardedLoader  # type: ignore[attr-defined]
    main: Any = importlib.import_module("hydra.main")  # `hydra.main` is also its function
    main._get_rerun_conf = _refuse_pickle
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)


class GuardedRepository(ConfigRepository):
    """Hydra's files; one with YAML aliases is an InputError."""

    def load_config(self, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is not None and source.scheme() == "file":
            path = Path(source.path, source._normalize_file_name(config_path))
            with suppress(OSError, UnicodeDecodeError, YAMLError):  # Hydra will say so
                refuse_aliases(path, path.read_text(encoding="utf-8"))
        return super().load_config(config_path)


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader; a file that says what only the command line may say is an InputError."""

    _allowed_targets: tuple[str, ...] = ()

    def __init__(self, config_search_path: Any) -> None:
        super().__init__(config_search_path)
        self.repository = GuardedRepository(config_search_path)

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(overrides)
        given = [o.value() for o in parsed if o.key_or_group == "allowed_targets"]
        self._allowed_targets = tuple(
            n for names in given if isinstance(names, list) for n in names
        )
        return super().load_configuration(config_name, overrides, *args, **kwargs)

    def _process_config_searchpath(self, config_name: Any, overrides: Any, repo: Any) -> None:
        # Hydra imports the packages of the search path before it composes.
        primary = None if config_name is None else repo.load_config(config_path=config_name)
        if primary is not None:
            self._check(config_name, primary.config)
        super()._process_config_searchpath(config_name, overrides, repo)

    def _load_single_config(self, default: Any, repo: Any) -> Any:
        name = PurePosixPath(default.config_path)
        if name.is_absolute() or ".." in name.parts:  # it would leave its source, and our trust
            raise InputError(f"{name}: a configuration file is named by its place within conf")
        loaded = super()._load_single_config(default, repo)
        if not (loaded.path.startswith(_TRUSTED) or _is_own(str(name), loaded.path)):
            self._check(str(name), loaded.config)
        return loaded

    def _check(self, name: str, config: Any) -> None:
        if not isinstance(config, DictConfig):
            return
        content = OmegaConf.to_container(config, resolve=False)
        assert isinstance(content, dict)
        for setting in for_the_command_line(content, self._allowed_targets):
            raise InputError(
                f"{name}.yaml: {setting} is not for files; only give this on the command line"
            )


def _is_own(name: str, source: str) -> bool:
    folder = Path(source.removeprefix("file://"))
    return name.removesuffix(".yaml") == _LOCAL and folder.resolve() == _CONF.resolve()


def _environment(name: str, *default: Any) -> Any:
    """`${oc.env:NAME}` and `${oc.env:NAME,default}`, of NAMEs that hold no secrets.

    A file could send any other to a server, as part of a mirror's address. Bounded here rather
    than in the text, where a resolver's name can itself be an interpolation.
    """
    if not _ENVIRONMENT.fullmatch(name):
        raise InputError(
            f"${{oc.env:{name}}}: the configuration reads folders of the environment, such as HOME "
            "and DATA_ROOT, and what a scheduler says; give the value on the command line"
        )
    if name in os.environ:
        return os.environ[name]
    if not default:
        raise InputError(f"${{oc.env:{name}}}: there is no such environment variable")
    return None if default[0] is None else str(default[0])


def _refuse_pickle(file: str, overrides: list[str]) -> DictConfig:
    raise InputError(
        f"--experimental-rerun={file}: a pickle can run code when it is read; "
        "scripts/replay.py repeats a run"
    )
