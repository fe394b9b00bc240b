"""The matrix and the classes, few or many."""

from tests.reporting.pages import Page
from vgglab.reporting.confusion import confusion_section
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
