"""scripts/restyle.py, without the process around it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import Compose

from vgglab.config.jobs import RestyleConfig
from vgglab.config.schema import parse
from vgglab.errors import InputError
from vgglab.inspection.restyle import CONTENT_LAYERS, STYLE_LAYERS, restyle, restyled
from vgglab.networks import PerceptualLoss, build_vgg, layer_names

MODEL = ("model=vgg16", "model.head=compact", "model.width=0.0625")


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    """Overrides: weights of a small network, and two photographs of different shapes."""
    torch.manual_seed(0)
    network = build_vgg("vgg16", width=0.0625, head="compact", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    for name, size in (("content", (50, 40)), ("style", (60, 90))):
        Image.effect_noise(size, 64).convert("RGB").save(tmp_path / f"{name}.png")
    files = [f"{name}={tmp_path}/{name}.png" for name in ("content", "style", "output")]
    return [f"weights={tmp_path}/weights.pth", *MODEL, *files, "size=32", "steps=3"]


def test_the_output_has_the_contents_shape_and_other_pixels(
    job: list[str], composed: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    restyle(parse(composed("restyle", *job), RestyleConfig))
    result = Image.open(tmp_path / "output.png")
    assert (result.mode, result.size) == ("RGB", (40, 32))
    before = Image.open(tmp_path / "content.png").resize((40, 32))
    assert np.any(np.asarray(result) != np.asarray(before))
    assert "step    0  content 0 " in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        *("weights.pth", "content.png", "style.png", "output.png")
    }


def test_the_image_comes_closer_to_the_style_and_stays_an_image() -> None:
    torch.manual_seed(0)
    network = build_vgg("vgg16", width=0.0625, head="compact")
    loss = PerceptualLoss({}, {"relu1_2": 1.0}, network=network)
    content, style = torch.full((1, 3, 32, 32), 0.5), torch.rand(1, 3, 40, 32)
    targets = loss.targets(content, style)
    result = restyled(loss, content, style, steps=40, learning_rate=0.05)
    assert loss.terms(result, targets)[1] < 0.2 * loss.terms(content, targets)[1]
    assert 0 <= result.min() <= result.max() <= 1
    assert torch.equal(content, torch.full_like(content, 0.5))


def test_layers_that_are_named_replace_the_default_ones(
    composed: Compose, job: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[PerceptualLoss] = []

    def instead(loss: PerceptualLoss, content: torch.Tensor, *_: object, **__: object) -> object:
        used.append(loss)
        return content

    monkeypatch.setattr("vgglab.inspection.restyle.restyled", instead)
    own = ("content_layers={conv4_2: 2}", "style_layers={conv1_1: 5, conv2_1: 0.5}")
    restyle(parse(composed("restyle", *job, *own), RestyleConfig))
    restyle(parse(composed("restyle", *job), RestyleConfig))
    assert used[0].layers == {"conv4_2": 2}
    assert used[0].style_layers == {"conv1_1": 5, "conv2_1": 0.5}
    assert (used[1].layers, used[1].style_layers) == (CONTENT_LAYERS, STYLE_LAYERS)


def test_every_column_has_the_default_layers_or_says_so() -> None:
    wanted = {*CONTENT_LAYERS, *STYLE_LAYERS}
    for name in ("vgg16_1x1", "vgg16", "vgg19"):
        assert wanted <= set(layer_names(build_vgg(name, width=1 / 64)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("content={folder}/missing.png", r"missing\.png: no such file"),
        ("style={folder}/weights.pth", r"weights\.pth: not an image"),
        ("output={folder}", "is a folder; give a file that ends in .png"),
        ("output={folder}/out.jpg", "must end in .png"),
        ("output={folder}/none/out.png", r"there is no folder .*none"),
        ("style_layers={{relu9_9: 1}}", "style_layers: no layer 'relu9_9' in vgg16"),
        ("style_layers={{relu1_1: -1}}", "style_layers.*greater than or equal to 0"),
        ("model.in_channels=1", "do(es)? not fit|three channels"),
    ],
)
def test_bad_input_is_named_and_nothing_written(
    job: list[str], composed: Compose, tmp_path: Path, override: str, message: str
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message):
        restyle(parse(composed("restyle", *job, override.format(folder=tmp_path)), RestyleConfig))
    assert {path.name for path in tmp_path.iterdir()} == before
