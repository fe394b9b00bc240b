"""What is measured side by side: scripts/benchmark.py target=processes"""

import json

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import BenchmarkConfig
        from vgglab.config.schema import parse

        job = parse(config, BenchmarkConfig)
        from vgglab.benchmarks.dashboard import measure_dashboard
        from vgglab.benchmarks.processes import measure_processes
        from vgglab.reporting.terminal import console

        measured = measure_dashboard(job) if job.target == "dashboard" else measure_processes(job)
        if job.format == "json":
            print(json.dumps(measured.to_dict(), indent=2))
        else:
            console.print(measured.table())


if __name__ == "__main__":
    with readable_errors():
        main()
