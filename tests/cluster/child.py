"""One of several processes that train one job after another: python -m tests.cluster.child FILE."""

import json
import os
import sys
from pathlib import Path
from threading import enumerate as enumerate_threads

import torch
from hydra import compose, initialize_config_dir

from tests.conftest import ROOT
from vgglab.config.schema import TrainConfig, parse
from vgglab.errors import InputError
from vgglab.training.run import train


def main(jobs: str) -> None:
    """Train each of the file's jobs: the run's folder, and overrides."""
    torch.set_num_threads(1)
    for folder, overrides in json.loads(Path(jobs).read_text(encoding="utf-8")).items():
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("train", overrides=[f"run_dir={folder}", "name=test", *overrides])
        try:
            train(parse(config, TrainConfig))
        except (InputError, SystemExit) as error:  # all processes leave a run together
            Path(f"{folder}.error-{os.environ['RANK']}").write_text(str(error), encoding="utf-8")
        writing = [thread for thread in enumerate_threads() if "checkpoint" in thread.name]
        assert not writing, "the run has ended, and not all is on the disk"


if __name__ == "__main__":
    main(sys.argv[1])
