"""What every evaluation reports: top-1, top-5 and the mean loss."""

from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy


class Score(nn.Module):
    """Counts over batches and processes; each image weighs the same.

    Args:
        num_classes: at least 2. With fewer than 5, top-5 means top-`num_classes`.
        prefix: of the metric names, as in `test/top1`.
    """

    def __init__(self, num_classes: int, prefix: str) -> None:
        super().__init__()
        self.accuracy = MetricCollection(
            {
                f"top{k}": MulticlassAccuracy(
                    num_classes, top_k=min(k, num_classes), average="micro"
                )
                for k in (1, 5)
            },
            prefix=f"{prefix}/",
            compute_groups=False,
        )
        self.loss = MeanMetric()
        self.loss_name = f"{prefix}/loss"

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count one batch: logits (N, num_classes), labels (N,), the batch's mean loss."""
        self.accuracy.update(logits, labels)
        self.loss.update(loss, weight=len(labels))

    def finish(self) -> dict[str, Tensor]:
        """The values over everything counted on all processes; starts over."""
        values = {**self.accuracy.compute(), self.loss_name: self.loss.compute()}
        self.accuracy.reset()
        self.loss.reset()
        return values
