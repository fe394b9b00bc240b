"""Descriptors as in appendix B, and the files they go to."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tests.cli.test_documentation import commands
from tests.conftest import ROOT, Compose
from torch import nn
from torchvision.transforms.v2 import functional

from vgglab.config.jobs import ExtractFeaturesConfig, LinearProbeConfig
from vgglab.config.schema import Network, parse
from vgglab.data.decoding import decode
from vgglab.data.sources.listing import list_images
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.trained import Trained
from vgglab.features import extraction, files
from vgglab.features.files import create_features, read_features
from vgglab.networks import VGG, build_vgg, to_dense
from vgglab.reporting.record import read_skipped

INPUT = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), (14, 14), 16)
SIZES = ((20, 30), (30, 20), (20, 20), (25, 18), (20, 30))  # width, height
NAMES = ["ant", "bee"]


def network(head: str) -> VGG:
    """Takes images from 14 pixels (imagenet) or 2 (compact); its units do not all die."""
    torch.manual_seed(0)
    built = build_vgg("A", num_classes=2, width=0.1, head=head, max_pools=1, batch_norm=True)  # type: ignore[arg-type]
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
    return built.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five colour photographs of two classes, as noise, in four shapes."""
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        path = tmp_path / "images" / NAMES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "images"


@pytest.fixture(params=["imagenet", "compact"])
def trained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> VGG:
    """A network that every checkpoint holds."""
    built = network(request.param)
    subject = Trained(built, NAMES, INPUT, {})
    monkeypatch.setattr(extraction, "subject", lambda *_: subject)
    return built


def extracted(composed: Compose, folder: Path, output: Path, *overrides: str) -> files.Features:
    given = ("checkpoint=any", f"images={folder}", f"output={output}", "device=cpu", *overrides)
    extraction.extract_features(parse(composed("extract_features", *given), ExtractFeaturesConfig))
    return read_features(output)


@torch.no_grad()
def naive(built: VGG, image: torch.Tensor, scale: int) -> np.ndarray:
    """One image at one scale by loops and slices of the crop network, nothing of the dense form."""
    resized = functional.resize(image, [scale], antialias=True)
    activations = []
    for seen in (resized, resized.flip(2)):
        maps = built.features(INPUT.normalize(seen[None]))
        if built.head == "compact":
            activations.append(maps[0].flatten(1))
            continue
        windows = [
            maps[:, :, top : top + 7, left : left + 7]
            for top in range(maps.shape[2] - 6)
            for left in range(maps.shape[3] - 6)
        ]
        fc7 = [built.classifier[:5](window.flatten(1))[0] for window in windows]
        activations.append(torch.stack(fc7, 1))
    mean = torch.stack([a.mean(1) for a in activations]).mean(0)
    return (mean / mean.norm()).numpy()


