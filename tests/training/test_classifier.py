"""The LightningModule's step against the same step by hand."""

from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.nn.functional import cross_entropy

from vgglab.data import Synthetic
from vgglab.networks import build_vgg
from vgglab.training.classifier import Classifier
from vgglab.training.schedules import Horizon, Schedule, constant


def classifier(network: nn.Module, **settings: Any) -> Classifier:
    def make_schedule(optimizer: torch.optim.Optimizer, horizon: Horizon) -> Schedule:
        return constant(optimizer, horizon)

    return Classifier(
        network,
        nn.CrossEntropyLoss(),
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        make_schedule,
        num_classes=4,
        **settings,
    )


def trainer(**settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **settings,
    )


@pytest.fixture
def data() -> Synthetic:
    return Synthetic(num_classes=4, train_size=32, val_size=9, test_size=10, batch_size=8)


def test_training_equals_a_loop_by_hand(data: Synthetic) -> None:
    network = build_vgg("A", num_classes=4, width=0.05, head="compact", dropout=0.0)
    by_hand = build_vgg("A", num_classes=4, width=0.05, head="compact", dropout=0.0)
    by_hand.load_state_dict(network.state_dict())
    trainer(max_epochs=2).fit(classifier(network), datamodule=data)

    sgd = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            images, labels = data.network_input(batch, augment=True)
            sgd.zero_grad()
            cross_entropy(by_hand(images), labels).backward()
            sgd.step()
    torch.testing.assert_close(network.state_dict(), by_hand.state_dict())


def test_evaluation_counts_each_image_once(data: Synthetic) -> None:
    network = build_vgg("A", num_classes=4, width=0.05, head="compact")
    (result,) = trainer().test(classifier(network), datamodule=data, verbose=False)
    images = data.sets["test"].images  # type: ignore[attr-defined]
    labels = data.sets["test"].labels
    with torch.no_grad():
        logits = network.eval()(data.preprocessing.normalize(images))
    assert len(labels) % data.batch_size  # the last batch is a short one
    assert result["test/loss"] == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)
    assert result["test/top1"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert result["test/top5"] == 1  # of four classes


def test_dropout_acts_in_training_alone(data: Synthetic) -> None:
    network = build_vgg("A", num_classes=4, width=0.05, head="compact", dropout=0.9)
    seen = []
    network.classifier.register_forward_hook(lambda module, *_: seen.append(module.training))
    trainer(max_epochs=1).fit(classifier(network), datamodule=data)
    trainer().test(classifier(network), datamodule=data, verbose=False)
    assert seen == [True] * 4 + [False] * 2 + [False] * 2


def test_channels_last_changes_no_result(data: Synthetic) -> None:
    networks = [build_vgg("A", num_classes=4, width=0.05, head="compact") for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, channels_last in zip(networks, (True, False), strict=True):
        module = classifier(network, channels_last=channels_last, seed=3)
        trainer(max_epochs=1).fit(module, datamodule=data)
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict())
    weight = networks[0].features[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_horizon_counts_optimiser_steps(data: Synthetic) -> None:
    seen = []

    def make_schedule(optimizer: torch.optim.Optimizer, horizon: Horizon) -> Schedule:
        seen.append(horizon)
        return constant(optimizer, horizon)

    network = build_vgg("A", num_classes=4, width=0.05, head="compact")
    for settings in (
        {"max_epochs": 3},
        {"max_epochs": 3, "accumulate_grad_batches": 3},
        {"max_epochs": 3, "limit_train_batches": 2},
        {"max_epochs": 3, "limit_train_batches": 0.5},
        {"max_epochs": -1, "max_steps": 5},
        {"max_epochs": 3, "max_steps": 5},
    ):
        module = classifier(network)
        module.make_schedule = make_schedule
        trainer(**settings).fit(module, datamodule=data)
    expected = [(12, 4), (6, 2), (6, 2), (6, 2), (5, 4), (5, 4)]
    assert seen == [Horizon(*pair) for pair in expected]
