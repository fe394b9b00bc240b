"""Write a data set as shards for data=imagenet_stream; run it again to continue.

scripts/shard_dataset.py data=imagenet data.root=/data/imagenet output=/data/shards
"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="shard_dataset")
def main(config: DictConfig) -> None:
    with readable_errors():
        from pathlib import Path

        from vgglab.config.jobs import ShardDatasetConfig
        from vgglab.config.schema import parse

        job = parse(config, ShardDatasetConfig)
        from vgglab.data.shards.recipe import Recipe
        from vgglab.data.shards.writing import Sharding
        from vgglab.reporting.terminal import console

        data = job.data.build("data")
        recipe = Recipe(job.shortest_side, job.quality)
        sharding = Sharding(recipe, job.chunk_megabytes, data.num_workers, data.on_error)
        output = Path(job.output).expanduser()
        for written in sharding.write(data, output, source=job.data.target):
            console.print(str(written), highlight=False)
        console.print(f"{output}: use it with data=imagenet_stream data.uri={output}")


if __name__ == "__main__":
    with readable_errors():
        main()
