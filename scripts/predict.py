"""Name what images show: scripts/predict.py checkpoint=PATH images=PATH_OR_GLOB"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="predict")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import PredictConfig
        from vgglab.config.schema import parse

        job = parse(config, PredictConfig)
        from vgglab.prediction.predict import predict

        predict(job)


if __name__ == "__main__":
    with readable_errors():
        main()
