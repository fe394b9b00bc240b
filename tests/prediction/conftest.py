"""A network, photographs, and what is predicted of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prediction.small import MODEL, Ran, Run, save_checkpoint, small_network
from vgglab.config.jobs import PredictConfig
from vgglab.evaluation.trained import Trained
from vgglab.prediction.predict import predict


@pytest.fixture
def trained() -> Trained:
    return small_network()


@pytest.fixture
def checkpoint(trained: Trained, tmp_path: Path) -> Path:
    """Of that network."""
    path = tmp_path / "small.ckpt"
    save_checkpoint(path, trained, MODEL)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven in folders named after classes and one beside them, of all shapes, all different."""
    folder = tmp_path / "photos"
    random = np.random.default_rng(0)
    names = [f"cat/{i}.png" for i in range(4)] + [f"dog/{i}.png" for i in range(3)] + ["other.png"]
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        size = (30 + 9 * place, 60 - 3 * place)
        Image.fromarray(coarse).resize(size).save(folder / name)
    return folder


@pytest.fixture
def run(checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def predicted(**settings: object) -> Ran:
        defaults = {
            "run_dir": ".",
            "checkpoint": str(checkpoint),
            "images": str(photos),
            "top": 3,
            "batch_size": 3,
            "format": "json",
            "sheet": None,
            "on_error": "raise",
            "device": "cpu",
        }
        capsys.readouterr()
        predict(PredictConfig.model_validate({**defaults, **settings}))
        return Ran(*capsys.readouterr())

    return predicted
