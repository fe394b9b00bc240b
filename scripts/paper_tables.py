"""The paper's tables, measured: scripts/paper_tables.py table=3 checkpoints=[a.ckpt,b.ckpt]"""

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors


@hydra.main(version_base="1.3", config_path="../conf", config_name="paper_tables")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import PaperTablesConfig
        from vgglab.config.schema import parse

        job = parse(config, PaperTablesConfig)
        from vgglab.tables.tables import paper_tables

        paper_tables(job)


if __name__ == "__main__":
    with readable_errors():
        main()
