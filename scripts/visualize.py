"""Filters, feature maps, Grad-CAM: scripts/visualize.py checkpoint=PATH images=PATH_OR_GLOB"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="visualize")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import VisualizeConfig
        from vgglab.config.schema import parse

        job = parse(config, VisualizeConfig)
        from vgglab.inspection.visualize import visualize

        visualize(job)


if __name__ == "__main__":
    with readable_errors():
        main()
