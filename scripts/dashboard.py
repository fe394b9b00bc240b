"""TensorBoard on the runs' folder: scripts/dashboard.py [logs/train/digits]"""

import sys

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors
from vgglab.config.positional import paths_as_setting


@hydra.main(version_base="1.3", config_path="../conf", config_name="dashboard")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import DashboardConfig
        from vgglab.config.schema import parse

        job = parse(config, DashboardConfig)
        from vgglab.dashboard.serve import serve

        serve(job)


if __name__ == "__main__":
    with readable_errors():
        sys.argv[1:] = paths_as_setting(sys.argv[1:], "logdir")
        main()
