"""Train a network, then test it: scripts/train.py experiment=cifar10_vgg16_bn optimizer.lr=0.05"""

import hydra
from omegaconf import DictConfig

from vgglab.cluster.submitit_tasks import as_task
from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    with as_task(), readable_errors(outlives_output=True):
        from vgglab.config.schema import TrainConfig, parse

        job = parse(config, TrainConfig)
        from vgglab.training.run import train

        train(job)


if __name__ == "__main__":
    with readable_errors(outlives_output=True):
        main()
