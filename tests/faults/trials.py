"""What happens to which training: both follow from a trial's seed."""

import random
from dataclasses import dataclass
from functools import cached_property

from tests.conftest import TINY

LEARNING = (
    *TINY,
    "trainer.max_epochs=3",
    "data.noise=0.2",
    "optimizer.lr=0.05",
    "data.shuffle=true",
    "data.pad=2",
    "data.flip=true",
    "model.dropout=0.5",
)


def _every(steps: int) -> tuple[str, ...]:
    return (
        "callbacks.last_checkpoint.every_n_epochs=null",
        f"callbacks.last_checkpoint.every_n_train_steps={steps}",
    )


EMA = ("callbacks=[default,ema]", "callbacks.ema.decay=0.9")
PLATEAU = ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.5")
MIXING = ("data.mixup_alpha=0.4", "data.cutmix_alpha=1")
STOPPING = (  # after the second epoch
    "callbacks=[default,early_stopping]",
    "callbacks.early_stopping.patience=1",
    "callbacks.early_stopping.min_delta=1.0",
)
MILESTONES = ("callbacks=[default,milestones]", "callbacks.milestones.every_n_epochs=1")
CONFIGURATIONS = {
    "every epoch": (),
    "every step": _every(1),
    "every second step": _every(2),
    "batch norm, every fourth step": ("model=vgg11_bn", *_every(4)),
    "moving average": (*EMA, *_every(2)),
    "moving average, every epoch": EMA,
    "mixing": ("model=vgg11_bn", *MIXING, *_every(3)),
    "plateau": (*PLATEAU, *_every(2)),
    "plateau, every epoch": PLATEAU,
    "one cycle": ("scheduler=one_cycle", *_every(3)),
    "warm-up, AdamW": ("scheduler.warmup_epochs=1.5", "optimizer=adamw", *_every(2)),
    "workers": ("data.num_workers=2", *_every(2)),
    "accumulation": ("trainer.accumulate_grad_batches=2", *_every(1)),
    "half precision": ("trainer.precision=bf16-mixed", *_every(2)),
    "synchronous": ("trainer.async_checkpoints=false", "model=vgg11_bn", *EMA, *_every(2)),
    "early stopping": (*STOPPING, *_every(2)),
    "early stopping, every epoch": STOPPING,
    "milestones": (*MILESTONES, *_every(2)),
}
SEVERAL_PROCESSES = {
    "two processes": ("accelerator=ddp_cpu", "model=vgg11_bn", *_every(2)),
    "two processes, mixing": ("accelerator=ddp_cpu", *MIXING, *EMA, *_every(3)),
}


def overrides_of(configuration: str) -> tuple[str, ...]:
    """Of scripts/train.py."""
    return (*LEARNING, *{**CONFIGURATIONS, **SEVERAL_PROCESSES}[configuration])


# Of twenty trials.
KINDS = {
    "SIGKILL": 5,
    "SIGKILL at a file operation": 5,
    "power cut": 4,
    "SIGTERM": 2,
    "full disk": 2,
    "one of two processes": 1,
    "two processes of the launcher": 1,
}


@dataclass(frozen=True)
class Trial:
    """What happens to one run: a function of the seed, but for moments in seconds."""

    seed: int

    @property
    def kind(self) -> str:
        kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        return kinds[self.seed % len(kinds)]

    @cached_property
    def chance(self) -> random.Random:
        return random.Random(self.seed)

    @cached_property
    def configuration(self) -> str:
        return self.chance.choice(list(SEVERAL_PROCESSES if self.several else CONFIGURATIONS))

    @property
    def several(self) -> bool:
        return "two processes" in self.kind

    @property
    def launched(self) -> bool:
        return "launcher" in self.kind

    @cached_property
    def disturbances(self) -> int:
        return 1 if self.launched else self.chance.randint(1, 3)
