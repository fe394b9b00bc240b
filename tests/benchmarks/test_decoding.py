"""What decoders and crops are measured against."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Compose
from vgglab.benchmarks.decoding import cut_by_pillow, measure_decoding
from vgglab.config.benchmark_jobs import DecodingBenchmark
from vgglab.config.schema import parse
from vgglab.data.cropping import Cut
from vgglab.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three smooth JPEGs, larger than the paper's S."""
    generator = np.random.default_rng(0)
    for i in range(3):
        coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((400, 300)).save(tmp_path / f"{i}.jpg", quality=95)
    return tmp_path


def test_every_way_makes_the_references_pixels(composed: Compose, photos: Path) -> None:
    config = composed("benchmark", "target=decoding", f"images={photos}", "rounds=1", "limit=2")
    speed = measure_decoding(parse(config, DecodingBenchmark))
    assert speed.images == 2
    assert speed.megapixels == pytest.approx(0.12)
    assert speed.kilobytes["resized"] < speed.kilobytes["original"]
    crops = {way.crop for way in speed.ways}
    assert len(crops) == 3
    for crop in crops:
        reference, *others = (way for way in speed.ways if way.crop == crop)
        assert reference.decoder == "reference"
        assert reference.ratio == [1.0]
        assert {way.stored for way in others} == {"original", "resized"}
        for way in others:
            assert way.ratio == [way.images_per_second[0] / reference.images_per_second[0]]
            assert way.difference < 0.5
    assert speed.to_dict()["ways"][0]["median_ratio"] == 1.0


def test_the_cut_is_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cut = Cut(2, 3, 10, 20, 10, 20, 1, 4, 6, 8)  # nothing is resized
    found = cut_by_pillow(Image.fromarray(pixels), cut).permute(1, 2, 0).numpy()
    assert np.array_equal(found, pixels[3:9, 7:15])


def test_a_broken_image_is_named(composed: Compose, photos: Path) -> None:
    (photos / "9.jpg").write_bytes(b"\xff\xd8\xff broken")
    config = composed("benchmark", "target=decoding", f"images={photos}", "rounds=1")
    with pytest.raises(InputError, match=r"9\.jpg: "):
        measure_decoding(parse(config, DecodingBenchmark))
