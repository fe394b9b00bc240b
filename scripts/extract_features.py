"""Descriptors of images: scripts/extract_features.py checkpoint=PATH images=FOLDER output=a.npz"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="extract_features")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import ExtractFeaturesConfig
        from vgglab.config.schema import parse

        job = parse(config, ExtractFeaturesConfig)
        from vgglab.features.extraction import extract_features

        extract_features(job)


if __name__ == "__main__":
    with readable_errors():
        main()
