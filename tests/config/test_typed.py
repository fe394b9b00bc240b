"""Settings as one would type them, and under their dotted names."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from vgglab.config.typed import flatten, typed

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["C"])),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@trials(deadline=None, max_examples=60)
@given(plain)
def test_hydra_reads_what_is_written_as_the_same_value(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"name={typed(value)}")
    assert override.value() == value or str(override.value()) == str(value)
    read = override.value()
    assert type(read) is type(value) or isinstance(value, str)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "0.001"),
        (True, "true"),
        (None, "null"),
        ([0.9, 0.999], "[0.9,0.999]"),
        ("cosine", "cosine"),
        ("logs/a.ckpt", "logs/a.ckpt"),
        ("1e-3", "'1e-3'"),
        ("True", "'True'"),
        ("a b, c=d", "'a b, c=d'"),
        ("", "''"),
        ({"conv1_2": 1.0}, "{conv1_2:1.0}"),
        ("${optimizer.lr}", "${optimizer.lr}"),
    ],
)
def test_values_as_one_would_type_them(value: Any, text: str) -> None:
    assert typed(value) == text


def test_flatten_keeps_plain_values_and_writes_the_others_as_json() -> None:
    nested = {"a": {"b": {"c": 1}, "d": True}, "e": None, "f": [1, "x"], "g": 0.5, "h": "s"}
    assert flatten(nested) == {
        "a.b.c": 1,
        "a.d": True,
        "e": "null",
        "f": '[1, "x"]',
        "g": 0.5,
        "h": "s",
    }
