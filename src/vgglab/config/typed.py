"""Settings as one would type them, and under their dotted names."""

import json
import re
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")

# Hydra takes these without quotes.
_BARE = re.compile(r"[A-Za-z_./*+-][\w./*+:-]*|\d[\w./:-]*[A-Za-z_/:][\w./:-]*", re.ASCII)
_WORDS = ("null", "true", "false", "nan", "inf")  # that Hydra takes for values


def typed(value: Any) -> str:
    """A value as Hydra's command line takes it, before the shell's own quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ",".join(f"{typed(k)}:{typed(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(typed, value)) + "]"
    if not isinstance(value, str):
        return str(value)
    if REFERENCE.fullmatch(value) or (_BARE.fullmatch(value) and not _is_another_value(value)):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, bool | str | float | int]:
    """Dotted names to single values: None is "null", a list is its JSON."""
    flat: dict[str, bool | str | float | int] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, bool | str | float | int):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, default=str)
    return flat


def _is_another_value(text: str) -> bool:
    if text.lower() in _WORDS:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
