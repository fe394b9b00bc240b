"""This process's place among those of its run, known before torch.distributed begins."""

import os


def process_rank() -> int:
    """This process's number among those of its run, as torchrun, Lightning or SLURM gave it."""
    return _number("RANK", "LOCAL_RANK", "SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")


def local_rank() -> int:
    """Its number among those of its node."""
    return _number("LOCAL_RANK", "SLURM_LOCALID", "SUBMITIT_LOCAL_LOCALID")


def _number(*names: str) -> int:
    given = (os.environ.get(name, "") for name in names)
    return next((int(number) for number in given if number.isdigit()), 0)
