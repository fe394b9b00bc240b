"""Trained networks on test images: the passes that Tables 3 to 7 need, each made once and kept."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from vgglab.config.jobs import PaperTablesConfig
from vgglab.data import ImageDataModule, ImageFolder, ImageNet
from vgglab.data.images import ImageSet
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.protocols import (
    Member,
    find_device,
    paper_scales,
    posteriors,
    score,
    smallest_scale,
)
from vgglab.evaluation.trained import IMAGENET_CLASSES, data_of, load_trained
from vgglab.files import digest
from vgglab.networks import VGG
from vgglab.progress import each
from vgglab.reporting.terminal import console
from vgglab.tables import paper
from vgglab.tables.cache import PosteriorCache, images_digest
from vgglab.text import plural

Mode = Literal["dense", "multi_crop"]
"""The protocols of a single pass; from them the others follow."""
Evaluation = Literal["dense", "multi_crop", "dense_multi_crop"]
WORDS: dict[Evaluation, str] = {
    "dense": "dense",
    "multi_crop": "multi-crop",
    "dense_multi_crop": "both",
}


@dataclass(frozen=True)
class MeasuredNetwork:
    """A checkpoint in the tables."""

    path: Path
    digest: str
    """SHA-256 of the file."""
    network: VGG
    preprocessing: Preprocessing
    label: str
    """The paper's column, `-BN` with batch norm, and a number where two would look the same."""

    @property
    def train_scale(self) -> str:
        """The paper's S; empty where images were not rescaled isotropically."""
        if self.preprocessing.train_scale is None:
            return ""
        smallest, largest = self.preprocessing.train_scale
        return str(smallest) if smallest == largest else f"[{smallest};{largest}]"

    @property
    def name(self) -> str:
        return f"{self.label} {self.train_scale}".rstrip()

    @property
    def papers(self) -> paper.Net | None:
        """The paper's name for it; None where another network or another input was trained."""
        scale = self.preprocessing.train_scale
        if _changes(self.network) or self.preprocessing.size != (224, 224) or scale is None:
            return None
        return paper.Net(self.network.column, scale)

    @cached_property
    def smallest_scale(self) -> dict[Mode, int]:
        """The shortest side that it can take whole, and for its crops; pixels."""
        member = Member(self.network, self.preprocessing, ())
        return {mode: smallest_scale(member, mode) for mode in get_args(Mode)}

    def scales(self, mode: Mode, *, several: bool) -> list[int]:
        """The paper's test scales Q, one or three, less those that are too small for the network.

        Raises:
            InputError: none is left.
        """
        wanted = paper_scales(self.preprocessing, several=several)
        found = [scale for scale in wanted if scale >= self.smallest_scale[mode]]
        if not found:
            raise InputError(
                f"checkpoints: {self.path} cannot be tested {WORDS[mode]} at Q = {listed(wanted)}, "
                f"its network needs a shortest side of {self.smallest_scale[mode]} pixels"
            )
        return found

    def left_out(self, modes: Sequence[Mode]) -> list[str]:
        """A sentence for each of the several scales that is too small for one of the modes."""
        sentences = []
        for scale in paper_scales(self.preprocessing, several=True):
            missing = [WORDS[m] for m in modes if scale not in self.scales(m, several=True)]
            if missing:
                what = " and no ".join(missing)
                sentences.append(f"{self.name}: no {what} at Q = {scale}, too small for it.")
        return sentences

    @property
    def source(self) -> str:
        """What differs from the paper's column, and the file."""
        differences = _changes(self.network)
        what = f"{', '.join(differences)}; " if differences else ""
        return f"{what}{self.path} (SHA-256 {self.digest[:12]})"


@dataclass(frozen=True)
class Measurements:
    """Networks on the test images of one data source."""

    networks: Sequence[MeasuredNetwork]
    images: ImageSet
    data: str
    """The source in words."""
    is_imagenet: bool
    cache: PosteriorCache
    cache_key: str
    """What posteriors depend on besides network, mode and scale."""
    run_pass: Callable[[MeasuredNetwork, Mode, int], Tensor]
    """A network in one mode at one scale: (images, classes) posteriors."""
    unread: set[int] = field(default_factory=set)
    """Images that could not be read, known once a pass is made (data.on_error=skip)."""

    def errors(
        self, networks: Sequence[MeasuredNetwork], evaluation: Evaluation, *, several: bool = True
    ) -> paper.Errors:
        """Of the mean of the networks' posteriors, over one or several test scales."""
        mean = _mean(self._posteriors(network, evaluation, several) for network in networks)
        self.unread.update(mean.isnan().any(1).nonzero()[:, 0].tolist())
        result = score(mean, self.images.labels)
        return paper.Errors(*(100 * (1 - result[f"test/top{k}"]) for k in (1, 5)))

    def papers(self, figures: paper.Errors | None) -> paper.Errors:
        """The paper's figures where they can be compared, else none."""
        return figures if figures and self.is_imagenet else paper.Errors(None, None)

    def notes(self, *modes: Mode) -> list[str]:
        """Why figures are missing, and what was left out of `modes`."""
        left_out = [sentence for network in self.networks for sentence in network.left_out(modes)]
        if broken := len(self.unread) + len(self.images.skipped):
            left_out.append(f"{plural(broken, 'image')} that cannot be read: left out.")
        if not self.is_imagenet:
            return ["The paper's figures are left out: they are for ImageNet.", *left_out]
        others = [network.name for network in self.networks if network.papers is None]
        return [*(f"{name}: the paper has no such network." for name in others), *left_out]

    @property
    def sources(self) -> dict[str, str]:
        """The tested files by the networks' names."""
        return {network.name: network.source for network in self.networks}

    def _posteriors(
        self, network: MeasuredNetwork, evaluation: Evaluation, several: bool
    ) -> Tensor:
        modes: list[Mode] = [mode for mode in get_args(Mode) if mode in evaluation]
        return _mean(
            _mean(self._pass(network, mode, q) for q in network.scales(mode, several=several))
            for mode in modes
        )

    def _pass(self, network: MeasuredNetwork, mode: Mode, scale: int) -> Tensor:
        return self.cache.get(
            f"{mode}-{scale}-{network.digest[:16]}-{self.cache_key}",
            (len(self.images), network.network.num_classes),
            lambda: self.run_pass(network, mode, scale),
        )


