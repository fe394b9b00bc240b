"""One image in another's style: scripts/restyle.py content=PATH style=PATH output=PATH.png"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="restyle")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import RestyleConfig
        from vgglab.config.schema import parse

        job = parse(config, RestyleConfig)
        from vgglab.inspection.restyle import restyle

        restyle(job)


if __name__ == "__main__":
    with readable_errors():
        main()
