"""The paper's test protocols, against plain loops over crops and images."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from vgglab.config.jobs import EvaluationProtocol
from vgglab.data.images import ImageSet, TensorImages
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.protocols import (
    Member,
    find_device,
    paper_scales,
    passes,
    posteriors,
    score,
)
from vgglab.networks import VGG, build_vgg

CPU = torch.device("cpu")
CLASSES = 5
# Small networks: with two pools the imagenet head takes 28 pixels, the compact one 4 and more.
INPUT = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), (28, 28), 32)


class Photos(ImageSet):
    """Noise of many sizes."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.pixels = [
            torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes
        ]
        self.labels = torch.arange(len(sizes)) % CLASSES
        self.classes = [f"class {label}" for label in range(CLASSES)]

    def image(self, index: int) -> Tensor:
        return self.pixels[index]

    def subset(self, indices: Tensor) -> "Photos":
        chosen = Photos([])
        chosen.pixels = [self.pixels[index] for index in indices]
        chosen.labels = self.labels[indices]
        return chosen


MIXED = Photos([(40, 50), (50, 40), (33, 33), (40, 50), (36, 70), (50, 40)])


def vgg(head: str = "imagenet", seed: int = 0) -> VGG:
    torch.manual_seed(seed)
    network = build_vgg(
        "A",
        num_classes=CLASSES,
        width=0.05,
        head=head,  # type: ignore[arg-type]
        max_pools=2,
        dropout=0.9,
        batch_norm=True,
    )
    for module in network.modules():  # otherwise all posteriors are nearly equal
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.0)
    return network.train()  # whatever mode it comes in, dropout must not act


def found(
    protocol: EvaluationProtocol,
    *members: Member,
    images: ImageSet = MIXED,
    batch_size: int = 4,
    precision: str = "32-true",
) -> Tensor:
    return posteriors(
        members, images, protocol, device=CPU, precision=precision, batch_size=batch_size
    )


