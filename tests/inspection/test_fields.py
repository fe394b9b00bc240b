"""Tables and pictures of receptive fields, and the job that makes them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.conftest import TINY, Compose

from vgglab.config.jobs import ReceptiveFieldConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.evaluation.trained import load_trained
from vgglab.inspection.field_figures import effective_figure, field_records, fields_figure
from vgglab.inspection.fields import show_fields
from vgglab.networks import EffectiveField, ReceptiveField, effective_receptive_field
from vgglab.networks.effective_field import Box

MODEL = ("model=vgg11", "model.width=0.03", "model.head=compact", "model.batch_norm=true")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.effect_noise((70, 50), 64).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def job(composed: Compose, *overrides: str) -> ReceptiveFieldConfig:
    return parse(composed("receptive_field", *overrides), ReceptiveFieldConfig)


def test_axes_that_differ_are_both_recorded() -> None:
    high, wide = ReceptiveField("a", 1, 2, 0.5), ReceptiveField("a", 7, 2, 0.5)
    assert field_records([high], [high], {}) == [{"name": "a", "size": 1, "jump": 2, "start": 0.5}]
    assert field_records([high], [wide], {})[0]["size"] == [1, 7]


def test_squares_are_drawn_to_scale_and_the_view_holds_them() -> None:
    boxes = {"near": Box(4, 6, 10, 12), "far": Box(-8, -6, 40, 42)}
    axes = fields_figure(torch.zeros(1, 20, 30, dtype=torch.uint8), boxes).axes[0]
    extents = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    for extent, field in zip(extents, boxes.values(), strict=False):
        corners = (field.top, field.left, field.bottom, field.right)
        assert (extent.ymin, extent.xmin, extent.ymax, extent.xmax) == pytest.approx(corners)
    assert axes.images[0].get_extent() == [0, 30, 20, 0]
    assert axes.get_xlim()[0] < -6 < 42 < axes.get_xlim()[1]
    assert axes.get_ylim()[1] < -8 < 40 < axes.get_ylim()[0]
    labels = [patch.get_label() for patch in axes.patches]
    assert labels == ["near: 6 px", "far: 48 px", "padding"]


def test_each_network_is_a_row_and_each_layer_a_column() -> None:
    field = EffectiveField("conv", Box(0, 0, 4, 4), torch.ones(9, 9), 1.25, 3, 0.5)
    figure = effective_figure({"random weights": [field, field], "trained": [field, field]}, 7)
    assert len(figure.axes) == 4
    assert figure.axes[0].get_ylabel() == "random weights"
    assert "1.2 px, 50%" in figure.axes[3].get_xlabel()
    assert figure.axes[1].patches[1].get_radius() == 2.5  # type: ignore[attr-defined]


def test_without_an_image_the_rows_are_printed_and_nothing_is_written(
    composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_fields(job(composed, *MODEL, "format=json"))
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"name": "conv1_1", "size": 3, "jump": 1, "start": 0.5}
    assert rows[-1]["jump"] == 32
    show_fields(job(composed, *MODEL))
    assert "conv5_2" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_torchvisions_networks_are_named_on_the_command_line(
    composed: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    show_fields(job(composed, "+model._target_=torchvision.models.squeezenet1_1", "format=json"))
    assert json.loads(capsys.readouterr().out)[-1]["name"] == "classifier.1"


def test_an_image_gets_pictures_of_a_random_network(
    composed: Compose, photo: Path, tmp_path: Path
) -> None:
    wanted = (f"image={photo}", "layers=[conv1_1,pool3]", "size=48", "effective=true")
    records = show_fields(job(composed, *MODEL, *wanted))
    folder = tmp_path / "run"
    assert json.loads((folder / "receptive_fields.json").read_text()) == records
    measured = {record["name"]: record["effective"] for record in records if "effective" in record}
    assert list(measured) == ["conv1_1", "pool3"]
    assert list(measured["pool3"]) == ["random weights"]
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert board.Tags()["images"] == ["receptive_fields", "effective_fields"]
    for name in board.Tags()["images"]:
        with Image.open(folder / f"{name}.png") as picture:
            shown = board.Images(name)[0]
            assert picture.size == (shown.width, shown.height)
    assert "receptive_fields/text_summary" in board.Tags()["tensors"]


def test_a_checkpoint_is_measured_before_and_after_training(
    composed: Compose, photo: Path, tmp_path: Path
) -> None:
    from vgglab.training.run import train

    run = tmp_path / "train"
    train(parse(composed("train", *TINY, "trainer.max_epochs=1", run_dir=run), TrainConfig))
    checkpoint = run / "checkpoints/best.ckpt"
    wanted = (f"image={photo}", "layers=[conv3_2]", "effective=true")
    records = show_fields(job(composed, f"checkpoint={checkpoint}", *wanted))
    effective = next(r["effective"] for r in records if r["name"] == "conv3_2")
    assert list(effective) == ["random weights", "trained"]
    trained = load_trained(checkpoint)
    with Image.open(photo) as opened:
        pixels = torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8)
    image = trained.preprocessing.fit(pixels.view(50, 70, 3).permute(2, 0, 1))
    expected = effective_receptive_field(
        trained.network, trained.preprocessing.normalize(image[None]), "conv3_2"
    )
    assert effective["trained"]["sigma"] == pytest.approx(expected.sigma)
    assert effective["trained"] != effective["random weights"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "give model="),
        ((*MODEL, "effective=true"), "effective=True needs image=PATH"),
        ((*MODEL, "image=PHOTO"), r"also needs layers="),
        ((*MODEL, "image=PHOTO", "layers=[conv9_9]"), r"conv9_9.*did you mean"),
        ((*MODEL, "image=PHOTO", "layers=[pool5]", "size=16"), "cannot take an image of 16x16"),
        ((*MODEL, "image=nowhere.png", "layers=[pool1]"), "nowhere.png"),
        ((*MODEL, "checkpoint=a.ckpt"), "model= is the checkpoint's own"),
        (("+model._target_=torchvision.models.convnext_tiny",), r"model: features\.0\.1\.permute"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    overrides: tuple[str, ...], message: str, composed: Compose, photo: Path, tmp_path: Path
) -> None:
    overrides = tuple(text.replace("PHOTO", str(photo)) for text in overrides)
    with pytest.raises(InputError, match=message):
        show_fields(job(composed, *overrides))
    assert not (tmp_path / "run").exists()
