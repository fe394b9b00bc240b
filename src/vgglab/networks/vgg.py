"""The six networks of the paper's Table 1, and one of section 4.1: one table, one class."""

from typing import Literal, NamedTuple

from torch import Tensor, nn

Name = Literal[
    "vgg11",
    "vgg11_lrn",
    "vgg13",
    "vgg16_1x1",
    "vgg16",
    "vgg19",
    "vgg13_5x5",
    "A",
    "A-LRN",
    "B",
    "C",
    "D",
    "E",
    "B-5x5",
]
Head = Literal["imagenet", "compact"]
Init = Literal["kaiming", "paper", "glorot"]


class Column(NamedTuple):
    """A column of Table 1, or a variant of one."""

    letter: str
    kernels: tuple[tuple[int, ...], ...]
    """For each of the five stages, the kernel size of each convolution."""
    lrn: bool = False
    """Local response normalisation after the first convolution's ReLU."""


STAGE_CHANNELS = (64, 128, 256, 512, 512)

CONFIGURATIONS = {
    "vgg11": Column("A", ((3,), (3,), (3, 3), (3, 3), (3, 3))),
    "vgg11_lrn": Column("A-LRN", ((3,), (3,), (3, 3), (3, 3), (3, 3)), lrn=True),
    "vgg13": Column("B", ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))),
    "vgg16_1x1": Column("C", ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))),
    "vgg16": Column("D", ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))),
    "vgg19": Column("E", ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))),
    # Not in Table 1: section 4.1 replaces each pair of B's by one 5x5, and loses 7 points of top-1.
    "vgg13_5x5": Column("B-5x5", ((5,), (5,), (5,), (5,), (5,))),
}

DENSE_INPUT = 7  # side of the map that the first dense layer takes: 224 / 2^5 (five pools)


class VGG(nn.Module):
    """One network of Table 1; made by `build_vgg`, which describes the arguments.

    Calling it takes images (N, in_channels, H, W), normalised floats, and returns logits
    (N, num_classes), never probabilities. Sides from `smallest_image` pixels up are accepted;
    smaller ones raise a ValueError.
    """

    name: str
    """The canonical name: a letter of the paper is resolved."""
    smallest_image: int
    """Shortest accepted side in pixels: each pool halves it, rounding down, and 1 must be left."""
    inherited: list[str]
    """The layers that `initialise_from` took from a trained column A; empty otherwise."""

    def __init__(
        self,
        name: Name,
        *,
        num_classes: int,
        batch_norm: bool,
        head: Head,
        dropout: float,
        in_channels: int,
        width: float,
        max_pools: int | None,
        init: Init,
    ) -> None:
        super().__init__()
        self.name = _canonical(name)
        self.column = CONFIGURATIONS[self.name].letter
        self.num_classes = num_classes
        self.batch_norm = batch_norm
        self.head = head
        self.dropout = dropout
        self.in_channels = in_channels
        self.width = width
        self.max_pools = len(STAGE_CHANNELS) if max_pools is None else max_pools
        self.init = init
        self.smallest_image = 2**self.max_pools
        self.inherited = []
        self.features = self._features()
        self.avgpool: nn.Module
        if head == "imagenet":
            self.avgpool, self.classifier = _PoolToDenseInput(DENSE_INPUT), self._imagenet_head()
        elif head == "compact":
            self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(1), self._compact_head()
        else:
            raise ValueError(f"head={head!r}; choices: imagenet, compact")
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        check_size(images, self.smallest_image)
        return self.classifier(self.avgpool(self.features(images)).flatten(1))

    def _channels(self, count: int) -> int:
        return max(1, round(count * self.width))

    def _features(self) -> nn.Sequential:
        column = CONFIGURATIONS[self.name]
        layers: list[nn.Module] = []
        before = self.in_channels
        for stage, (kernels, count) in enumerate(zip(column.kernels, STAGE_CHANNELS, strict=True)):
            channels = self._channels(count)
            for kernel in kernels:
                layers.append(nn.Conv2d(before, channels, kernel, padding=kernel // 2))
                if self.batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU(inplace=True))
                before = channels
                if column.lrn and stage == 0:
                    # Within the ReLU's number: the keys stay those of column A, which has the same
                    # parameters, so each loads the other's weights.
                    layers.append(nn.Sequential(layers.pop(), _krizhevsky_lrn()))
            layers.append(nn.MaxPool2d(2, 2) if stage < self.max_pools else SkippedPool())
        return nn.Sequential(*layers)

    def _imagenet_head(self) -> nn.Sequential:
        hidden = self._channels(4096)
        return nn.Sequential(
            nn.Linear(self._channels(STAGE_CHANNELS[-1]) * DENSE_INPUT**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(self.dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(self.dropout),
            nn.Linear(hidden, self.num_classes),
        )

    def _compact_head(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(self._channels(STAGE_CHANNELS[-1]), self.num_classes),
        )

    def _initialise(self) -> None:
        for module in self.modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            if self.init == "paper":
                nn.init.normal_(module.weight, std=0.1)  # section 3.1: variance 1e-2
            elif self.init == "glorot":
                nn.init.xavier_uniform_(module.weight)
            elif self.init != "kaiming":
                raise ValueError(f"init={self.init!r}; choices: kaiming, paper, glorot")
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.normal_(module.weight, std=0.01)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def check_size(images: Tensor, smallest: int) -> None:
    """Raise a ValueError where a side of (N, C, H, W) `images` is below `smallest` pixels."""
    height, width = images.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(
            f"images of {height}x{width} pixels are too small for this network's pools: "
            f"the smallest side is {smallest}"
        )


class SkippedPool(nn.Identity):
    """Holds the number of a pool that was left out, so that the full network's weights fit."""


class _PoolToDenseInput(nn.AdaptiveAvgPool2d):
    """Leaves a map of the right size alone, as at 224.

    The values are the same, but the backward of adaptive pooling has no deterministic form on
    CUDA, so `torch.use_deterministic_algorithms` would refuse to train even where it does nothing
    (https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html).
    """

    def forward(self, maps: Tensor) -> Tensor:
        if maps.shape[-2:] == (DENSE_INPUT, DENSE_INPUT):
            return maps
        return super().forward(maps)


def _krizhevsky_lrn() -> nn.LocalResponseNorm:
    # Krizhevsky et al. 2012, section 3.3: x / (k + alpha * sum)^beta over n channels, k=2, n=5,
    # alpha=1e-4, beta=0.75. torch takes the mean over n in place of the sum: alpha grows by n.
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


def _canonical(name: str) -> str:
    for canonical, column in CONFIGURATIONS.items():
        if name in (canonical, column.letter):
            return canonical
    letters = ", ".join(column.letter for column in CONFIGURATIONS.values())
    raise ValueError(
        f"unknown network {name!r}; choices: {', '.join(CONFIGURATIONS)}, "
        f"or the paper's columns {letters}"
    )
