"""Pictures that change while a network trains: one tag each, whose slider goes through time."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from vgglab.config.errors import did_you_mean
from vgglab.dashboard.drawing import (
    Examples,
    dispensable,
    examples,
    is_due,
    step_of,
    whole_network,
)
from vgglab.dashboard.tiles import Line, answer_line, captioned, show
from vgglab.data.attached import datamodule
from vgglab.errors import InputError
from vgglab.networks import VGG, extract, layer_names
from vgglab.networks.attribution import grad_cam, heat_layer
from vgglab.networks.layers import evaluation_mode
from vgglab.reporting.pixels import filter_grid, heated, thumbnail
from vgglab.reporting.tensorboard import TensorBoard, boards

log = logging.getLogger(__name__)


class OverTime(Callback):
    """Draws the network before training, every so many epochs, and after the last one.

    One process draws while the others wait. It draws no random numbers and leaves the network, its
    mode and its gradients as they were. A run that early stopping ends has no picture of its end.

    Args:
        every_n_epochs: from one picture to the next.
    """

    tag: ClassVar[str]

    def __init__(self, every_n_epochs: Annotated[int, Ge(1)] = 10) -> None:
        self.every_n_epochs = every_n_epochs
        self._drawn = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, [board for board in boards(trainer) if board.begins])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # In epochs of a single step the first ends with the step that the beginning is drawn at.
        if is_due(trainer, self.every_n_epochs) and step_of(trainer) != self._drawn:
            self._draw(trainer, pl_module, boards(trainer))

    def _draw(
        self, trainer: Trainer, pl_module: LightningModule, onto: Sequence[TensorBoard]
    ) -> None:
        self._drawn = step_of(trainer)
        with whole_network(trainer, pl_module) as network:
            if not trainer.is_global_zero or not onto:
                return
            with dispensable(self.tag), evaluation_mode(network), torch.no_grad():
                if (picture := self.picture(trainer, network)) is not None:
                    show(picture, self.tag, self._drawn, onto)

    @abstractmethod
    def picture(self, trainer: Trainer, network: nn.Module) -> Tensor | None:
        """(3, height, width) uint8; None where nothing can be drawn of this network."""


class FirstFilters(OverTime):
    """Shows the first convolution's filters, their input channels as red, green and blue."""

    tag = "network/filters"

    def picture(self, trainer: Trainer, network: nn.Module) -> Tensor | None:
        try:
            return filter_grid(network)
        except ValueError:  # no convolution
            return None


class GradCamOverTime(OverTime):
    """Shows a few validation images, the same all run long, with what speaks for the prediction.

    A heat map is scaled to its own largest value. A network whose layers have no names, as all
    but a VGG, has none.

    Args:
        every_n_epochs: from one picture to the next.
        count: images, each of another class.
        layer: of maps. None: the last ReLU whose maps have at least 4 x 4 positions.
    """

    tag = "network/grad_cam"

    def __init__(
        self,
        every_n_epochs: Annotated[int, Ge(1)] = 10,
        count: Annotated[int, Ge(1)] = 8,
        layer: str | None = None,
    ) -> None:
        super().__init__(every_n_epochs)
        self.count = count
        self.layer = layer
        self._examples: Examples | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        network: nn.Module = pl_module.network  # type: ignore[assignment]
        if stage == "fit" and trainer.is_global_zero and not isinstance(network, VGG):
            kind = type(network).__name__
            log.warning("no Grad-CAM in TensorBoard: the layers of a %s have no names", kind)

    def refuse_misfit(self, network: nn.Module) -> None:
        """Look for `layer` before the run begins, in all processes: only one of them draws.

        Raises:
            InputError: the network has no such maps.
        """
        if self.layer is None or not isinstance(network, VGG):
            return
        maps = [name for name, path in layer_names(network).items() if "features" in path]
        if self.layer not in maps:
            choices = did_you_mean(self.layer, maps)
            raise InputError(f"Grad-CAM: layer={self.layer} has no maps; {choices}")

    def picture(self, trainer: Trainer, network: nn.Module) -> Tensor | None:
        data = datamodule(trainer)
        if not isinstance(network, VGG):
            return None
        if self._examples is None:
            self._examples = examples(data, self.count)
        pixels, labels = self._examples
        self.layer = self.layer or heat_layer(network, pixels.shape[1:])
        if self.layer is None:
            return None
        like = next(network.parameters())
        images = data.preprocessing.normalize(pixels.to(like.device)).to(like.dtype)
        # Layer by layer: a compiled network would be compiled again for so many images.
        (logits,) = extract(network, images, list(layer_names(network))[-1:]).values()
        probability, predicted = logits.float().softmax(1).max(1)
        heats = grad_cam(network, images, self.layer, predicted).cpu()
        tiles, captions = [], []
        for place, (image, heat) in enumerate(zip(pixels, heats, strict=True)):
            small = thumbnail(image)
            tiles.append(torch.cat([small, heated(small, heat)], 2))
            label, found = int(labels[place]), int(predicted[place])
            captions.append(
                [
                    answer_line(
                        data.classes[found], float(probability[place]), is_right=found == label
                    ),
                    Line(f"is {data.classes[label]}"),
                ]
            )
        return captioned(tiles, captions, columns=2)
