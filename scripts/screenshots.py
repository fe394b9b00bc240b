"""The README's pictures: scripts/screenshots.py logs=logs/train run=logs/mine"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="screenshots")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import ScreenshotsConfig
        from vgglab.config.schema import parse

        job = parse(config, ScreenshotsConfig)
        from vgglab.dashboard.screenshots import take_screenshots

        take_screenshots(job)


if __name__ == "__main__":
    with readable_errors():
        main()
