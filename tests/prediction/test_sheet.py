"""Contact sheets, by their pixels."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from tests.prediction.small import Run
from vgglab.data.decoding import decode
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.trained import Trained
from vgglab.prediction.answers import Prediction, answer, predictions_of
from vgglab.prediction.card import CARD_WIDTH, PICTURE, card, card_height, pictures
from vgglab.prediction.reading import ReadImage, read_images
from vgglab.prediction.sheet import Sheet

WHITE = torch.full((3, 30, 60), 255, dtype=torch.uint8)


def of_colour(picture: Image.Image, colour: str) -> npt.NDArray[np.bool_]:
    """Where it has a colour of six hexadecimal digits."""
    wanted = tuple(int(colour[i : i + 2], 16) for i in (0, 2, 4))
    return (np.asarray(picture) == wanted).all(-1)


def test_the_whole_image_is_bright_where_the_network_looks() -> None:
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, (32, 32), resize=40)
    image = ReadImage(Path("a.png"), preprocessing.fit(WHITE), WHITE, 30, 60)
    left = np.asarray(pictures(image, None, preprocessing))[:, :PICTURE]
    bright = (left == 255).all(-1)
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    # 60 x 30 pixels are shown as 224 x 112; of 40 on the shortest side the network sees 32.
    assert len(rows) == pytest.approx(112 * 32 / 40, abs=1)
    assert len(columns) == pytest.approx(224 / 2 * 32 / 40, abs=1)
    assert rows.mean() == pytest.approx(PICTURE / 2, abs=1)
    assert columns.mean() == pytest.approx(PICTURE / 2, abs=1)
    dark = left[PICTURE // 2, 5]
    assert dark.tolist() == [89] * 3


def test_an_image_that_is_seen_whole_is_all_bright_and_heat_lies_on_what_is_seen() -> None:
    preprocessing = Preprocessing((0.5,), (0.5,), (8, 8))
    grey = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    image = ReadImage(Path("a.png"), grey, grey.expand(3, -1, -1), 8, 8)
    heat = torch.zeros(4, 4)
    heat[0, 3] = 2.0
    both = np.asarray(pictures(image, heat, preprocessing))
    assert (both[:, :PICTURE] == 100).all()
    right = both[:, -PICTURE:].astype(int)
    assert (right[PICTURE // 2 :] == 100).all()
    assert right[10, -10, 0] > right[10, -10, 2]  # red, the hottest


def test_bars_and_marks_tell_what_is_right() -> None:
    blue, green, red = "4c78a8", "2e7d32", "c0392b"
    shown = Image.new("RGB", (2 * PICTURE + 8, PICTURE))
    ranked = [("ant", 0.5), ("bee", 0.25)]

    def longest_run(true: str | None, colour: str) -> int:
        found = Prediction(Path("a.png"), ranked, true)
        height = card_height([found])
        return int(of_colour(card(found, shown, height, judged=True), colour).sum(1).max())

    length = longest_run(None, blue)
    assert length > 60
    assert longest_run("fox", red) == length
    assert [longest_run(None, colour) for colour in (green, red)] == [0, 0]
    right = [longest_run("ant", colour) for colour in (green, blue, red)]
    assert right == [length, pytest.approx(length / 2, abs=2), 0]
    wrong = [longest_run("bee", colour) for colour in (red, green, blue)]
    assert wrong == [length, pytest.approx(length / 2, abs=2), 0]
    none = Prediction(Path("a.png"), [("ant", 0.0)])
    assert not of_colour(card(none, shown, card_height([none]), judged=False), blue).any()


def test_nothing_is_drawn_outside_a_card() -> None:
    """Names of any length are cut."""
    long = Prediction(Path("x" * 500), [("y" * 500, 1.0)] * 5, "z" * 500)
    height = card_height([long])
    shown = Image.new("RGB", (2 * PICTURE + 8, PICTURE))
    edge = np.asarray(card(long, shown, height, judged=True))
    background = edge[0, 0]
    assert edge.shape == (height, CARD_WIDTH, 3)
    for border in (edge[:, :6], edge[:, -6:], edge[-4:]):
        assert (border == background).all()


def draw(trained: Trained, files: list[Path], path: Path, stack: ExitStack) -> Sheet:
    sheet = Sheet(path, files, trained, "small.ckpt", stack)
    side = sheet.side
    images = list(read_images(files, trained.preprocessing, ahead=2, skip=True, whole_side=side))
    found = answer(trained, images, 3, torch.device("cpu"))
    sheet.add(images, list(predictions_of(images, found, trained.classes)), found)
    return sheet


@pytest.fixture
def five_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vgglab.prediction.sheet.PER_PAGE", 5)


@pytest.mark.usefixtures("five_a_page")
@pytest.mark.parametrize("count", [1, 5, 6])
def test_pages_hold_all_images(count: int, trained: Trained, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))[:count]
    with ExitStack() as stack:
        sheet = draw(trained, files, tmp_path / "sheet.png", stack)
        sheet.finish()
        assert not list(tmp_path.glob("sheet*.png"))
    pages = sheet.pages
    names = ["sheet.png"] if count <= 5 else ["sheet-001.png", "sheet-002.png"]
    assert [page.name for page in pages] == names
    assert {path.name for path in tmp_path.glob("*.png")} == set(names)
    margin = 16
    for page, left in zip(map(Image.open, pages), (min(count, 5), count - 5), strict=False):
        columns = (page.width - margin) // (CARD_WIDTH + margin)
        background = of_colour(page, "f3f4f6")
        # Down the left edge of the first card in each row.
        ends = np.flatnonzero(np.diff(background[:, margin].astype(int)))
        tops = ends[::2] + 1
        for top in tops:
            corners = [background[top, margin + i * (CARD_WIDTH + margin)] for i in range(columns)]
            assert corners == [i < left for i in range(columns)]
            left -= min(columns, left)
        assert left == 0


@pytest.mark.usefixtures("five_a_page")
def test_after_an_error_no_page_is_there(trained: Trained, photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    (tmp_path / "sheet-001.png").write_bytes(b"earlier")
    before = set(tmp_path.iterdir())

    def fails() -> None:
        with ExitStack() as stack:
            draw(trained, files, tmp_path / "sheet.png", stack)
            assert set(tmp_path.iterdir()) > before  # a page waits
            raise InputError("a broken file")

    with pytest.raises(InputError):
        fails()
    assert set(tmp_path.iterdir()) == before
    assert (tmp_path / "sheet-001.png").read_bytes() == b"earlier"


def test_heat_belongs_to_its_image_also_beside_broken_files(
    trained: Trained, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, float | None]] = []

    def note(image: ReadImage, heat: torch.Tensor | None, _: object) -> Image.Image:
        given.append((image.path.name, None if heat is None else float(heat)))
        return Image.new("RGB", (2 * PICTURE + 8, PICTURE))

    monkeypatch.setattr("vgglab.prediction.sheet.pictures", note)
    monkeypatch.setattr(
        "vgglab.prediction.sheet.heats", lambda _, inputs, layer, labels: inputs.mean((1, 2, 3))
    )
    (photos / "cat/1.png").write_bytes(b"")
    files = sorted((photos / "cat").iterdir())
    with ExitStack() as stack:
        draw(trained, files, tmp_path / "sheet.png", stack)
    expected: list[tuple[str, float | None]] = []
    for file in files:
        mean = None
        if file.name != "1.png":
            seen = trained.preprocessing.fit(decode(file))
            mean = pytest.approx(
                float(trained.preprocessing.normalize(seen[None]).mean()), abs=1e-4
            )
        expected.append((file.name, mean))
    assert given == expected


def test_files_of_relative_and_absolute_names_share_a_sheet(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    run(images=["other.png", str(photos / "cat/0.png")], sheet=str(tmp_path / "sheet.png"))
    assert (tmp_path / "sheet.png").exists()
