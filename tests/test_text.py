from functools import partial

import pytest

from vgglab.text import duration, one_line, percent, plural, printable, shortened


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "0.2 s"),
        (7, "7 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3600 + 60, "1 h 1 min"),
        (2 * 86400 + 4 * 3600 + 3599, "2 d 4 h"),
    ],
)
def test_durations_have_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_share_is_shown_as_precisely_as_is_asked() -> None:
    assert percent(0.931) == "93.10 %"
    assert list(map(partial(percent, form=".3g"), (0.01234, 1))) == ["1.23 %", "100 %"]


def test_counts() -> None:
    assert [plural(count, "run") for count in (0, 1, 1000)] == ["0 runs", "1 run", "1,000 runs"]


def test_what_is_too_long_ends_with_a_mark() -> None:
    assert shortened("goldfish", 8) == "goldfish"
    assert shortened("goldfish", 7) == "goldfi…"


def test_a_stranger_does_not_command_the_terminal() -> None:
    text = "a\x1b[31m\n\t b\udcff é"
    assert printable(text) == r"a\x1b[31m\n\t b\udcff é"
    assert one_line(text) == r"a\x1b[31m b\udcff é"
