"""Points of test images, in the files that TensorBoard's projector reads."""

import csv
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import nn
from torchvision.models import resnet18

from tests.conftest import Compose
from tests.training.runs import job, weights
from vgglab.dashboard.projector import Point, Projector, first_of_each_class, inputs_of_dense_layers
from vgglab.networks import build_vgg
from vgglab.reporting.tensorboard import TensorBoard
from vgglab.training.run import train


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        ([0, 0, 0, 1, 1, 2], 4, [0, 1, 3, 5]),
        ([2, 2, 0, 0, 0], 4, [0, 1, 2, 3]),  # class 1 has none
        ([1, 0, 1], 9, [0, 1, 2]),
    ],
)
def test_the_first_images_of_each_class_come_first(
    labels: list[int], count: int, expected: list[int]
) -> None:
    assert first_of_each_class(torch.tensor(labels), count).tolist() == expected


NETWORKS: dict[str, Any] = {
    "compact": lambda: build_vgg("A", num_classes=5, head="compact", width=1 / 16),
    "imagenet": lambda: build_vgg("A", num_classes=5, width=1 / 64),
    "torchvision's": lambda: resnet18(num_classes=5),
}


@pytest.mark.parametrize(
    ("kind", "compiled"), [(kind, False) for kind in NETWORKS] + [("compact", True)]
)
def test_features_are_what_the_last_layer_turns_into_logits(kind: str, compiled: bool) -> None:
    network: nn.Module = NETWORKS[kind]().eval()
    images = torch.randn(3, 3, 32, 32)
    logits = network(images)
    if compiled:
        network.compile(backend="eager")
        network(images)
    with inputs_of_dense_layers() as inputs:
        network(images)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(last(inputs[-1].flatten(1)), logits)


def config(run_dir: Path) -> ProjectorConfig:
    path = run_dir / "tensorboard/projector_config.pbtxt"
    return text_format.Parse(path.read_text(), ProjectorConfig())


def test_the_projectors_files_show_what_the_network_sees(composed: Compose, tmp_path: Path) -> None:
    one = ("callbacks=[essential,projector]", "data.test_size=30", "callbacks.projector.count=10")
    settings = (*one, "data.height=32", "data.width=48", "trainer.max_epochs=1")
    result = train(job(composed, *settings, run_dir=tmp_path))
    (embedding,) = config(tmp_path).embeddings
    board = tmp_path / "tensorboard"
    features = np.loadtxt(board / embedding.tensor_path, delimiter="\t", ndmin=2)
    assert features.shape == tuple(embedding.tensor_shape) == (10, 32)

    with (board / embedding.metadata_path).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["true", "predicted", "correct", "probability", "index"]
    indices = [int(row["index"]) for row in rows]
    assert indices == sorted(set(indices))
    for row in rows:
        assert (row["correct"] == "yes") == (row["true"] == row["predicted"])
    state = weights(tmp_path, "best")
    kernel, bias = (state[f"network.classifier.1.{name}"].numpy() for name in ("weight", "bias"))
    chances = torch.from_numpy(features @ kernel.T + bias).softmax(1)
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        chances.max(1).values.tolist(), abs=2e-3
    )
    assert 0 <= result["test/top1"] <= 1

    width, height = embedding.sprite.single_image_dim
    assert (width, height) == (48, 32)  # twice as large they would be above 64
    with Image.open(board / embedding.sprite.image_path) as sprite:
        assert sprite.size == (4 * width, 4 * height)  # 10 images; TensorBoard needs n x n
        shown = np.asarray(sprite)
    data = job(composed, *settings, run_dir=tmp_path).data.build("data")
    data.setup("test")
    for number, index in enumerate(indices):
        top, left = number // 4 * height, number % 4 * width
        image = data.sets["test"].image(index).movedim(0, 2).numpy()
        assert np.abs(shown[top : top + height, left : left + width] - image.astype(int)).max() <= 1

    before = (board / "projector_config.pbtxt").read_bytes()
    train(job(composed, *settings, "resume=auto", run_dir=tmp_path))  # tests once more
    assert (board / "projector_config.pbtxt").read_bytes() == before


def test_the_points_of_all_processes_lie_in_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def point(index: int) -> Point:
        return Point(index, 0, 1, 0.5, torch.full((2,), index), torch.zeros(3, 8, 8).byte())

    def gather(parts: list[list[Point]], own: list[Point]) -> None:
        parts[:] = [own, [point(1), point(3)]]

    monkeypatch.setattr("vgglab.dashboard.projector.all_gather_object", gather)
    trainer: Any = SimpleNamespace(
        world_size=2,
        is_global_zero=True,
        loggers=[TensorBoard(str(tmp_path))],
        datamodule=SimpleNamespace(classes=["a\tcat", "dog"]),
    )
    projector = Projector()
    projector._points = [point(0), point(2)]
    projector.on_test_epoch_end(trainer, nn.Module())  # type: ignore[arg-type]
    folder = tmp_path / "tensorboard/projector"
    assert (folder / "features.tsv").read_text() == "0\t0\n1\t1\n2\t2\n3\t3\n"
    assert (folder / "metadata.tsv").read_text().splitlines()[1] == "a cat\tdog\tno\t0.5000\t0"


def test_without_a_dense_layer_there_is_no_file_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer: Any = SimpleNamespace(
        world_size=1,
        is_global_zero=True,
        loggers=[TensorBoard(str(tmp_path))],
        datamodule=SimpleNamespace(
            classes=["cat"], sets={"test": SimpleNamespace(labels=torch.zeros(6).long())}
        ),
        test_dataloaders=SimpleNamespace(indices=[]),
    )
    projector, network = Projector(), nn.Conv2d(3, 2, 3)
    for trainer.is_global_zero in (True, False):
        with caplog.at_level(logging.WARNING):
            projector.on_test_epoch_start(trainer, network)  # type: ignore[arg-type]
            for number in range(3):
                trainer.test_dataloaders.indices = [2 * number, 2 * number + 1]
                batch = (torch.randn(2, 3, 8, 8), torch.zeros(2).long())
                projector.on_test_batch_end(trainer, network, {}, batch, number)  # type: ignore[arg-type]
            projector.on_test_epoch_end(trainer, network)  # type: ignore[arg-type]
    assert [r.message for r in caplog.records] == [
        "no projector: no dense layer is given a vector an image"
    ]
    assert not (tmp_path / "tensorboard/projector_config.pbtxt").exists()
