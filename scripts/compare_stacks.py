"""Small kernels in a row against one large, section 2.3: scripts/compare_stacks.py channels=256"""

import json

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare_stacks")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import CompareStacksConfig
        from vgglab.config.schema import parse

        job = parse(config, CompareStacksConfig)
        from vgglab.evaluation.protocols import find_device
        from vgglab.inspection.stacks import compare_stacks
        from vgglab.reporting.terminal import console

        device = find_device(job.device)
        comparison = compare_stacks(job.channels, job.size, job.batch_size, job.repeats, device)
        if job.format == "json":
            print(json.dumps(comparison.to_dict(), indent=2))
        else:
            console.print(comparison.table())


if __name__ == "__main__":
    with readable_errors():
        main()
