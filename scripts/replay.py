"""Run a run again and compare it bit for bit: scripts/replay.py logs/mine"""

import re
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from vgglab.config.door import readable_errors

PATH = re.compile(r"(run|batch)=([^'\"]+)")


@hydra.main(version_base="1.3", config_path="../conf", config_name="replay")
def main(config: DictConfig) -> None:
    with readable_errors():
        from vgglab.config.jobs import ReplayConfig
        from vgglab.config.schema import parse

        job = parse(config, ReplayConfig)
        from vgglab.training.replay import replay

        sys.exit(0 if replay(job) else 1)


def settings(arguments: list[str]) -> list[str]:
    """A folder alone becomes `run=FOLDER`, paths get the quotes without which Hydra takes no `=` in
    them, and the job the name of the run, for its own folder's."""
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        arguments = [f"run={arguments[0]}", *arguments[1:]]
    found = []
    for argument in arguments:
        if match := PATH.fullmatch(argument):
            name = Path(match[2]).resolve().name
            found += [f"{match[1]}='{match[2]}'", f"hydra.job.name='{name}'"]
        else:
            found.append(argument)
    return found


if __name__ == "__main__":
    sys.argv[1:] = settings(sys.argv[1:])
    with readable_errors():
        main()