@pytest.mark.parametrize("combine", ["average", "stack"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_features_are_those_of_a_loop_over_images(
    trained: VGG, folder: Path, composed: Compose, tmp_path: Path, combine: str, suffix: str
) -> None:
    settings = ("scales=[14,18]", f"combine={combine}", "batch_size=2")
    found = extracted(composed, folder, tmp_path / f"out{suffix}", *settings)
    assert found.paths == ["ant/0.png", "ant/2.png", "ant/4.png", "bee/1.png", "bee/3.png"]
    assert found.classes == NAMES
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    for values, path in zip(found.values, found.paths, strict=True):
        scales = [naive(trained, decode(folder / path), scale) for scale in (14, 18)]
        wanted = np.concatenate(scales) if combine == "stack" else scales[0] + scales[1]
        np.testing.assert_allclose(values, wanted / np.linalg.norm(wanted), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=1), 1, rtol=1e-5)
    assert found.values.std(0).max() > 1e-3  # the images differ


def test_the_papers_network_has_4096_numbers() -> None:
    with torch.device("meta"):
        built = build_vgg("D")
    assert extraction.descriptor_width(to_dense(built)) == 4096


def test_a_mirrored_image_has_the_same_descriptor() -> None:
    dense = to_dense(network("imagenet"))
    images = torch.randn(2, 3, 15, 19)
    torch.testing.assert_close(
        extraction.descriptors(dense, images), extraction.descriptors(dense, images.flip(3))
    )
    upside_down = extraction.descriptors(dense, images.flip(2))
    assert (extraction.descriptors(dense, images) - upside_down).abs().max() > 1e-4


@pytest.mark.parametrize("trained", ["compact"], indirect=True)
def test_the_scale_is_the_networks_own_unless_given(
    trained: VGG, folder: Path, composed: Compose, tmp_path: Path
) -> None:
    found = extracted(composed, folder, tmp_path / "out.npz").values
    np.testing.assert_allclose(
        found[0], naive(trained, decode(folder / "ant/0.png"), 16), atol=1e-5
    )


@pytest.mark.parametrize("trained", ["compact"], indirect=True)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_flat_folder_has_no_labels(
    trained: VGG, folder: Path, composed: Compose, tmp_path: Path, suffix: str
) -> None:
    found = extracted(composed, folder / "bee", tmp_path / f"out{suffix}")
    assert found.paths == ["1.png", "3.png"]
    assert found.labels is None
    assert found.classes == []


@pytest.mark.parametrize("trained", ["compact"], indirect=True)
def test_bad_input_is_one_line_and_leaves_the_old_output(
    trained: VGG, folder: Path, composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.npz"
    output.write_bytes(b"old")
    before = sorted(os.listdir(tmp_path))

    def refused(line: str, *overrides: str, images: Path = folder, to: Path = output) -> None:
        with pytest.raises(InputError, match=line):
            extracted(composed, images, to, *overrides)
        assert output.read_bytes() == b"old"
        assert sorted(os.listdir(tmp_path)) == before

    refused(r"scales=\[16, 16\]: one comes twice", "scales=[16,16]")
    refused(r"scales=\[1\]: the smallest side .* is 2", "scales=[1]")
    refused("must end in .npz or .safetensors", to=tmp_path / "out.txt")
    refused("in no folder that exists", to=tmp_path / "nowhere/out.npz")
    refused("no such folder", images=tmp_path / "nowhere")
    (folder / "bee/3.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    refused("bee/3.png: ")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    refused("are needed in")


@pytest.mark.parametrize("trained", ["compact"], indirect=True)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_skipped_image_has_no_row(
    trained: VGG, folder: Path, composed: Compose, tmp_path: Path, suffix: str
) -> None:
    whole = extracted(composed, folder, tmp_path / f"whole{suffix}")
    for broken in ("ant/0.png", "bee/1.png"):
        (folder / broken).write_bytes(b"")
    found = extracted(composed, folder, tmp_path / f"out{suffix}", "on_error=skip")
    assert found.paths == ["ant/2.png", "ant/4.png", "bee/3.png"]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1]
    # Other images share a batch now.
    np.testing.assert_allclose(found.values, whole.values[[1, 2, 4]], atol=1e-6)
    lines = read_skipped(tmp_path / "run")
    assert [line.partition("images/")[2] for line in lines] == [
        "ant/0.png: empty file",
        "bee/1.png: empty file",
    ]
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none can be read; .*ant/0\.png: empty file"):
        extracted(composed, folder, tmp_path / f"none{suffix}", "on_error=skip")
    assert not (tmp_path / f"none{suffix}").exists()


def test_activations_that_overflow_are_refused(folder: Path) -> None:
    dense = to_dense(network("compact"))
    batch = extraction.ShapeBatch(
        14, torch.tensor([0]), torch.zeros(1, 3, 14, 14, dtype=torch.uint8)
    )
    values = np.zeros((1, extraction.descriptor_width(dense)), np.float32)
    with pytest.raises(InputError, match="overflow"):
        extraction.fill(values, [batch], dense, lambda x: x / 0, scales=[14], combine="average")


def test_images_beside_classes_and_empty_folders_are_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no images"):
        list_images(folder)
    with pytest.raises(InputError, match="empty: no images in it"):
        list_images(folder / "empty")
    Image.new("RGB", (4, 4)).save(folder / "stray.png")
    with pytest.raises(InputError, match=r"images \(stray.png\) beside folders \(ant\)"):
        list_images(folder)


# Files.


def write(path: Path, values: Sequence[Sequence[float]]) -> None:
    names = [f"{number}.png" for number in range(len(values))]
    with create_features(path, len(values[0]), names, np.zeros(len(values), np.int64), ["é"]) as to:
        to[:] = values


def test_numpy_and_safetensors_read_the_files(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((7, 3), np.float32)
    for suffix in files.SUFFIXES:
        path = tmp_path / f"out{suffix}"
        write(path, values.tolist())
        assert path.stat().st_mode == (tmp_path / "out.npz").stat().st_mode
        found = read_features(path)
        np.testing.assert_array_equal(found.values, values)
        assert found.values.dtype == np.float32
        assert found.classes == ["é"]
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["features"], values)
        assert archive["labels"].dtype == np.int64
        assert archive["paths"].tolist() == [f"{number}.png" for number in range(7)]
        assert archive["classes"].tolist() == ["é"]
    np.testing.assert_array_equal(load_file(tmp_path / "out.safetensors")["features"], values)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_rows_that_are_left_out_are_as_if_they_had_not_been(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(0)
    values = generator.random((700, 2), np.float32)
    names = [f"{number}.png" for number in range(700)]
    labels = generator.integers(0, 3, 700)
    kept = np.flatnonzero(generator.random(700) < 0.8)
    left_out: set[int] = set()
    path = tmp_path / f"out{suffix}"
    with create_features(path, 2, names, labels, ["a", "b", "c"], left_out) as to:
        to[:] = values
        left_out.update(set(range(700)) - set(kept.tolist()))
    found = read_features(path)
    np.testing.assert_array_equal(found.values, values[kept])
    np.testing.assert_array_equal(found.labels, labels[kept])
    assert found.paths == [names[index] for index in kept]


class Stopped(list[list[float]]):
    """Values that nobody gets, because somebody presses Ctrl-C."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise KeyboardInterrupt


def test_a_run_that_dies_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    write(path, [[1.0, 2.0]])
    with pytest.raises(KeyboardInterrupt):
        write(path, Stopped([[3.0, 4.0]]))
    assert os.listdir(tmp_path) == ["out.npz"]
    assert read_features(path).values.tolist() == [[1, 2]]
    # Killed outright, no line of ours runs any more: nothing may have a name before the end.
    child = os.fork()
    if child == 0:
        with create_features(path, 2, ["a"], None, []) as values:
            values[:] = 3
            os.kill(os.getpid(), 9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert os.listdir(tmp_path) == ["out.npz"]
    assert read_features(path).values.tolist() == [[1, 2]]


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.npz"
    write(path, [[1.0, 2.0]])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"output=.*out.npz: No space left on device"):
        write(path, [[3.0, 4.0]])
    assert os.listdir(tmp_path) == ["out.npz"]
    assert read_features(path).values.tolist() == [[1, 2]]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_memory_does_not_grow_with_the_images(tmp_path: Path, suffix: str) -> None:
    """200 MB are written and read with less than a quarter of that in the process's own memory."""
    path, count, width = tmp_path / f"out{suffix}", 500, 100_000
    with watched() as peak:
        with create_features(path, width, ["x"] * count, None, []) as values:
            for row in range(count):
                values[row] = row
        assert read_features(path).values[-1, -1] == count - 1
    assert path.stat().st_size > 4 * count * width
    assert peak[0] < 50e6


class watched:  # noqa: N801 - used as a function
    """The most anonymous memory, bytes, that the process takes more while the block runs."""

    def __enter__(self) -> list[float]:
        self.start, self.peak, self.over = _anonymous(), [0.0], False
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self.peak

    def __exit__(self, *_: object) -> None:
        self.over = True
        self.thread.join()

    def _watch(self) -> None:
        while not self.over:
            self.peak[0] = max(self.peak[0], _anonymous() - self.start)
            time.sleep(0.001)


def _anonymous() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(float(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_torn_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for suffix in files.SUFFIXES:
        path = tmp_path / f"out{suffix}"
        with pytest.raises(InputError, match="no such file"):
            read_features(path)
        write(path, [[1.0, 2.0]] * 100)
        whole = path.read_bytes()
        for torn in (b"", whole[:50], whole[:-50], b"x" * 500):
            path.write_bytes(torn)
            with pytest.raises(InputError, match="torn, or not a file of features"):
                read_features(path)
    np.savez_compressed(tmp_path / "out.npz", features=np.zeros((2, 2)), paths=["a"], classes=["b"])
    with pytest.raises(InputError, match="uncompressed"):
        read_features(tmp_path / "out.npz")
    values = np.zeros((2, 2), np.float32)
    np.savez(tmp_path / "out.npz", features=values, paths=["a"], classes=["b"])
    with pytest.raises(InputError, match="do not belong together"):
        read_features(tmp_path / "out.npz")
    with pytest.raises(InputError, match="must end in"):
        read_features(tmp_path / "out.txt")


# Documentation.

DOCUMENTED = commands((ROOT / "docs/features.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", DOCUMENTED, ids=lambda c: " ".join([c[0], *c[1]])[:80])
def test_a_documented_command_composes(command: tuple[str, list[str]], composed: Compose) -> None:
    name, arguments = command
    schemas = {"extract_features": ExtractFeaturesConfig, "linear_probe": LinearProbeConfig}
    assert parse(composed(name, *arguments), schemas[name])


def test_weights_go_into_a_model(composed: Compose) -> None:
    given = ("weights=IMAGENET1K_V1", "model=vgg16", "images=a", "output=b.npz")
    job = parse(composed("extract_features", *given), ExtractFeaturesConfig)
    assert isinstance(job.model, Network)
