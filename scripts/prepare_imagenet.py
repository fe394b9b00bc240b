"""Build ImageNet's folders from the official archives; run it again to continue.

scripts/prepare_imagenet.py archives=/datasets/ILSVRC2012 root=data/imagenet
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="prepare_imagenet")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import PrepareImagenetConfig
        from vgglab.config.schema import parse

        job = parse(config, PrepareImagenetConfig)
        from vgglab.data.sources.prepare import prepare_imagenet

        prepare_imagenet(Path(job.archives), Path(job.root))
        print(f"{job.root} is complete and counted: use it with data=imagenet data.root={job.root}")


if __name__ == "__main__":
    with readable_errors():
        main()
