"""Say what a training run will take before it is paid for: scripts/plan.py hardware=h200"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.schema import PlanConfig, parse

        job = parse(config, PlanConfig)
        from vgglab.cluster.planning import make_plan
        from vgglab.reporting.scaling import show_plan

        show_plan(make_plan(job), job)


if __name__ == "__main__":
    with readable_errors():
        main()
