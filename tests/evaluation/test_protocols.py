"""Evaluation outside of training."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from vgglab.data import Synthetic
from vgglab.errors import InputError
from vgglab.evaluation.protocols import center_crop, find_device
from vgglab.networks import build_vgg

CPU = torch.device("cpu")


@pytest.fixture
def data() -> Synthetic:
    data = Synthetic(num_classes=7, test_size=21, batch_size=8)
    data.setup("test")
    return data


def test_center_crop_counts_each_image_once(data: Synthetic) -> None:
    network = build_vgg("A", num_classes=7, width=0.05, head="compact", dropout=0.9)
    network.train()  # whatever mode it comes in, dropout must not act
    result = center_crop(
        network, data.test_dataloader(), data.preprocessing.normalize, num_classes=7, device=CPU
    )
    images = data.preprocessing.normalize(data.sets["test"].images)  # type: ignore[attr-defined]
    labels = data.sets["test"].labels
    with torch.no_grad():
        logits = network.eval()(images)
    ranked = logits.argsort(1, descending=True)
    hit = ranked == labels[:, None]
    assert result["test/top1"] == pytest.approx(float(hit[:, 0].float().mean()))
    assert result["test/top5"] == pytest.approx(float(hit[:, :5].any(1).float().mean()))
    assert result["test/loss"] == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-4)


def test_half_precision_agrees(data: Synthetic) -> None:
    network = build_vgg("A", num_classes=7, width=0.05, head="compact")
    losses = [
        center_crop(
            network,
            data.test_dataloader(),
            data.preprocessing.normalize,
            num_classes=7,
            device=CPU,
            precision=precision,
        )["test/loss"]
        for precision in ("32-true", "bf16-mixed")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert find_device("auto") == CPU
    assert find_device("cpu") == CPU
    for missing in ("gpu", "mps"):
        with pytest.raises(InputError, match="only a CPU"):
            find_device(missing)
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: cuda)
    assert find_device("auto") == find_device("gpu") == cuda
    with pytest.raises(InputError, match="this machine has cuda"):
        find_device("mps")
