"""`build_vgg`: one network of the paper from its name and settings."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from vgglab.networks.transfer import initialise_from
from vgglab.networks.vgg import STAGE_CHANNELS, VGG, Head, Init, Name
from vgglab.networks.weights import load_weights


def build_vgg(
    name: Name,
    *,
    num_classes: Annotated[int, Gt(0)] = 1000,
    batch_norm: bool = False,
    head: Head = "imagenet",
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.5,
    in_channels: Annotated[int, Gt(0)] = 3,
    width: Annotated[float, Gt(0)] = 1.0,
    max_pools: Annotated[int, Ge(0), Le(len(STAGE_CHANNELS))] | None = None,
    init: Init = "kaiming",
    init_from: str | None = None,
    weights: str | None = None,
) -> VGG:
    """Build a network of the paper's Table 1; state-dict keys and shapes are torchvision's.

    Args:
        name: `vgg11 vgg11_lrn vgg13 vgg16_1x1 vgg16 vgg19`, or the column: `A A-LRN B C D E`.
        num_classes: logits an image.
        batch_norm: batch normalisation between each convolution and its ReLU.
        head: `imagenet` averages the last map to 7x7 and has the paper's three dense layers,
            4096-4096-classes; `compact` averages it to 1x1 and has one, for small images.
        dropout: probability before each dense layer but the first of `imagenet`, or before the
            only one of `compact`; acts in training mode alone.
        in_channels: channels of the images.
        width: factor on every channel count and on 4096, rounded, at least 1 each.
        max_pools: only the first so many stages end in a pool, for images below 32 pixels: a side
            must be at least 2 ** max_pools. The last pools go first, so that every layer up to the
            last pool that stays keeps the paper's receptive field and cost.
        init: `kaiming` as torchvision (fan-out normal; dense layers N(0, 0.01^2)), the same
            numbers for the same seed; `paper` as section 3.1, N(0, variance 0.01), from which the
            deeper columns learn only after pre-training; `glorot` (uniform), which the authors
            later found to need none (section 3.1). Biases are zero.
        init_from: a trained column A (or A-LRN), whose first four convolutions and dense layers
            replace the initial ones (section 3.1); see `vgglab.networks.initialise_from`.
        weights: what to load afterwards; see `vgglab.networks.load_weights`.

    Raises:
        ValueError: an unknown name, head or init, or a number out of range.
        WeightsError: `init_from` or `weights` cannot be read or does not fit.
    """
    pools_known = max_pools is None or 0 <= max_pools <= len(STAGE_CHANNELS)
    if not (num_classes > 0 and in_channels > 0 and width > 0 and 0 <= dropout < 1 and pools_known):
        raise ValueError(
            f"{num_classes=}, {in_channels=} and {width=} must be positive, {dropout=} at least 0 "
            f"and below 1, and {max_pools=} from 0 to {len(STAGE_CHANNELS)} or None"
        )
    network = VGG(
        name,
        num_classes=num_classes,
        batch_norm=batch_norm,
        head=head,
        dropout=dropout,
        in_channels=in_channels,
        width=width,
        max_pools=max_pools,
        init=init,
    )
    if init_from is not None:
        initialise_from(network, init_from)
    if weights is not None:
        load_weights(network, weights)
    return network
