"""What people should know about their data, said by the first process of a run alone."""

import logging
from functools import cache

from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)


# Not Lightning's `rank_zero_info`: a run silences that logger.
@rank_zero_only
@cache
def notice(line: str) -> None:
    """Say it once: a tree may be looked at several times."""
    log.warning("%s", line)
