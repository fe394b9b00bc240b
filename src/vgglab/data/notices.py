"""What people should know about their data, said by the first process of a run alone."""

import logging

from lightning.pytorch.utilities import rank_zero_only

# Not Lightning's `rank_zero_info`: a run silences that logger.
notice = rank_zero_only(logging.getLogger(__name__).warning)
