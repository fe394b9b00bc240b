"""What a loader is measured against, and what is concluded from it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Compose
from vgglab.benchmarks.loading import loader, training_rate
from vgglab.benchmarks.loading.bottleneck import Bottleneck
from vgglab.benchmarks.loading.loader import measure_loader
from vgglab.benchmarks.loading.loader_speed import LoaderSpeed, Round
from vgglab.benchmarks.loading.reference import ReferenceImages, file_crop, training_transform
from vgglab.benchmarks.loading.stages import STAGES, measure_stages
from vgglab.config.benchmark_jobs import LoaderBenchmark
from vgglab.config.schema import parse
from vgglab.data import ImageFolder, Synthetic
from vgglab.data.batches import BatchMaker
from vgglab.data.encoded import EncodedBatchMaker
from vgglab.data.images import TensorImages
from vgglab.errors import InputError

TINY = (
    "target=loader",
    "model=vgg11",
    "model.head=compact",
    "model.width=0.0625",
    "accelerator=cpu",
    "steps=1",
    "rounds=1",
)
MADE_UP = ("data=synthetic", "data.train_size=16", "data.batch_size=4")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (loader, training_rate):
        monkeypatch.setattr(module, "_SECONDS", 1e-6)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six smooth JPEGs for training, and as many to validate."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((80, 60)).save(folder / f"{i}.jpg")
    return tmp_path / "photos"


Measure = Callable[..., LoaderSpeed]


@pytest.fixture
def measure(composed: Compose) -> Measure:
    def run(*overrides: str) -> LoaderSpeed:
        return measure_loader(parse(composed("benchmark", *TINY, *overrides), LoaderBenchmark))

    return run


def test_images_in_memory_are_neither_read_nor_decoded(measure: Measure) -> None:
    speed = measure(*MADE_UP, "rounds=2")
    assert len(speed.rounds) == 2
    for round_ in speed.rounds:
        assert min(round_.loader, round_.reference, round_.network) > 0
        for stages in (round_.stages, round_.reference_stages):
            assert stages.keys() == {"crop", "transfer", "network input"}
    assert speed.image_bytes is None
    assert speed.ratio == [r.loader / r.reference for r in speed.rounds]


def test_files_are_measured_stage_by_stage_with_the_workers_of_training(
    measure: Measure, photos: Path
) -> None:
    (photos / "train/cat/0.jpg").write_bytes(b"\xff\xd8\xff broken")
    speed = measure(
        *("data=image_folder", f"data.root={photos}", "data.image_size=32", "data.batch_size=4"),
        *("data.num_workers=1", "data.on_error=skip", "data.in_memory=false"),
    )
    (round_,) = speed.rounds
    for stages in (round_.stages, round_.reference_stages):
        assert stages.keys() == set(STAGES)
        assert stages["read"] > 0
    assert speed.image_bytes is not None
    assert 0 < speed.image_bytes < 20_000
    assert speed.to_dict()["binds"] in ("loader", "network")


def test_a_gpus_decoder_crops_in_the_same_stage(photos: Path) -> None:
    """Played by the CPU."""
    data = ImageFolder(root=str(photos), image_size=32)
    data.setup("fit")
    maker = EncodedBatchMaker(BatchMaker(data.preprocessing.cropping("random_resized")))
    ours, theirs = measure_stages(data, data.sets["train"], maker, torch.device("cpu"))
    assert theirs.keys() == set(STAGES)
    assert ours.keys() == set(STAGES) - {"crop"}


def test_a_broken_image_is_named(measure: Measure, photos: Path) -> None:
    for file in (photos / "train/cat").iterdir():
        file.write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(InputError, match=r"train/cat/\d.jpg"):
        measure("data=image_folder", f"data.root={photos}", "data.batch_size=4")


def test_one_of_several_processes_is_measured(measure: Measure) -> None:
    speed = measure(*MADE_UP, "accelerator.devices=2", "accelerator.num_nodes=2")
    assert (speed.batch_size, speed.processes, speed.nodes) == (1, 2, 2)
    with pytest.raises(InputError, match=r"data.batch_size=4 .* 3 processes"):
        measure(*MADE_UP, "accelerator.devices=3")


def test_what_is_measured_is_what_a_run_would_read_first() -> None:
    data = Synthetic(train_size=14, batch_size=4, seed=3)
    data.setup("fit")
    sampler = data.train_dataloader().sampler
    expected: list[int] = []
    for epoch in range(2):
        sampler.resume(epoch, 0)
        expected += [image for keys in sampler for image in keys.images]
    assert len(expected) == 24  # the incomplete batches are dropped
    assert loader._reading_order(data, 18).tolist() == expected[:18]


def test_the_reference_does_what_training_does(photos: Path) -> None:
    """On average: each draws its own numbers."""
    data = ImageFolder(root=str(photos), image_size=32, resize_size=40, augment=False)
    data.setup("fit")
    images = data.sets["val"]
    reference = ReferenceImages(images, data)
    for i in range(len(images)):
        pixels, label = reference[i]
        assert label == images.labels[i]
        ours = data.preprocessing.fit(images.image(i))
        assert (pixels.float() - ours.float()).abs().mean() < 0.5


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["RandomResizedCrop", "RandomHorizontalFlip", "PILToTensor"]),
        ({"flip": False, "crop": "random"}, ["Resize", "RandomCrop", "PILToTensor"]),
        ({"flip": False, "train_scale": [40, 50]}, ["RandomScaleCrop", "PILToTensor"]),
        ({"augment": False}, ["Resize", "CenterCrop", "PILToTensor"]),
    ],
)
def test_the_references_transforms(
    photos: Path, settings: dict[str, object], names: object
) -> None:
    data = ImageFolder(root=str(photos), image_size=32, **{"flip": True, **settings})
    transform = training_transform(data)
    assert [type(step).__name__ for step in transform.transforms] == names  # type: ignore[attr-defined]


def test_the_reference_of_images_in_memory() -> None:
    pixels = torch.randint(0, 256, (3, 3, 8, 9), dtype=torch.uint8)
    images = TensorImages(pixels, torch.tensor([1, 0, 1]), ["a", "b"])
    data = Synthetic(height=8, width=9, augment=False)
    reference = ReferenceImages(images, data)
    found = [reference[i] for i in range(3)]
    assert torch.equal(torch.stack([image for image, _ in found]), pixels)
    assert [label for _, label in found] == [1, 0, 1]


def test_a_drawn_scale_covers_its_range() -> None:
    image = Image.new("RGB", (60, 40))
    (step,) = file_crop("random", (8, 8), (10, 12))
    torch.manual_seed(0)
    shortest = set()
    step.crop = lambda resized: shortest.add(min(resized.size))  # type: ignore[attr-defined]
    for _ in range(40):
        step(image)
    assert shortest == {10, 11, 12}


def test_what_binds() -> None:
    fast = Bottleneck(loader=800, network=300, workers=4, cores=8, processes=1)
    assert (fast.binds, fast.enough, fast.data_wait_fraction) == ("network", 2, 0)
    assert fast.images_per_second == 300
    slow = Bottleneck(loader=800, network=3000, workers=4, cores=16, processes=2)
    assert (slow.binds, slow.shared_loader, slow.enough) == ("loader", 800, 15)
    assert slow.data_wait_fraction == pytest.approx(1 - 800 / 3000)
    assert "The node has too few cores" in slow.lines()[-1]


def test_processes_of_a_node_share_its_cores() -> None:
    found = Bottleneck(loader=800, network=300, workers=4, cores=8, processes=8, nodes=2)
    assert found.shared_loader == 800 * 8 / 32
    assert found.binds == "loader"
    assert found.images_per_second == 200 * 16
    # More workers than cores never had a core each.
    many = Bottleneck(loader=800, network=300, workers=64, cores=8, processes=1)
    assert (many.shared_loader, many.enough) == (800, 3)


def test_without_workers_the_network_waits() -> None:
    found = Bottleneck(loader=300, network=100, workers=0, cores=8, processes=1)
    assert found.images_per_second == pytest.approx(75)
    assert found.data_wait_fraction == pytest.approx(0.25)
    assert found.binds == "network"


def test_the_table_fits_a_terminal() -> None:
    stages = dict.fromkeys(("read", "decode", "crop", "transfer", "network input"), 12.345)
    speed = LoaderSpeed(
        rounds=[Round(123456.0, 12345.0, 12345.6, stages, stages, 1.0)] * 3,
        data="ImageFolder",
        batch_size=256,
        trained_batch_size=2,
        workers=16,
        image_bytes=110_000,
        cores=128,
        processes=8,
        nodes=16,
        model="vgg16",
        precision="bf16-mixed",
        gpu="NVIDIA H200",
        cpu="AMD EPYC",
        torch="2.15.0+cu132",
    )
    lines = [*speed.bottleneck.lines(), *speed._storage(), *speed._trained()]
    assert max(map(len, lines)) <= 70
    assert speed.to_dict()["ratio"] == pytest.approx(10.0, rel=0.01)
