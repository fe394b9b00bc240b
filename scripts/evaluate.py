"""Test a network: scripts/evaluate.py checkpoint=logs/train/.../checkpoints/best.ckpt"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import EvaluateConfig
        from vgglab.config.schema import parse

        job = parse(config, EvaluateConfig)
        from vgglab.evaluation.evaluate import evaluate

        evaluate(job)


if __name__ == "__main__":
    with readable_errors():
        main()
