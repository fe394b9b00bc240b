"""The matrix and the classes, few or many, on a page and as a figure."""

import pytest
import torch

from tests.reporting.pages import Page
from vgglab.reporting.confusion import confusion_figure, confusion_section
from vgglab.reporting.record import Confusion


def test_many_classes_show_the_hardest() -> None:
    count = 600
    matrix = [[10 * int(i == j) for j in range(count)] for i in range(count)]
    matrix[123][123], matrix[123][45] = 3, 7
    names = [f"class {index}" for index in range(count)]
    page = Page(confusion_section(Confusion(classes=names, matrix=matrix)))
    assert "The 20 hardest of 600 classes" in page.text
    assert "class 123 30.0 % 10 class 45 (7)" in page.text
    assert page.tags.count("tr") == 1 + 20
    assert page.tags.count("img") == 1


def test_a_class_without_images_has_no_accuracy() -> None:
    page = Page(confusion_section(Confusion(classes=["a", "b"], matrix=[[4, 0], [0, 0]])))
    assert "a 100.0 % 4" in page.text
    assert page.tags.count("tr") == (1 + 2) + (1 + 1)


def test_confusion_colours_are_shares_of_the_row_and_texts_are_counts() -> None:
    figure = confusion_figure(torch.tensor([[30, 10], [0, 5]]), ["$cat", "dog"])
    (axes,) = figure.axes
    (image,) = axes.images
    assert image.get_array().tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert image.norm(0.25) == 0.5  # rare mistakes show
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {
        ((0, 0), "30"),
        ((1, 0), "10"),
        ((1, 1), "5"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


@pytest.mark.parametrize(
    ("count", "texts", "labels"), [(20, 20, True), (21, 0, True), (100, 0, True), (101, 0, False)]
)
def test_large_confusion_matrices_leave_out_what_cannot_be_read(
    count: int, texts: int, labels: bool
) -> None:
    names = [f"class {index}" for index in range(count)]
    axes = confusion_figure(torch.eye(count), names).axes[0]
    assert len(axes.texts) == texts
    assert ([label.get_text() for label in axes.get_xticklabels()] == names) == labels


def test_the_most_frequent_mistakes_of_many_classes_are_named() -> None:
    names = [f"class {index}" for index in range(29)] + ["$a name of many letters"]
    matrix = 50 * torch.eye(30)
    matrix[3, 4], matrix[7, 29], matrix[5, 6] = 2, 9, 2
    _, right = confusion_figure(matrix, names).subfigs
    (text,) = right.texts
    assert text.get_text().splitlines()[2:] == [
        "9  class 7 → $a name of many let…",
        "2  class 3 → class 4",
        "2  class 5 → class 6",
    ]


def test_neighbours_of_a_thousand_classes_are_drawn_together() -> None:
    matrix = torch.zeros(999, 999)
    matrix[0, 1] = matrix[3, 2] = 4  # of one block of four
    matrix[998, 0] = 3
    matrix[997, 998] = 1
    figure = confusion_figure(matrix, [str(index) for index in range(999)])
    (image,) = figure.axes[0].images
    share = image.get_array()
    assert share.shape == (250, 250)
    assert (share[0, 0], share[249, 0], share[249, 249], share.sum()) == (1, 0.75, 0.25, 2)
    assert image.get_extent() == [-0.5, 998.5, 998.5, -0.5]  # the axes count classes
    figure.canvas.draw()
