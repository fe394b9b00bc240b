"""Files decoded ahead, in order."""

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vgglab.data.decoding import decode
from vgglab.errors import InputError
from vgglab.evaluation.trained import Trained
from vgglab.prediction.reading import read_images


@pytest.fixture
def files(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


def test_images_come_in_order_as_the_network_sees_them(
    files: list[Path], trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_at_first(path: Path) -> Tensor:
        time.sleep(0.03 if path == files[0] else 0)
        return decode(path)

    monkeypatch.setattr("vgglab.prediction.reading.decode", slow_at_first)
    found = list(read_images(files, trained.preprocessing, ahead=4, whole_side=50))
    assert [image.path for image in found] == files
    for image in found:
        original = decode(image.path)
        assert image.seen is not None
        assert image.whole is not None
        assert torch.equal(image.seen, trained.preprocessing.fit(original))
        assert (image.height, image.width) == original.shape[1:]
        assert max(image.whole.shape[1:]) == min(50, max(original.shape[1:]))
        ratio = image.whole.shape[1] / image.whole.shape[2]
        assert ratio == pytest.approx(image.height / image.width, rel=0.03)


def test_several_are_decoded_at_a_time_and_no_more_than_may_wait(
    files: list[Path], trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path] = []
    two = threading.Barrier(2, timeout=10)

    def together(path: Path) -> Tensor:
        begun.append(path)
        two.wait()  # alone it would wait in vain
        return decode(path)

    monkeypatch.setattr("vgglab.prediction.reading.decode", together)
    monkeypatch.setattr("vgglab.prediction.reading.os.cpu_count", lambda: 2)
    reading = read_images(files, trained.preprocessing, ahead=3)
    for taken, _ in enumerate(reading, 1):
        assert len(begun) <= taken + 3


def test_a_broken_file_is_raised_or_handed_on(files: list[Path], trained: Trained) -> None:
    files[2].write_bytes(b"")
    with pytest.raises(InputError, match=f"{files[2]}: empty file"):
        list(read_images(files, trained.preprocessing, ahead=2))
    found = list(read_images(files, trained.preprocessing, ahead=2, skip=True))
    assert [image.path for image in found] == files
    assert [image.error for image in found if image.seen is None] == [f"{files[2]}: empty file"]


def test_who_stops_early_leaves_no_thread(files: list[Path], trained: Trained) -> None:
    before = threading.active_count()
    reading = read_images(files * 100, trained.preprocessing, ahead=10)
    next(reading)
    reading.close()
    assert threading.active_count() == before
