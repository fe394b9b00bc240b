"""Runs side by side, what differs and what came of it: scripts/compare.py logs/train"""

import sys

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors
from vgglab.config.positional import paths_as_setting


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import CompareConfig
        from vgglab.config.schema import parse

        job = parse(config, CompareConfig)
        from vgglab.comparison.compare import compare

        compare(job)


if __name__ == "__main__":
    with readable_errors():
        sys.argv[1:] = paths_as_setting(sys.argv[1:], "runs")
        main()
