"""What each layer sees of the image: scripts/receptive_field.py model=vgg16"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="receptive_field")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import ReceptiveFieldConfig
        from vgglab.config.schema import parse

        job = parse(config, ReceptiveFieldConfig)
        from vgglab.inspection.fields import show_fields

        show_fields(job)


if __name__ == "__main__":
    with readable_errors():
        main()
