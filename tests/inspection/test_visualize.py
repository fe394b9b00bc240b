"""scripts/visualize.py, without the process around it."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.conftest import Compose
from tests.prediction.small import MODEL as SMALL
from tests.prediction.small import save_checkpoint

from vgglab.config.jobs import VisualizeConfig
from vgglab.config.schema import parse
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.trained import Trained
from vgglab.inspection.visualize import visualize
from vgglab.networks import build_vgg

MODEL = ("model=vgg11", "model.head=compact", "model.width=0.0625")


@pytest.fixture
def job(tmp_path: Path, composed: Compose) -> "list[str]":
    """Overrides: weights of a small network, and two photographs of one name."""
    torch.manual_seed(0)
    network = build_vgg("vgg11", width=0.0625, head="compact", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    for folder in "ab":
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.effect_noise((40, 30), 64).save(tmp_path / "photos" / folder / "noise.png")
    return [f"weights={tmp_path}/weights.pth", *MODEL, f"images={tmp_path}/photos"]


def test_every_picture_is_a_png_and_in_tensorboard(
    job: list[str], composed: Compose, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    visualize(parse(composed("visualize", *job, "layer=conv4_2"), VisualizeConfig))
    names = ["filters"]
    names += [f"{kind}/00{i}_noise" for kind in ("feature_maps", "grad_cam") for i in (0, 1)]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.png")} == {
        f"{name}.png" for name in names
    }
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["images"]) == set(names)
    for name in names:
        image = Image.open(folder / f"{name}.png")
        (event,) = board.Images(name)
        assert (event.width, event.height) == image.size
    assert (folder / "environment.json").exists()


def test_grad_cam_explains_the_class_that_is_named(
    job: list[str], composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    texts: list[tuple[str, str]] = []

    def cam(_: object, __: object, layer: str, targets: torch.Tensor) -> torch.Tensor:
        asked.append((layer, int(targets)))
        return torch.rand(1, 2, 2)

    def figure(_: object, __: object, caption: str, title: str) -> torch.Tensor:
        texts.append((caption.partition("prediction: ")[2], title.partition("\n")[2]))
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    monkeypatch.setattr("vgglab.inspection.visualize.grad_cam", cam)
    monkeypatch.setattr("vgglab.inspection.visualize.heat_figure", figure)
    monkeypatch.setattr("vgglab.inspection.visualize.rendered", lambda figure: figure)
    monkeypatch.setattr("vgglab.inspection.visualize.feature_map_figure", figure_of_nothing)
    one = f"images={tmp_path}/photos/a/noise.png"
    for label in range(3):
        choice = f"class='class {label}'"
        visualize(parse(composed("visualize", *job, one, choice), VisualizeConfig))
    assert asked == [("relu5_2", 0), ("relu5_2", 1), ("relu5_2", 2)]  # the last of column A
    (predicted,) = {caption for caption, _ in texts}
    shown = [title for _, title in texts]
    assert [title.partition(",")[0] for title in shown] == ["class 0", "class 1", "class 2"]
    shares = {title: float(title.split()[-1].removesuffix("%")) for title in shown}
    assert sum(shares.values()) == pytest.approx(100, abs=0.2)
    assert max(shares, key=lambda title: shares[title]) == predicted
    visualize(parse(composed("visualize", *job, one), VisualizeConfig))
    assert texts[-1] == (predicted, predicted)


def test_small_images_are_looked_at_where_it_is_fine_enough(
    job: list[str], composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(side: int, pools: int) -> None:
        network = build_vgg("vgg11", width=1 / 16, head="compact", num_classes=2, max_pools=pools)
        preprocessing = Preprocessing((0.5,) * 3, (0.2,) * 3, (side, side))
        trained = Trained(network, ["ant", "bee"], preprocessing, {})
        save_checkpoint(tmp_path / "small.ckpt", trained, {**SMALL, "max_pools": pools})
        given = (f"checkpoint={tmp_path}/small.ckpt", job[-1])
        visualize(parse(composed("visualize", *given), VisualizeConfig))

    look(side=32, pools=5)
    assert "relu4_2" in capsys.readouterr().out
    with pytest.raises(InputError, match="no ReLU of this network has 4 x 4 positions"):
        look(side=3, pools=1)


def figure_of_nothing(*_: object) -> torch.Tensor:
    return torch.zeros(3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("class=clas 1", r"class=clas 1: not among the 3 classes, such as class 1"),
        ("layer=conv4_9", "layer=conv4_9: no layer 'conv4_9' in vgg11; did you mean conv4_"),
        ("layer=fc", "layer=fc: fc of vgg11 is a vector"),
        ("images=nowhere", "images=nowhere: no image file there"),
        ("weights=null", "give checkpoint=PATH, or weights="),
    ],
)
def test_bad_input_is_named_and_nothing_written(
    job: list[str], composed: Compose, tmp_path: Path, override: str, message: str
) -> None:
    name, value = override.split("=")
    quoted = value if value == "null" else f"'{value}'"
    with pytest.raises(InputError, match=message):
        visualize(parse(composed("visualize", *job, f"{name}={quoted}"), VisualizeConfig))
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_named_before_anything_is_written(
    job: list[str], composed: Compose, tmp_path: Path
) -> None:
    (tmp_path / "photos/b/noise.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"b/noise\.png: not an image"):
        visualize(parse(composed("visualize", *job), VisualizeConfig))
    assert not (tmp_path / "run").exists()
