"""Strangers' configuration files: looked at while Hydra composes, before anything is used.

What a file may say is in `vgglab.config.file_rules`. The command line is the user's own and may
say everything. Both hooks below are private names of Hydra's, which has no public ones;
tests/config/test_guard.py runs the attacks with and without them, and fails if Hydra passes by.
"""

import importlib
import os
import re
from pathlib import PurePosixPath
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from vgglab.config.file_rules import for_the_command_line
from vgglab.errors import InputError

# Sources that are installed code. All others hold files from somewhere.
_TRUSTED = ("pkg://hydra.conf", "pkg://hydra_plugins.", "structured://")
# Folders, and what tells the processes of a cluster apart.
_ENVIRONMENT = re.compile(
    r"HOME|USER|TMPDIR|SCRATCH|\w+_(DIR|ROOT|PATH|HOME|DATA|SCRATCH)|SLURM_\w*(ID|NAME)"
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


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader; a file that says what only the command line may say is an InputError."""

    _allowed_targets: tuple[str, ...] = ()

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
        if not loaded.path.startswith(_TRUSTED):
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


def _environment(name: str, *default: Any) -> Any:
    """`${oc.env:NAME}` and `${oc.env:NAME,default}`, of NAMEs that hold no secrets.

    A file could send any other to a server, as part of a mirror's address. Bounded here rather
    than in the text, where a resolver's name can itself be an interpolation.
    """
    if not _ENVIRONMENT.fullmatch(name):
        raise InputError(
            f"${{oc.env:{name}}}: the configuration reads folders of the environment, such as HOME "
            "and DATA_ROOT, and nothing else; give the value on the command line"
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
