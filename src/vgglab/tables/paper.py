"""The paper's figures: Simonyan & Zisserman, arXiv 1409.1556v6, Tables 1 to 7.

Errors are in percent, on ImageNet's 50,000 validation images unless named otherwise.
"""

from typing import NamedTuple


class Errors(NamedTuple):
    """Percent; None where the paper has no figure."""

    top1: float | None
    top5: float | None
    top5_test: float | None = None
    """On the test images of ILSVRC, whose labels are not public."""


class Net(NamedTuple):
    """A network as the paper names one: its column of Table 1 and its training scale S."""

    column: str
    train_scale: tuple[int, int]
    """The smallest and the largest S, pixels."""


class Entry(NamedTuple):
    """A row of Table 7."""

    method: str
    nets: str
    errors: Errors


FIXED_256, FIXED_384, JITTERED = (256, 256), (384, 384), (256, 512)

# Stage by stage, kernel side and channels; then the dense layers, the same in every column.
_A = ("conv3-64", "conv3-128", "conv3-256 conv3-256", *["conv3-512 conv3-512"] * 2)
_B = ("conv3-64 conv3-64", "conv3-128 conv3-128", *_A[2:])
TABLE_1: dict[str, tuple[str, ...]] = {
    "A": _A,
    "A-LRN": ("conv3-64 LRN", *_A[1:]),
    "B": _B,
    "C": (*_B[:2], f"{_B[2]} conv1-256", *[f"{_B[3]} conv1-512"] * 2),
    "D": (*_B[:2], f"{_B[2]} conv3-256", *[f"{_B[3]} conv3-512"] * 2),
    "E": (*_B[:2], " ".join(["conv3-256"] * 4), *[" ".join(["conv3-512"] * 4)] * 2),
}
TABLE_1_DENSE = ("FC-4096", "FC-4096", "FC-1000", "soft-max")
WEIGHT_LAYERS = {"A": 11, "A-LRN": 11, "B": 13, "C": 16, "D": 16, "E": 19}

TABLE_2 = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}
"""Parameters in millions."""

TABLE_3 = {
    Net("A", FIXED_256): Errors(29.6, 10.4),
    Net("A-LRN", FIXED_256): Errors(29.7, 10.5),
    Net("B", FIXED_256): Errors(28.7, 9.9),
    Net("C", FIXED_256): Errors(28.1, 9.4),
    Net("C", FIXED_384): Errors(28.1, 9.3),
    Net("C", JITTERED): Errors(27.3, 8.8),
    Net("D", FIXED_256): Errors(27.0, 8.8),
    Net("D", FIXED_384): Errors(26.8, 8.7),
    Net("D", JITTERED): Errors(25.6, 8.1),
    Net("E", FIXED_256): Errors(27.3, 9.0),
    Net("E", FIXED_384): Errors(26.9, 8.7),
    Net("E", JITTERED): Errors(25.5, 8.0),
}

TABLE_4 = {
    Net("B", FIXED_256): Errors(28.2, 9.6),
    Net("C", FIXED_256): Errors(27.7, 9.2),
    Net("C", FIXED_384): Errors(27.8, 9.2),
    Net("C", JITTERED): Errors(26.3, 8.2),
    Net("D", FIXED_256): Errors(26.6, 8.6),
    Net("D", FIXED_384): Errors(26.5, 8.6),
    Net("D", JITTERED): Errors(24.8, 7.5),
    Net("E", FIXED_256): Errors(26.9, 8.7),
    Net("E", FIXED_384): Errors(26.7, 8.6),
    Net("E", JITTERED): Errors(24.8, 7.5),
}

_D, _E = Net("D", JITTERED), Net("E", JITTERED)
TABLE_5: dict[tuple[Net, str], Errors] = {
    (_D, "dense"): Errors(24.8, 7.5),
    (_D, "multi_crop"): Errors(24.6, 7.5),
    (_D, "dense_multi_crop"): Errors(24.4, 7.2),
    (_E, "dense"): Errors(24.8, 7.5),
    (_E, "multi_crop"): Errors(24.6, 7.4),
    (_E, "dense_multi_crop"): Errors(24.4, 7.1),
}

_SUBMITTED = frozenset(
    Net(column, scale) for column in "CDE" for scale in (FIXED_256, FIXED_384)
) | {_D}
TABLE_6: dict[tuple[frozenset[Net], str], Errors] = {
    (_SUBMITTED, "dense"): Errors(24.7, 7.5, 7.3),
    (frozenset({_D, _E}), "dense"): Errors(24.0, 7.1, 7.0),
    (frozenset({_D, _E}), "multi_crop"): Errors(23.9, 7.2),
    (frozenset({_D, _E}), "dense_multi_crop"): Errors(23.7, 6.8, 6.8),
}

TABLE_7 = (
    Entry("VGG (the paper)", "2", Errors(23.7, 6.8, 6.8)),
    Entry("VGG (the paper)", "1", Errors(24.4, 7.1, 7.0)),
    Entry("VGG (the paper's submission)", "7", Errors(24.7, 7.5, 7.3)),
    Entry("GoogLeNet", "1", Errors(None, None, 7.9)),
    Entry("GoogLeNet", "7", Errors(None, None, 6.7)),
    Entry("MSRA", "11", Errors(None, None, 8.1)),
    Entry("MSRA", "1", Errors(27.9, 9.1, 9.1)),
    Entry("Clarifai", "several", Errors(None, None, 11.7)),
    Entry("Clarifai", "1", Errors(None, None, 12.5)),
    Entry("Zeiler & Fergus", "6", Errors(36.0, 14.7, 14.8)),
    Entry("Zeiler & Fergus", "1", Errors(37.5, 16.0, 16.1)),
    Entry("OverFeat", "7", Errors(34.0, 13.2, 13.6)),
    Entry("OverFeat", "1", Errors(35.7, 14.2)),
    Entry("Krizhevsky et al.", "5", Errors(38.1, 16.4, 16.4)),
    Entry("Krizhevsky et al.", "1", Errors(40.7, 18.2)),
)