def shown(index: int, scale: int, preprocessing: Preprocessing = INPUT) -> Tensor:
    """One image as the network sees it, (1, 3, h, w), with numpy's arithmetic."""
    resized = v2.Resize(scale, antialias=True)(MIXED.pixels[index]).numpy()
    mean, std = (np.array(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    return torch.from_numpy((resized / 255 - mean) / std).float()[None]


@torch.no_grad()
def answer(network: VGG, image: Tensor) -> Tensor:
    return network.eval()(image).softmax(1)[0]


def mirrored(image: Tensor) -> Tensor:
    return torch.from_numpy(image.numpy()[..., ::-1].copy())


def fifty_crops(network: VGG, image: Tensor) -> Tensor:
    answers = []
    for top in np.linspace(0, image.shape[2] - 28, 5).round().astype(int):
        for left in np.linspace(0, image.shape[3] - 28, 5).round().astype(int):
            crop = image[:, :, top : top + 28, left : left + 28]
            answers += [answer(network, crop), answer(network, mirrored(crop))]
    assert len(answers) == 50
    return torch.stack(answers).mean(0)


def test_center_crop_is_one_crop_unmirrored() -> None:
    network = vgg()
    result = found("center_crop", Member(network, INPUT, [34]))
    for index in range(len(MIXED)):
        image = shown(index, 34)
        # Of an odd margin the smaller half, or as Python rounds a half.
        top, left = (round((side - 28) / 2) for side in image.shape[2:])
        crop = image[:, :, top : top + 28, left : left + 28]
        torch.testing.assert_close(result[index], answer(network, crop))


@pytest.mark.parametrize("head", ["imagenet", "compact"])
def test_dense_equals_the_crop_network_where_they_see_the_same(head: str) -> None:
    """At 28 pixels a square image is its only crop: image and mirror image are averaged."""
    network = vgg(head)
    images = TensorImages(MIXED.pixels[2][None, :, :28, :28], torch.tensor([0]), MIXED.classes)
    result = found("dense", Member(network, INPUT, [28]), images=images)
    image = INPUT.normalize(images.images)
    expected = (answer(network, image) + answer(network, mirrored(image))) / 2
    torch.testing.assert_close(result[0], expected)


def test_dense_averages_class_scores_over_all_windows_then_takes_the_softmax() -> None:
    network = vgg().eval()
    result = found("dense", Member(network, INPUT, [36]))
    for index in range(len(MIXED)):
        image, answers = shown(index, 36), []
        for view in (image, mirrored(image)):
            with torch.no_grad():
                maps = network.features(view)
                windows = [
                    network.classifier(maps[:, :, i : i + 7, j : j + 7].flatten(1))
                    for i in range(maps.shape[2] - 6)
                    for j in range(maps.shape[3] - 6)
                ]
            assert len(windows) >= 9
            answers.append(torch.cat(windows).mean(0).softmax(0))
        torch.testing.assert_close(result[index], (answers[0] + answers[1]) / 2)


def test_dense_with_the_compact_head_is_the_network_on_the_whole_image() -> None:
    network = vgg("compact")
    result = found("dense", Member(network, INPUT, [20]))  # below the crop, which plays no part
    for index in range(len(MIXED)):
        image = shown(index, 20)
        expected = (answer(network, image) + answer(network, mirrored(image))) / 2
        torch.testing.assert_close(result[index], expected)


def test_multi_crop_is_the_mean_of_fifty_crops() -> None:
    network = vgg()
    images = MIXED.subset(torch.tensor([0, 2, 3]))
    expected = torch.stack([fifty_crops(network, shown(index, 33)) for index in (0, 2, 3)])
    for batch_size in (1, 64):
        member = Member(network, INPUT, [33])
        result = found("multi_crop", member, images=images, batch_size=batch_size)
        torch.testing.assert_close(result, expected)


def test_both_is_the_mean_of_dense_and_multi_crop() -> None:
    member, images = Member(vgg(), INPUT, [32]), MIXED.subset(torch.tensor([0, 1]))
    dense, crops, both = (
        found(protocol, member, images=images, batch_size=64)
        for protocol in ("dense", "multi_crop", "dense_multi_crop")
    )
    assert (dense - crops).abs().max() > 1e-3
    torch.testing.assert_close(both, (dense + crops) / 2)


def test_scales_are_averaged() -> None:
    network = vgg()
    single = [found("dense", Member(network, INPUT, [scale])) for scale in (28, 36, 44)]
    several = found("dense", Member(network, INPUT, [44, 28, 36]))
    assert (single[0] - single[2]).abs().max() > 1e-3
    torch.testing.assert_close(several, sum(single) / 3)


def test_fusion_is_the_mean_of_the_networks_each_with_its_own_input_and_scales() -> None:
    other_input = Preprocessing((0.1, 0.1, 0.1), (1.0, 0.5, 0.9), (20, 20))
    one = Member(vgg(), INPUT, [28, 36])
    two = Member(vgg("compact", seed=1), other_input, [36])
    for protocol in ("center_crop", "dense"):
        alone = [found(protocol, one), found(protocol, two)]
        assert (alone[0] - alone[1]).abs().max() > 1e-2
        torch.testing.assert_close(found(protocol, one, two), (alone[0] + alone[1]) / 2)


def test_batches_of_mixed_sizes_equal_one_image_at_a_time() -> None:
    member = Member(vgg(), INPUT, [30, 40])
    together, alone = found("dense", member, batch_size=16), found("dense", member, batch_size=1)
    assert together.shape == (len(MIXED), CLASSES)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together.sum(1), torch.ones(len(MIXED)))


def test_half_precision_agrees() -> None:
    member = Member(vgg("compact"), INPUT, [32])
    full, half = (found("dense", member, precision=p) for p in ("32-true", "bf16-mixed"))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, atol=0.05, rtol=0)


