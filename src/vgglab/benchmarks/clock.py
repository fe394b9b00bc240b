"""What a fair measurement of time needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes in the calling thread alone, as in a loader's worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given; only a CPU does it at once."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
