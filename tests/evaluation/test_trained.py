"""From a checkpoint alone to predictions and scores."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY, Compose
from vgglab.config.schema import EvaluateConfig, PredictConfig, TrainConfig, parse
from vgglab.errors import InputError
from vgglab.evaluation.evaluate import evaluate
from vgglab.evaluation.predict import find_images, predict
from vgglab.evaluation.trained import load_trained
from vgglab.training.run import train


@pytest.fixture
def run(composed: Compose, tmp_path: Path) -> Path:
    """A finished run's folder."""
    folder = tmp_path / "run"
    train(parse(composed("train", *TINY, run_dir=folder), TrainConfig))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A grey PNG and an RGB JPEG of other sizes than the network's, and a text file."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.effect_noise((20, 33), 64).save(folder / "grey.png")
    Image.effect_noise((64, 40), 64).convert("RGB").save(folder / "deep/colour.jpg")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_checkpoint_rebuilds_its_network(run: Path) -> None:
    path = run / "checkpoints/best.ckpt"
    trained = load_trained(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    for key, value in trained.network.state_dict().items():
        assert torch.equal(value, state[f"network.{key}"])
    assert not trained.network.training
    assert list(trained.classes) == [f"class {i}" for i in range(4)]
    assert trained.preprocessing.size == (32, 32)


def test_evaluation_equals_the_runs_own_test(run: Path, composed: Compose, tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    checkpoint = run / "checkpoints/best.ckpt"
    job = parse(composed("evaluate", f"checkpoint={checkpoint}", run_dir=folder), EvaluateConfig)
    result = evaluate(job)
    assert result == pytest.approx(json.loads((run / "metrics.json").read_text()), rel=1e-5)
    assert json.loads((folder / "metrics.json").read_text()) == result


def test_other_data_must_have_the_same_classes(run: Path, composed: Compose) -> None:
    checkpoint = f"checkpoint={run / 'checkpoints/best.ckpt'}"
    other = ("data=synthetic", "data.num_classes=5")
    with pytest.raises(InputError, match="5 classes are not the 4"):
        evaluate(parse(composed("evaluate", checkpoint, *other), EvaluateConfig))


def test_weights_need_a_model_and_data(run: Path, composed: Compose) -> None:
    weights = f"weights={run / 'checkpoints/best.ckpt'}"
    with pytest.raises(InputError, match="also needs model"):
        evaluate(parse(composed("evaluate", weights), EvaluateConfig))
    with pytest.raises(InputError, match="give checkpoint"):
        evaluate(parse(composed("evaluate"), EvaluateConfig))
    sections = ("model=vgg11", "model.head=compact", "model.width=0.0625", "data=synthetic")
    job = parse(composed("evaluate", weights, *sections, "data.num_classes=4"), EvaluateConfig)
    assert 0 <= evaluate(job)["test/top1"] <= 1
    job = parse(composed("evaluate", weights, *sections, "data.num_classes=5"), EvaluateConfig)
    with (
        pytest.warns(UserWarning, match="another number of classes"),
        pytest.raises(InputError, match="do not fit 5 classes"),
    ):
        evaluate(job)


def prediction(
    run: Path, photos: Path, composed: Compose, capsys: pytest.CaptureFixture[str], form: str
) -> str:
    overrides = (f"checkpoint={run / 'checkpoints/best.ckpt'}", f"images={photos}", "top=3")
    capsys.readouterr()
    predict(parse(composed("predict", *overrides, f"format={form}"), PredictConfig))
    return capsys.readouterr().out


def test_predictions_are_ranked_probabilities(
    run: Path, photos: Path, composed: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(prediction(run, photos, composed, capsys, "json"))
    assert [Path(row["image"]).name for row in found] == ["colour.jpg", "grey.png"]
    trained = load_trained(run / "checkpoints/best.ckpt")
    for row in found:
        values = [place["probability"] for place in row["top"]]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert sum(values) <= 1 + 1e-6
        pixels = torch.from_numpy(np.array(Image.open(row["image"]).convert("RGB")))
        image = trained.preprocessing.fit(pixels.permute(2, 0, 1))
        with torch.no_grad():
            logits = trained.network(trained.preprocessing.normalize(image[None]))
        best = logits.softmax(1).max(1)
        # JPEG decoders may differ by a grey level.
        assert values[0] == pytest.approx(float(best.values), abs=1e-2)
        assert row["top"][0]["class"] == trained.classes[int(best.indices)]


def test_tables_and_csv_say_the_same(
    run: Path, photos: Path, composed: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    table = prediction(run, photos, composed, capsys, "table")
    rows = list(csv.DictReader(prediction(run, photos, composed, capsys, "csv").splitlines()))
    assert len(rows) == 6
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2
    for row in rows:
        assert row["class"] in table
        assert f"{float(row['probability']):.1%}" in table


def test_files_folders_and_globs_are_found(photos: Path) -> None:
    assert [p.name for p in find_images(str(photos))] == ["colour.jpg", "grey.png"]
    assert [p.name for p in find_images(f"{photos}/*.png")] == ["grey.png"]
    assert [p.name for p in find_images([f"{photos}/grey.png"])] == ["grey.png"]
    for nothing in (f"{photos}/*.gif", str(photos / "nowhere"), f"{photos}/notes.txt"):
        with pytest.raises(InputError, match="no image"):
            find_images(nothing)


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint of"):
        load_trained(tmp_path / "other.ckpt")


def test_a_strangers_checkpoint_builds_no_strangers_code(run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["vgglab"]["config"]["model"]["_target_"] = "os.system"
    torch.save(checkpoint, tmp_path / "stranger.ckpt")
    with pytest.raises(InputError, match=r"os\.system is outside"):
        load_trained(tmp_path / "stranger.ckpt")
