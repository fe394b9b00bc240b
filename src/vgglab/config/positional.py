"""Paths alone on the command line, as the setting that takes them."""

import re
from collections.abc import Sequence
from pathlib import Path

from vgglab.config.typed import typed
from vgglab.errors import InputError

_SETTING = re.compile(r"[~+]*(hydra/)?[\w.@]+=.*", re.DOTALL)
# Of Hydra's options those whose value is a word of its own.
_WITH_VALUE = re.compile(r"--(cfg|package|config-path|config-name|config-dir)|-(c|p|cp|cn|cd)")


def paths_as_setting(arguments: Sequence[str], name: str) -> list[str]:
    """`scripts/compare.py logs/a logs/b` means `runs=[logs/a,logs/b]`.

    A word is a path unless it is an option, or looks like a setting (a name without `/`, then `=`)
    and there is no such folder.

    Args:
        arguments: of the command line.
        name: of the setting.

    Raises:
        InputError: the setting was given as well.
    """
    paths: list[str] = []
    others: list[str] = []
    for i, word in enumerate(arguments):
        follows_option = i > 0 and _WITH_VALUE.fullmatch(arguments[i - 1])
        is_setting = _SETTING.fullmatch(word) and not Path(word).is_dir()
        if word.startswith("-") or follows_option or is_setting:
            others.append(word)
        else:
            paths.append(word)
    if not paths:
        return others
    if any(word.startswith(f"{name}=") for word in others):
        raise InputError(f"give paths alone or {name}=[...], not both: {paths[0]}")
    return [f"{name}={typed(paths)}", *others]
