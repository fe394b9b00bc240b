"""Print a network's layers, parameters, cost and memory: scripts/summarize.py model=vgg19."""

import json

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="summarize")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import SummarizeConfig
        from vgglab.config.schema import parse
        from vgglab.errors import InputError
        from vgglab.reporting.summary import summarize
        from vgglab.reporting.terminal import console

        job = parse(config, SummarizeConfig)
        if len(job.input_size) != 3:
            raise InputError(f"input_size={job.input_size} must be [channels, height, width]")
        channels, height, width = job.input_size
        network = job.model.build("model", num_classes=1000, in_channels=channels)
        summary = summarize(network, (channels, height, width))
        if job.format == "json":
            print(json.dumps(summary.to_dict(), indent=2))
        else:
            console.print(summary.table())


if __name__ == "__main__":
    with readable_errors():
        main()
