"""Secrets are not stored: run folders, checkpoints and TensorBoard pages are shared."""

import re
from typing import Any

HIDDEN = "***"

_NAME = re.compile(
    r"secret|password|passwd|passphrase|api[_-]?key|(access|private)_?key|credential|env_set"
    r"|authorization|bearer|signature|\bsig\b|\bpwd\b"
    # As the last part alone: `monitor_key` and `sort.key.order` name other things.
    r"""|(?<![\w-])(key|auth|dsn|webhook)(?=['"]?\s*[=:]|\Z)""",
    re.IGNORECASE,
)
# Of a network's arguments, some count or embed tokens; a secret one is a text.
_TOKEN = re.compile(r"(?<!num_)token(?!izer|_dim|_size)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*([-+]?\d[\d_.]*(e[-+]?\d+)?|true|false|null)\s*", re.IGNORECASE)
# What Hydra's overrides look like as text: `name=value` up to the next one (Hydra joins them with
# commas, in hydra.job.override_dirname), and `name: value` inside one. A name is matched from its
# start only, and its value only where the name is a secret's: the time is linear in the text.
_ASSIGNED = (
    re.compile(r"(?<![^\s,=])[^\s,=]+="),
    re.compile(r"""('[^']*'|"[^"]*"|.*?)(?=,[\w.+~@/-]+=|$)""", re.DOTALL),
)
_KEYED = (
    re.compile(r"""(?<![\w.-])[\w.-]+['"]?\s*:(?!//)\s*"""),
    re.compile(r"""'[^']*'|"[^"]*"|[^,}]*"""),
)
# In a line for people the reason stands behind the value.
_IN_A_LINE = re.compile(r"""'[^']*'|"[^"]*"|[^\s,]*(?<![:;.)'"])""")
# user:password, or a token alone; in an override, Hydra escapes the colons.
_LOGIN = re.compile(r"(\w\\?://)[^/\s]+@")


def without_secrets(value: Any) -> Any:
    """The same plain containers with `***` in the place of what looks like a secret.

    That is the value of a name such as `hub_token`, `db.password` or `api_key`, in a dictionary or
    in an override as text, the login in `scheme://user:password@host`, and what Hydra is told to
    put into the environment. Switches stay, and numbers where the name only speaks of tokens.
    """
    if isinstance(value, dict):
        return {name: _named(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in value]
    if isinstance(value, str):
        for names, values in (_ASSIGNED, _KEYED):
            value = _masked(value, names, values)
        return _LOGIN.sub(rf"\1{HIDDEN}@", value)
    return value


def line_without_secrets(line: str) -> str:
    """The same for a line that tells a person of an error: its words stay, whatever they are of."""
    return _LOGIN.sub(rf"\1{HIDDEN}@", _masked(line, _ASSIGNED[0], _IN_A_LINE))


def _named(name: str, value: Any) -> Any:
    if _NAME.search(name):
        return _hidden(value, (bool,))
    return _hidden(value, (bool, int, float)) if _TOKEN.search(name) else without_secrets(value)


def _hidden(value: Any, but: tuple[type, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _hidden(inner, but) for name, inner in value.items()}
    if isinstance(value, list):
        return [_hidden(inner, but) for inner in value]
    return value if value is None or isinstance(value, but) else HIDDEN


def _masked(text: str, names: re.Pattern[str], values: re.Pattern[str]) -> str:
    """The text with stars in the place of the values that follow the names of secrets."""
    parts, end = [], 0
    for name in names.finditer(text):
        is_secret = _NAME.search(name[0])
        inside = name.start() < end  # a value that is hidden
        if inside or not (is_secret or _TOKEN.search(name[0])):
            continue
        value = values.match(text, name.end())
        if value and (is_secret or not _NUMBER.fullmatch(value[0])):
            parts += [text[end : name.end()], HIDDEN]
            end = value.end()
    return "".join([*parts, text[end:]])
