"""What torch's profiler sees a CPU allocate."""

import gc
from collections.abc import Iterator

import torch


def peak_of_the_last(steps: Iterator[None]) -> int:
    """The most bytes that were alive at a time after the last `yield` of `steps`, with all that was
    allocated from its beginning on."""
    gc.collect()  # what an earlier test left would be seen to go
    with torch.profiler.profile(profile_memory=True) as profile:
        for _ in steps:
            with torch.profiler.record_function("a step begins"):
                pass
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    live = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "a step begins":
            peak = live
        elif event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak
