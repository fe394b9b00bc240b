"""Secrets are not stored: run folders, checkpoints and TensorBoard pages are shared."""

import re
from typing import Any

HIDDEN = "***"

_WORDS = "token|secret|password|passwd|api_?key|credential|env_set"
_NAME = re.compile(_WORDS, re.IGNORECASE)
# What Hydra's overrides look like as text: `name=value` up to the next one (Hydra joins them with
# commas, in hydra.job.override_dirname), and `name: value` inside one.
_ASSIGNED = re.compile(
    rf"""([^\s,=]*(?:{_WORDS})[^\s,=]*=)('[^']*'|"[^"]*"|.*?)(?=,[\w.+~@/-]+=|$)""",
    re.IGNORECASE | re.DOTALL,
)
_KEYED = re.compile(
    rf"""([\w.-]*(?:{_WORDS})[\w.-]*['"]?\s*:(?!//)\s*)('[^']*'|"[^"]*"|[^,}}]*)""", re.IGNORECASE
)
_LOGIN = re.compile(r"(\w://)[^/\s@]+@")  # user:password, or a token alone


def without_secrets(value: Any) -> Any:
    """The same plain containers with `***` in the place of what looks like a secret.

    That is the value of a name such as `hub_token`, `db.password` or `api_key`, in a dictionary or
    in an override as text, the login in `scheme://user:password@host`, and what Hydra is told to
    put into the environment.
    """
    if isinstance(value, dict):
        return {
            name: _hidden(inner) if _NAME.search(str(name)) else without_secrets(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    if isinstance(value, str):
        for pattern in (_ASSIGNED, _KEYED):
            value = pattern.sub(rf"\1{HIDDEN}", value)
        return _LOGIN.sub(rf"\1{HIDDEN}@", value)
    return value


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _hidden(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_hidden(inner) for inner in value]
    return value if value is None or isinstance(value, bool) else HIDDEN
