"""A linear SVM on features: scripts/linear_probe.py features=features.npz train_per_class=30"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="linear_probe")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import LinearProbeConfig
        from vgglab.config.schema import parse

        job = parse(config, LinearProbeConfig)
        from vgglab.features.probe import linear_probe

        linear_probe(job)


if __name__ == "__main__":
    with readable_errors():
        main()
