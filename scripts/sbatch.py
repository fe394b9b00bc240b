"""Print a script for SLURM's sbatch: scripts/sbatch.py experiment=imagenet_vgg16 accelerator=ddp"""

import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="sbatch")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.cluster.sbatch import sbatch_script
        from vgglab.config.launch_jobs import SbatchConfig
        from vgglab.config.schema import parse

        job = parse(config, SbatchConfig)
        settings = HydraConfig.get()
        train = os.path.relpath(Path(__file__).with_name("train.py"))
        python = [os.path.relpath(sys.executable)]
        command = [*(shlex.split(job.slurm.command) if job.slurm.command else python), train]
        for source in settings.runtime.config_sources:
            if source.provider == "command-line":
                command += ["--config-dir", source.path]
        overrides = [*settings.overrides.task, *settings.overrides.hydra]
        folder = f"logs/train/{settings.runtime.choices['experiment']}"
        print(sbatch_script(job, command, overrides, folder), end="")


if __name__ == "__main__":
    with readable_errors():
        main()
