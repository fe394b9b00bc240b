"""conf/experiment/paper against section 3.1 of the paper, as restated in each line."""

import pytest

from tests.conftest import ROOT, Compose
from vgglab.config.schema import TrainConfig, parse

NAMES = sorted(path.stem for path in (ROOT / "conf/experiment/paper").glob("*.yaml"))


def composed_job(composed: Compose, name: str) -> TrainConfig:
    return parse(composed("train", f"experiment=paper/{name}"), TrainConfig)


@pytest.mark.parametrize("name", NAMES)
def test_the_rules_of_section_3_1_hold_everywhere(composed: Compose, name: str) -> None:
    job = composed_job(composed, name)
    sgd = job.optimizer.arguments
    assert job.optimizer.target == "torch.optim.SGD"
    assert (sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.9, 5e-4, False)
    fine_tuned = name.startswith("vgg") and name.endswith(("_s384", "_jitter"))
    assert sgd["lr"] == (1e-3 if fine_tuned else 1e-2)
    assert job.scheduler.arguments["factor"] == 0.1
    assert job.scheduler.arguments["monitor"] == "val/top1"
    assert job.trainer.max_epochs == 74
    assert job.model.arguments["dropout"] == 0.5
    data = job.data.arguments
    assert data["batch_size"] == (64 if name.startswith("imagenette") else 256)
    assert (data["flip"], data["colour_deviation"], data["colour_axes"]) == (True, 0.1, "imagenet")
    small = name.startswith("cifar10")
    if name.endswith("_s384"):
        assert data["train_scale"] == 384
    elif name.endswith("_jitter"):
        assert data["train_scale"] == ([32, 48] if small else [256, 512])
    else:
        assert data["train_scale"] == (36 if small else 256)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("vgg")])
def test_where_each_network_begins(composed: Compose, name: str) -> None:
    job = composed_job(composed, name)
    assert job.model.arguments["init"] == "paper"
    start = (job.model.arguments["init_from"], job.weights)
    if name in ("vgg11", "vgg11_lrn"):
        assert start == (None, None)  # shallow enough to learn from random weights
    elif name.endswith("_s384"):
        assert start == (None, f"{name.removesuffix('_s384')}_s256.ckpt")
    elif name.endswith("_jitter"):
        assert start == (None, f"{name.removesuffix('_jitter')}_s384.ckpt")
    else:
        assert start == ("vgg11.ckpt", None)
