"""Say what a training run will take before it is paid for: scripts/plan.py hardware=h200"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.launch_jobs import PlanConfig
        from vgglab.config.schema import parse

        job = parse(config, PlanConfig)
        from vgglab.planning.charts import show_plan
        from vgglab.planning.plan import make_plan

        show_plan(make_plan(job), job)


if __name__ == "__main__":
    with readable_errors():
        main()
