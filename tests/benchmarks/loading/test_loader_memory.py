"""An epoch of ImageNet's length must not fill a machine's memory, worker by worker."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vgglab.data import ImageFolder

FILES = 200
READS = 20_000
SAMPLES = 20
WARM_UP = 8  # samples; the allocator's arenas and the decoders' tables are there by then
MOST_MIB = 2.0  # between the means of the samples after it, first half and second


def proportional(pid: int) -> float:
    """MiB of a process, its part of what it shares included."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@pytest.mark.faults
def test_a_workers_memory_stays_over_an_epoch(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    generator = np.random.default_rng(0)
    for i in range(FILES):
        folder = tmp_path / f"train/{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        size = [int(side) for side in generator.integers(100, 600, 2)]
        coarse = generator.integers(0, 256, (10, 10, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / f"{i}.jpg")
    data = ImageFolder(root=str(tmp_path), batch_size=50, num_workers=2, in_memory=False)
    data.setup("fit")
    train = data.sets["train"]
    data.sets["train"] = train.subset(torch.arange(READS) % len(train))
    loader = data.train_dataloader()
    every = len(loader) // SAMPLES
    samples: list[float] = []
    for number, batch in enumerate(loader, start=1):
        assert batch.images.shape == (50, 3, 224, 224)
        if number % every == 0:
            workers = loader._iterator._workers  # type: ignore[union-attr]
            samples.append(sum(proportional(worker.pid) for worker in workers) / len(workers))
    steady = samples[WARM_UP:]
    half = len(steady) // 2
    growth = float(np.mean(steady[half:]) - np.mean(steady[:half]))
    shown = f"{samples[0]:.1f} MiB at first, {samples[-1]:.1f} at the end of {READS:,} images"
    record_property("measured", shown)
    print(shown, [round(sample, 1) for sample in samples])
    assert growth < MOST_MIB, samples
