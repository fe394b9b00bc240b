"""What is measured side by side: scripts/benchmark.py target=processes"""

import json
from collections.abc import Callable
from typing import Any

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.benchmark_jobs import BENCHMARKS
        from vgglab.config.schema import parse

        job = parse(config, BENCHMARKS[config.target])
        from vgglab.benchmarks.dashboard import measure_dashboard
        from vgglab.benchmarks.decoding import measure_decoding
        from vgglab.benchmarks.loading.loader import measure_loader
        from vgglab.benchmarks.processes import measure_processes
        from vgglab.reporting.terminal import console

        measures: dict[str, Callable[..., Any]] = {
            "dashboard": measure_dashboard,
            "decoding": measure_decoding,
            "loader": measure_loader,
            "processes": measure_processes,
        }
        measured = measures[job.target](job)
        if job.format == "json":
            print(json.dumps(measured.to_dict(), indent=2))
        else:
            console.print(measured.table())


if __name__ == "__main__":
    with readable_errors():
        main()