def open_measurements(job: PaperTablesConfig) -> Measurements:
    """Everything loaded and checked, nothing computed yet.

    Raises:
        InputError: the checkpoints do not fit the tables, the data or each other.
    """
    device = find_device(job.device)
    trained = [
        load_trained(Path(file), job.allowed_targets)
        for file in each(job.checkpoints, "read checkpoints", unit="files")
    ]
    section = job.data or data_of(trained[0])
    data: ImageDataModule = section.checked("data", job.allowed_targets).build("data")
    rows: Counter[str] = Counter()
    networks = []
    for file, its in zip(job.checkpoints, trained, strict=True):
        if not isinstance(its.network, VGG):
            kind = type(its.network).__name__
            raise InputError(f"checkpoints: {file} holds a {kind}, none of the paper's networks")
        if list(its.classes) != list(data.classes):
            raise InputError(
                f"checkpoints: {file} was trained on {len(its.classes)} classes, which are not "
                f"the {len(data.classes)} of {'data' if job.data else job.checkpoints[0]}"
            )
        label = its.network.column + ("-BN" if its.network.batch_norm else "")
        row = f"{label} {its.preprocessing.train_scale}"
        rows[row] += 1
        number = f" ({rows[row]})" if rows[row] > 1 else ""
        path = Path(file)
        networks.append(
            MeasuredNetwork(path, digest(path), its.network, its.preprocessing, label + number)
        )
    _check_scales(networks, job.table)
    data.prepare_data()
    data.setup("test")
    images = data.sets["test"]

    def run_pass(network: MeasuredNetwork, mode: Mode, scale: int) -> Tensor:
        console.print(f"{network.name}: {WORDS[mode]}, Q = {scale}", highlight=False)
        return posteriors(
            [Member(network.network, network.preprocessing, [scale])],
            images,
            mode,
            device=device,
            precision=job.precision,
            batch_size=job.batch_size or data.batch_size,
            num_workers=data.num_workers,
            skipped={} if data.on_error == "skip" else None,
        )

    return Measurements(
        networks=networks,
        images=images,
        data=_described(data, images),
        is_imagenet=isinstance(data, ImageNet) and len(data.classes) == IMAGENET_CLASSES,
        cache=PosteriorCache(Path(job.cache)),
        cache_key=f"{images_digest(images)[:16]}-{job.precision}",
        run_pass=run_pass,
    )


def listed(scales: Sequence[int]) -> str:
    return ", ".join(map(str, scales))


def _check_scales(networks: Sequence[MeasuredNetwork], tables: Sequence[int]) -> None:
    """Refuse before the first pass what a later one could not do."""
    for network in networks:
        network.scales("dense", several=3 not in tables)
        if max(tables) > 4:
            network.scales("multi_crop", several=True)


def _changes(network: VGG) -> list[str]:
    """What makes it another network than its column of Table 1."""
    return [
        *(["batch norm"] if network.batch_norm else []),
        *([f"width {network.width:g}"] if network.width != 1 else []),
        *([f"{network.head} head"] if network.head != "imagenet" else []),
        *([f"{network.max_pools} pools"] if network.max_pools != 5 else []),
    ]


def _described(data: ImageDataModule, images: ImageSet) -> str:
    # Of the others the class says which images they are.
    folder = f" ({data.tree.name})" if type(data) is ImageFolder else ""
    return f"{len(images):,} test images of {type(data).__name__}{folder}"


def _mean(tensors: Iterable[Tensor]) -> Tensor:
    """One after the other, so that few are in memory: on ImageNet each takes 200 MB."""
    total, count = torch.zeros(()), 0
    for tensor in tensors:
        total, count = total + tensor, count + 1
    return total / count
