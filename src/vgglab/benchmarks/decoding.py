"""What one core makes of encoded images: vgglab's decoders and crops against torchvision's.

The images are in memory and everything runs in this process, all ways in turn, so that a change in
the machine's speed meets them all. What is timed is `BatchMaker`, which training runs.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torchvision
from PIL import Image, ImageOps
from rich.table import Table
from torch import Tensor
from torchvision import transforms

from vgglab.benchmarks.clock import one_thread
from vgglab.benchmarks.loading.reference import Transform, file_crop, open_image
from vgglab.benchmarks.spread import measured_table, with_spread
from vgglab.config.benchmark_jobs import DecodingBenchmark
from vgglab.data.batches import Batch, BatchMaker, Source
from vgglab.data.cropping import Cut, TrainCrop
from vgglab.data.decoding import CpuDecoder, image_size, read_file
from vgglab.data.finding import find_images
from vgglab.data.shards.recipe import Recipe
from vgglab.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vgglab.progress import each
from vgglab.reporting.environment import environment

_SIZE = (224, 224)  # the network's input, the paper's section 2.1
_SCALE = 256  # the paper's S = Q, and the shortest side of the images that were resized before
_QUALITY = 90
_BATCH = 50  # images
_CROPS: dict[str, TrainCrop] = {
    "RandomResizedCrop(224)": "random_resized",
    "S = 256, random crop": "random",
    "evaluation, 256": "none",
}
_STORED = {"original": "original", "resized": f"{_SCALE} q{_QUALITY}"}


@dataclass(frozen=True)
class Way:
    """One way to make batches of images, measured round by round."""

    crop: str
    stored: str
    """`original` or `resized`; of the reference always `original`."""
    decoder: str
    images_per_second: list[float]
    ratio: list[float]
    """To the reference for the same crop of the original bytes."""
    difference: float
    """Mean over all pixels from Pillow's for the same cut of the same bytes, grey levels."""


@dataclass(frozen=True)
class DecodingSpeed:
    """All ways, the reference of each crop first."""

    images: int
    megapixels: float
    """Of an image, mean."""
    kilobytes: dict[str, float]
    """Of an image, mean, as it is stored."""
    ways: list[Way]
    rounds: int
    load: list[float]
    """The machine's load average over a minute, before each round: others' work slows all."""
    cpu: str
    torch: str
    torchvision: str

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON; the ratios' medians, too."""
        ways = [{**asdict(w), "median_ratio": statistics.median(w.ratio)} for w in self.ways]
        return {**asdict(self), "ways": ways}

    def table(self) -> Table:
        """A section for each crop; 80 columns suffice."""
        caption = (
            f"one core's time, {self.images} images in memory, {self.megapixels:.2f} megapixels,\n"
            f"{self.kilobytes['original']:.0f} KB an image"
            f" ({self.kilobytes['resized']:.0f} KB at shortest side {_SCALE}, q{_QUALITY});\n"
            "ratio: to torchvision's transforms with Pillow from the original bytes;\n"
            "diff.: mean grey levels from Pillow's for the same cut;\n"
            f"median (lowest to highest) of {self.rounds} rounds; {self.cpu},\n"
            f"torch {self.torch}, torchvision {self.torchvision},\n"
            f"load average {min(self.load):.1f} to {max(self.load):.1f}"
        )
        table = measured_table("images/s", caption)
        table.add_column("ratio", justify="right")
        table.add_column("diff.", justify="right")
        crop = ""
        for way in self.ways:
            if way.crop != crop:
                crop = way.crop
                table.add_section()
                table.add_row(crop)
            is_reference = way.decoder == "reference"
            table.add_row(
                "  reference" if is_reference else f"  {_STORED[way.stored]}, {way.decoder}",
                with_spread(way.images_per_second, 0),
                "" if is_reference else with_spread(way.ratio, 2),
                "" if is_reference else f"{way.difference:.2f}",
            )
        return table


