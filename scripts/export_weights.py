"""Weights for other programs: scripts/export_weights.py checkpoint=PATH output=model.safetensors"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="export_weights")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import ExportWeightsConfig
        from vgglab.config.schema import parse

        job = parse(config, ExportWeightsConfig)
        from vgglab.evaluation.export import export_weights

        export_weights(job)


if __name__ == "__main__":
    with readable_errors():
        main()