def test_the_network_can_still_be_trained() -> None:
    network = vgg("compact")
    found("dense_multi_crop", Member(network, INPUT, [32]))
    network.train()(shown(0, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_what_cannot_work_is_refused_before_an_image_is_decoded() -> None:
    class Undecodable(Photos):
        def image(self, index: int) -> Tensor:
            raise AssertionError

    images = Undecodable([(40, 40)])
    compact, stranger = vgg("compact"), nn.Flatten()
    grey = Preprocessing((0.5,), (0.5,), (28, 28))
    refused: list[tuple[EvaluationProtocol, list[Member], str]] = [
        ("dense", [Member(vgg(), INPUT, [32, 27])], "27 is too small.*at least 28"),
        ("dense", [Member(compact, INPUT, [3])], "3 is too small.*at least 4"),
        ("multi_crop", [Member(compact, INPUT, [27])], "27 is too small.*at least 28"),
        ("center_crop", [Member(compact, INPUT, [27])], "27 is too small.*at least 28"),
        ("dense_multi_crop", [Member(compact, INPUT, [27])], "27 is too small.*at least 28"),
        ("dense", [Member(stranger, INPUT, [32])], "dense form of a VGG, and Flatten has none"),
        ("dense", [Member(compact, INPUT, [32]), Member(compact, grey, [32])], "grey and for RGB"),
    ]
    for protocol, members, message in refused:
        with pytest.raises(InputError, match=message):
            found(protocol, *members, images=images)


def test_full_size_networks_need_224_pixels() -> None:
    preprocessing = Preprocessing(INPUT.mean, INPUT.std, (224, 224), 256)
    network = build_vgg("A", width=0.02)
    with pytest.raises(InputError, match=r"223 is too small.*at least 224"):
        found("dense", Member(network, preprocessing, [223]))


def test_an_oblong_crop_must_fit_into_every_image() -> None:
    oblong = Preprocessing(INPUT.mean, INPUT.std, (28, 40))
    member = Member(vgg("compact"), oblong, [28])
    assert found("multi_crop", member, images=Photos([(28, 40)])).shape == (1, CLASSES)
    for protocol in ("center_crop", "multi_crop"):
        with pytest.raises(InputError, match="40 x 28 pixels is too small"):
            found(protocol, member, images=Photos([(40, 28)]))


def test_scores_are_the_textbooks() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 7, generator=generator), torch.arange(40) % 7
    result = score(logits.softmax(1), labels)
    ranked = logits.argsort(1, descending=True).numpy()
    hit = ranked == labels.numpy()[:, None]
    assert set(result) == {"test/top1", "test/top5", "test/loss"}
    assert result["test/top1"] == pytest.approx(hit[:, 0].mean())
    assert result["test/top5"] == pytest.approx(hit[:, :5].any(1).mean())
    assert result["test/loss"] == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)


def test_a_posterior_of_zero_has_a_finite_loss() -> None:
    result = score(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert result["test/loss"] == pytest.approx(126 * np.log(2))  # float32's smallest: 2^-126


# Section 4: Q = S, {S-32, S, S+32}; for jitter the middle and {Smin, middle, Smax}. The last two
# scale with the input: CIFAR's 32 is a seventh of 224.
@pytest.mark.parametrize(
    ("size", "resize", "train_scale", "one", "several"),
    [
        (224, 256, (256, 256), 256, [224, 256, 288]),
        (224, 384, (384, 384), 384, [352, 384, 416]),
        (224, 384, (256, 512), 384, [256, 384, 512]),
        (224, 256, None, 256, [224, 256, 288]),
        (32, None, None, 32, [28, 32, 36]),
        (32, 40, (32, 48), 40, [32, 40, 48]),
    ],
)
def test_scales_are_the_papers(
    size: int,
    resize: int | None,
    train_scale: tuple[int, int] | None,
    one: int,
    several: list[int],
) -> None:
    preprocessing = Preprocessing(INPUT.mean, INPUT.std, (size, size), resize, train_scale)
    assert paper_scales(preprocessing, several=False) == [one]
    assert paper_scales(preprocessing, several=True) == several


def test_passes_are_counted_as_in_the_paper() -> None:
    assert passes("center_crop", 1) == "1 crop"
    assert passes("multi_crop", 3) == "150 crops"  # section 3.2
    assert passes("dense", 3) == "6 whole images"
    assert passes("dense_multi_crop", 1) == "50 crops and 2 whole images"


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