def measure_decoding(job: DecodingBenchmark) -> DecodingSpeed:
    """Time every crop of every form of the images by every decoder that is installed.

    Raises:
        InputError: there are no images, or one of them cannot be read.
    """
    files = find_images(job.images)
    count = min(job.limit, len(files))
    files = [files[i * len(files) // count] for i in range(count)]
    names = [str(file) for file in files]
    original = [read_file(file) for file in files]
    recipe = Recipe(_SCALE, _QUALITY)  # as scripts/shard_dataset.py
    encoded = {
        "original": original,
        "resized": [
            recipe.stored(data, name)
            for data, name in zip(original, each(names, "resize", unit="images"), strict=True)
        ],
    }
    runs = list(_runs(encoded, names, job.seed))
    turns = range(job.rounds + 1)
    rates: list[list[float]] = [[] for _ in runs]
    load = []
    with one_thread():
        for turn in each(turns, "rounds", unit="rounds"):
            load.append(os.getloadavg()[0])
            for measured, seconds in zip(rates, _round(runs, count, turn), strict=True):
                measured.append(count / seconds)
    rates = [measured[1:] for measured in rates]  # the first was the warm-up
    references = {
        run.crop: of for run, of in zip(runs, rates, strict=True) if run.decoder == "reference"
    }
    return DecodingSpeed(
        images=count,
        megapixels=statistics.mean(math.prod(image_size(file)) for file in files) / 1e6,
        kilobytes={k: statistics.mean(map(len, of)) / 1e3 for k, of in encoded.items()},
        ways=[
            Way(
                *(run.crop, run.stored, run.decoder, of),
                ratio=[a / b for a, b in zip(of, references[run.crop], strict=True)],
                difference=run.difference(),
            )
            for run, of in zip(runs, rates, strict=True)
        ],
        rounds=job.rounds,
        load=load[1:],
        cpu=environment()["hardware"]["cpu"],
        torch=torch.__version__,
        torchvision=torchvision.__version__,
    )


@dataclass(frozen=True)
class _Run:
    crop: str
    stored: str
    decoder: str
    make: Callable[[slice, int], object]
    """One batch, of some of the images, by the numbers of an epoch."""
    difference: Callable[[], float]


def _round(runs: Sequence[_Run], count: int, turn: int) -> list[float]:
    """Seconds of the processor that each run takes for all images, batch by batch in turn.

    Others may take the processor away meanwhile, which the time on the clock would count.
    """
    seconds = [0.0] * len(runs)
    for start in range(0, count, _BATCH):
        for i, run in enumerate(runs):
            begun = time.process_time()
            run.make(slice(start, start + _BATCH), turn)
            seconds[i] += time.process_time() - begun
    return seconds


def _runs(encoded: dict[str, list[bytes]], names: Sequence[str], seed: int) -> Iterator[_Run]:
    decoders: list[CpuDecoder] = ["torchvision"]
    if find_spec("simplejpeg") is not None:
        decoders.append("simplejpeg")
    preprocessing = Preprocessing(IMAGENET_MEAN, IMAGENET_STD, _SIZE, _SCALE, (_SCALE, _SCALE))
    for crop, kind in _CROPS.items():
        steps = [*file_crop(kind, _SIZE, (_SCALE, _SCALE)), transforms.PILToTensor()]
        make: Callable[[slice, int], object] = partial(
            _make_reference, encoded["original"], transforms.Compose(steps)
        )
        yield _Run(crop, "original", "reference", make, lambda: 0.0)
        for stored, data in encoded.items():
            sources = [
                Source(i, 0, name, partial(bytes, content))
                for i, (name, content) in enumerate(zip(names, data, strict=True))
            ]
            for decoder in decoders:
                maker = BatchMaker(preprocessing.cropping(kind), seed, decoder)
                make = partial(_make, maker, sources)
                yield _Run(crop, stored, decoder, make, partial(difference, maker, sources))


def _make_reference(
    data: Sequence[bytes], transform: Transform, which: slice, epoch: int
) -> Tensor:
    return torch.stack([transform(open_image(content)) for content in data[which]])


def _make(maker: BatchMaker, sources: Sequence[Source], which: slice, epoch: int) -> Batch:
    return maker(sources[which], epoch)


def difference(maker: BatchMaker, sources: Sequence[Source]) -> float:
    """Mean over all pixels of a batch from what Pillow makes of the same cuts, grey levels."""
    images = maker(sources, 0).images
    differences = []
    for image, (source, numbers) in zip(images, maker.draw(sources, 0), strict=True):
        picture = ImageOps.exif_transpose(open_image(source.read()))
        cut = maker.cropping.cut(picture.height, picture.width, numbers)
        differences.append((image.float() - cut_by_pillow(picture, cut).float()).abs().mean())
    return float(torch.stack(differences).mean())


def cut_by_pillow(image: Image.Image, cut: Cut) -> Tensor:
    """(3, crop_height, crop_width) uint8; the region's sides are whole pixels."""
    region = image.crop((cut.left, cut.top, cut.left + cut.width, cut.top + cut.height))
    size = (cut.resized_width, cut.resized_height)
    resized = region.resize(size, Image.Resampling.BILINEAR)
    right, bottom = cut.crop_left + cut.crop_width, cut.crop_top + cut.crop_height
    crop = resized.crop((cut.crop_left, cut.crop_top, right, bottom))
    return transforms.functional.pil_to_tensor(crop)
