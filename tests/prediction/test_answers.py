"""Names and accuracy."""

from pathlib import Path

import pytest

from vgglab.prediction.answers import Prediction, accuracy_line, true_class


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("data/test/cat/1.png", "cat"),
        ("cat/1.png", "cat"),
        ("cat/deep/1.png", None),
        ("1.png", None),
        ("Cat/1.png", None),
        ("val/n01440764/1.JPEG", "tench"),
        ("val/n02979186/1.JPEG", None),  # a cassette player, which this network does not know
    ],
)
def test_the_folder_tells_the_true_class(file: str, expected: str | None) -> None:
    assert true_class(Path(file), ["cat", "tench"]) == expected


def test_accuracy_counts_what_is_known_and_was_read() -> None:
    def prediction(true: str | None, *names: str) -> Prediction:
        return Prediction(Path("a.png"), [(name, 0.3) for name in names], true)

    found = [
        prediction("a", "a", "b"),
        prediction("a", "b", "a"),
        prediction("a", "b", "c"),
        prediction("a"),
        prediction(None, "a", "b"),
    ]
    assert accuracy_line(found) == (
        "top-1 33.33 %, top-2 66.67 % of 3 images in folders named after classes"
    )
    assert accuracy_line(found[3:]) is None
    single = accuracy_line([prediction("a", "a")])
    assert single == "top-1 100.00 % of 1 image in folders named after classes"
