"""Files of strangers: an answer or one line, and nothing else.

As ordinary tests a few inputs each; `pytest -m faults tests/fuzz` goes on for VGGLAB_FUZZ_MINUTES
(default 20) each. An input that fails stays where the message says.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.fuzz.archives import ARCHIVES
from tests.fuzz.checkpoints import CHECKPOINTS
from tests.fuzz.images import IMAGES
from tests.fuzz.mutation import Example, Form, files
from tests.fuzz.worker import Target, Worker
from vgglab.data.decoding import MAX_PIXELS, decode, image_size
from vgglab.data.sources.archives import extract, open_tar, read_member
from vgglab.networks.weights import read_checkpoint, read_state_dict

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")  # of parts put in twice

MINUTES = float(os.environ.get("VGGLAB_FUZZ_MINUTES", "20"))
_MAX_BYTES = 1 << 20
_MAX_MEMBERS = 50


def read_weights(file: Path, folder: Path) -> None:
    """As resuming and loading weights read it; the tensors are touched."""
    try:
        for tensor in read_state_dict(file).values():
            assert isinstance(tensor, torch.Tensor)
            tensor.double().sum()
            tensor.clone()
    finally:
        if file.suffix != ".safetensors":
            repr(read_checkpoint(file))


def unpack(file: Path, folder: Path) -> None:
    """All of it, and then each member by its name."""
    bounds = {"max_bytes": _MAX_BYTES, "max_members": _MAX_MEMBERS}
    with open_tar(file, **bounds) as tar:
        count = extract(tar, folder / "unpacked", archive=file.name)
    found = [path for path in folder.rglob("*") if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in found)
    assert len(found) == count <= _MAX_MEMBERS
    assert sum(path.stat().st_size for path in found) <= _MAX_BYTES
    with open_tar(file, **bounds) as tar:
        for member in tar:
            if member.isfile():
                assert len(read_member(tar, member.name, file.name)) == member.size


def read_image(file: Path, folder: Path) -> None:
    """The size from the header, and the pixels."""
    try:
        image = decode(file)
        assert image.dtype == torch.uint8
        assert image.ndim == 3
        assert image.shape[0] == 3
        assert 0 < image[0].numel() <= MAX_PIXELS
    finally:
        height, width = image_size(file)
        assert height > 0
        assert width > 0


TARGETS: Mapping[str, tuple[Target, Mapping[str, Form]]] = {
    "checkpoints": (read_weights, CHECKPOINTS),
    "archives": (unpack, ARCHIVES),
    "images": (read_image, IMAGES),
}


@pytest.fixture(params=TARGETS)
def fuzz(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Iterator[Callable[[int], None]]:
    """fuzz(examples) tries as many inputs; at the end the tests' summary tells what was tried."""
    target, forms = TARGETS[request.param]
    worker = Worker(target, tmp_path / "fuzz")
    counts: Counter[str] = Counter()
    started = time.monotonic()

    def run(examples: int) -> None:
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(files(forms))
        def check(example: Example) -> None:
            form, name, data = example
            counts[f"{form} {worker.run(name, data)}"] += 1

        check()

    yield run
    worker.close()
    shown = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
    seconds = time.monotonic() - started
    text = f"{request.param}: {counts.total():,} inputs in {seconds:,.0f} s: {shown}"
    record_property("fuzz", text)


def test_valid_files_are_accepted(tmp_path: Path) -> None:
    for target, forms in TARGETS.values():
        for name, form in forms.items():
            if name in ("tar.bz2 or tar.xz", "tar.gz and more", "deflated zip"):
                continue
            for number, parts in enumerate(form.seeds):
                file = tmp_path / form.name
                file.write_bytes(form.join(parts))
                target(file, tmp_path / f"{name} {number}")


def test_a_few_hostile_files(fuzz: Callable[[int], None]) -> None:
    fuzz(100)


@pytest.mark.faults
def test_hostile_files_for_a_long_time(fuzz: Callable[[int], None]) -> None:
    end = time.monotonic() + 60 * MINUTES
    while time.monotonic() < end:
        fuzz(500)
