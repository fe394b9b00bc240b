"""Which layer is looked at, and many images' Grad-CAM."""

import pytest
import torch
from torchvision.models import resnet18

from tests.prediction.small import SMALL
from vgglab.data.transforms import Preprocessing
from vgglab.inspection.attribution import grad_cam
from vgglab.networks import build_vgg
from vgglab.prediction.heat import heat_layer, heats


@pytest.mark.parametrize(
    ("side", "settings", "layer"),
    [
        (224, {}, "relu5_2"),
        (64, {}, "relu5_2"),
        (32, {}, "relu4_2"),
        (8, {"max_pools": 2}, "relu2_1"),
        (8, {"max_pools": 1}, "relu5_2"),
        (3, {"max_pools": 1}, None),
    ],
)
def test_the_last_layer_that_is_fine_enough(
    side: int, settings: dict[str, int], layer: str | None
) -> None:
    network = build_vgg(**SMALL, num_classes=3, in_channels=1, **settings).eval()  # type: ignore[arg-type]
    assert heat_layer(network, Preprocessing((0.5,), (0.2,), (side, side + 5))) == layer


def test_other_networks_have_none() -> None:
    assert heat_layer(resnet18(), Preprocessing((0.5,) * 3, (0.2,) * 3, (64, 64))) is None


def test_many_images_are_each_their_own() -> None:
    torch.manual_seed(0)
    network = build_vgg(**SMALL, num_classes=3).eval()
    images, targets = torch.randn(19, 3, 32, 32), torch.arange(19) % 3
    found = heats(network, images, "relu3_2", targets)
    for place in (0, 7, 8, 18):
        alone = grad_cam(network, images[place, None], "relu3_2", targets[place, None])[0]
        torch.testing.assert_close(found[place], alone)
    assert found.shape == (19, 8, 8)
    assert found.amax((1, 2)).count_nonzero() > 10
