"""Write the pages of runs again, from their folders: scripts/report.py logs/mine"""

import sys

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors
from vgglab.config.positional import paths_as_setting


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import ReportConfig
        from vgglab.config.schema import parse

        job = parse(config, ReportConfig)
        from vgglab.reporting.report import report

        report(job)


if __name__ == "__main__":
    with readable_errors():
        sys.argv[1:] = paths_as_setting(sys.argv[1:], "runs")
        main()
