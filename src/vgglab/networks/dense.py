"""The fully convolutional form, which scores every position of an image of any size."""

import copy

from torch import Tensor, nn

from vgglab.networks.vgg import DENSE_INPUT, VGG, check_size


class DenseVGG(nn.Module):
    """A VGG whose dense layers slide over the map; made by `to_dense`.

    Calling it takes images (N, in_channels, H, W) with sides from `smallest_image` pixels up and
    returns logits (N, num_classes, h, w).
    """

    def __init__(self, network: VGG) -> None:
        super().__init__()
        self.name = network.name
        self.head = network.head
        self.num_classes = network.num_classes
        first_kernel = DENSE_INPUT if network.head == "imagenet" else 1
        self.smallest_image = first_kernel * network.smallest_image
        self.features = _sharing(network.features)
        self.classifier = nn.Sequential()
        kernel = first_kernel
        for module in _sharing(network.classifier):
            if isinstance(module, nn.Linear):
                self.classifier.append(_as_convolution(module, kernel))
                kernel = 1
            else:
                self.classifier.append(module)
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        check_size(images, self.smallest_image)
        return self.classifier(self.features(images))


def to_dense(network: VGG) -> DenseVGG:
    """The fully convolutional form of section 3.2: (N, C, H, W) -> (N, classes, h, w) logits.

    With the imagenet head the first dense layer becomes a 7x7 convolution and the other two 1x1;
    the 7x7 pool goes. At the size of the crop network, 224 with five pools, the map is 1x1 and
    holds its logits; a longer side adds a position every 32 pixels. Position (i, j) is the
    classifier's answer to the 7x7 window of the last map that begins there. A crop of the image
    at pixel (32 i, 32 j) answers the same up to the convolutions' padding, zeros for the crop
    and the image's own pixels here.

    With the compact head the linear layer becomes a 1x1 convolution, and the logits are the mean
    of the map over its positions, exactly so in evaluation mode, because pooling and the layer
    are both linear.

    The weights share memory with the network's: nothing is copied, and a step that trains the
    network in place shows here. Modes, devices and gradients are separate.

    Raises (when called):
        ValueError: a side below `smallest_image`, 224 for the imagenet head with five pools.
    """
    return DenseVGG(network)


def _sharing(module: nn.Sequential) -> nn.Sequential:
    """A copy with own modules and parameters on the same memory.

    The same Parameter objects would make `.to()` or `.requires_grad_()` on one change the other.
    """
    memo: dict[int, object] = {id(buffer): buffer.detach() for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    return copy.deepcopy(module, memo)


def _as_convolution(linear: nn.Linear, kernel: int) -> nn.Conv2d:
    channels = linear.in_features // kernel**2
    convolution = nn.Conv2d(channels, linear.out_features, kernel, device="meta")
    weight = linear.weight.detach().view(linear.out_features, channels, kernel, kernel)
    convolution.weight = nn.Parameter(weight, linear.weight.requires_grad)
    convolution.bias = linear.bias
    return convolution
