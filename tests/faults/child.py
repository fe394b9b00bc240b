"""What the processes of a trial do: forks of one that has imported everything."""

import importlib
import multiprocessing
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.disk import Disk, Fault

if os.environ.get("VGGLAB_FORKED_FROM_HERE"):
    # What a run imports, also what it imports late. None of it starts a thread.
    for name in (
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "tensorboard.summary.writer.event_file_writer",
        "torch.utils.tensorboard",
        "vgglab.training.run",
    ):
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)

RUN = "run"


@dataclass(frozen=True)
class Plan:
    """What a process does.

    Args:
        job: the file that `compose_job` wrote.
        resume: of scripts/train.py.
        folder: where; the run is in `RUN` there.
        diary: a folder for what the process tells of itself.
        fault: what its disk does to it.
        environment: additional variables.
    """

    job: Path
    resume: str | None
    folder: Path
    diary: Path
    fault: Fault | None = None
    environment: dict[str, str] = field(default_factory=dict)


def compose_job(overrides: Sequence[str], path: Path) -> None:
    """Compose a configuration once for all the processes that use it: that takes half a second."""
    from hydra import compose, initialize_config_dir

    from vgglab.config.schema import TrainConfig, parse

    conf = Path(__file__).parents[2] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("train", overrides=[f"run_dir={RUN}", "name=test", *overrides])
    path.write_bytes(pickle.dumps(parse(config, TrainConfig)))


def train(plan: Plan) -> None:
    """As scripts/train.py."""
    multiprocessing.set_start_method("fork", force=True)  # as in a process of its own
    os.setsid()  # whatever it starts can be found, and killed with it
    rank = plan.environment.get("LOCAL_RANK", "0")
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(plan.diary / f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.environ.update(plan.environment)
    os.chdir(plan.folder)

    from vgglab.config.door import readable_errors
    from vgglab.training.run import train as run

    begun = time.monotonic()
    disk = Disk(plan.folder / RUN, plan.diary, plan.fault)
    disk.install()
    if rank == "0":
        _keep_final_state(plan.diary / "final.pt")
    try:
        with readable_errors():
            run(pickle.loads(plan.job.read_bytes()).model_copy(update={"resume": plan.resume}))
    finally:
        disk.write_counts()
        (plan.diary / "seconds").write_text(str(time.monotonic() - begun))


def _keep_final_state(path: Path) -> None:
    """Weights and optimiser after a process's last step, whether a checkpoint has them or not."""
    import torch
    from lightning import Trainer
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps: list[object] = []
    fit = Trainer.fit

    def fit_and_keep(self: Trainer, *args: Any, **kw: Any) -> None:
        fit(self, *args, **kw)
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        assert self.lightning_module is not None
        state = {"weights": self.lightning_module.state_dict(), "optimizers": optimizers}
        if steps:
            unfinished = path.with_suffix(".tmp")
            torch.save(state, unfinished)
            unfinished.replace(path)

    register_optimizer_step_post_hook(lambda *step: steps.append(step))
    Trainer.fit = fit_and_keep  # type: ignore[method-assign]
