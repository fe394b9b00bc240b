"""scripts/predict.py, without the process around it, against plain torch."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from tests.conftest import Compose
from tests.prediction.small import CLASSES, MODEL, Run, save_checkpoint
from vgglab.config.jobs import PredictConfig
from vgglab.config.schema import parse
from vgglab.errors import InputError
from vgglab.evaluation.trained import Trained
from vgglab.prediction.predict import predict


def reference(trained: Trained, file: str) -> dict[str, float]:
    """Every class's probability, one image at a time."""
    pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)
    image = trained.preprocessing.fit(pixels).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    with torch.no_grad():
        logits = trained.network(((image - mean) / std)[None])[0]
    return dict(zip(CLASSES, torch.exp(logits.double().log_softmax(0)).tolist(), strict=True))


def ranked(row: dict[str, Any]) -> list[tuple[str, float]]:
    """Another batch adds up in another order."""
    return [(place["class"], pytest.approx(place["probability"], abs=1e-5)) for place in row["top"]]


def test_predictions_are_the_networks(run: Run, trained: Trained, photos: Path) -> None:
    rows = json.loads(run().out)
    assert [Path(row["image"]) for row in rows] == sorted(photos.rglob("*.png"))
    tops = []
    for row in rows:
        expected = reference(trained, row["image"])
        found = {place["class"]: place["probability"] for place in row["top"]}
        best = sorted(expected, key=lambda name: -expected[name])[:3]
        assert list(found) == best
        for name, probability in found.items():
            assert probability == pytest.approx(expected[name], abs=1e-5)
        tops.append(best[0])
    assert len(set(tops)) > 1  # else a mixed-up order would not be seen


def test_the_batch_size_changes_nothing(run: Run) -> None:
    one, all_ = (json.loads(run(batch_size=size).out) for size in (1, 100))
    assert [(r["image"], ranked(r)) for r in one] == [(r["image"], ranked(r)) for r in all_]


def test_all_formats_say_the_same(run: Run, photos: Path) -> None:
    rows = json.loads(run().out)
    places = [
        (row["image"], str(rank), place["class"], f"{place['probability']:.6f}")
        for row in rows
        for rank, place in enumerate(row["top"], 1)
    ]
    found = list(csv.DictReader(io.StringIO(run(format="csv").out)))
    assert [tuple(row.values()) for row in found] == places
    assert list(found[0]) == ["image", "rank", "class", "probability"]
    table = run(format="table").out
    lines = [line for line in table.splitlines() if "%" in line and "top-1" not in line]
    assert len(lines) == len(places)
    for line, (_, _, name, probability) in zip(lines, places, strict=True):
        assert name in line
        assert f"{float(probability):.1%}" in line


def test_folders_named_after_classes_tell_how_many_are_right(
    run: Run, trained: Trained, photos: Path
) -> None:
    ranks = []
    for file in sorted(photos.glob("*/*.png")):
        expected = reference(trained, str(file))
        best = sorted(expected, key=lambda name: -expected[name])
        ranks.append(best.index(file.parent.name))
    first, three = (sum(rank < top for rank in ranks) / 7 for top in (1, 3))
    figures = f"top-1 {100 * first:.2f} %, top-3 {100 * three:.2f} %"
    line = f"{figures} of 7 images in folders named after classes"
    assert run(format="csv").err.splitlines() == [line]
    assert run(format="table").out.splitlines()[-1] == line
    assert run(images=f"{photos}/other.png").err == ""


def test_a_broken_file_ends_everything(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "cat/3b.png").write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"cat/3b\.png: not an image"):
        run(sheet=str(tmp_path / "sheet.png"))
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_files_are_skipped_where_asked_to(
    run: Run, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads(run().out)
    for name in ("cat/0b.png", "dog/3.png", "dog/4.png", "dog/5.png"):  # the last are a batch
        (photos / name).write_bytes(b"no image")
    done = run(on_error="skip")
    rows = json.loads(done.out)
    readable = [row for row in rows if row["top"] is not None]
    assert [(r["image"], ranked(r)) for r in readable] == [(r["image"], ranked(r)) for r in whole]
    missing = [row["image"] for row in rows if row["top"] is None]
    assert done.err.splitlines()[1:] == [f"skipped: {file}: not an image" for file in missing]
    assert len(missing) == 4
    assert len(run(on_error="skip", format="csv").out.splitlines()) == 1 + 8 * 3
    assert run(on_error="skip", format="table").out.count("cannot be read") == 4
    with pytest.raises(InputError, match=r"none can be read; .*dog/3\.png: not an image"):
        run(on_error="skip", images=f"{photos}/dog/[345].png")
    assert capsys.readouterr().out == ""


def test_outputs_that_are_not_finite_are_refused(
    run: Run, trained: Trained, checkpoint: Path
) -> None:
    next(trained.network.parameters()).data.fill_(float("nan"))
    save_checkpoint(checkpoint, trained, MODEL)
    with pytest.raises(InputError, match=r"small\.ckpt: .*cat/0\.png are not finite"):
        run()


def test_a_sheet_comes_with_the_predictions(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    done = run(sheet=str(path))
    assert json.loads(done.out) == json.loads(run().out)
    assert done.err.splitlines()[-1] == f"sheet: {path}"
    assert Image.open(path).size[0] > 1000


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("a.jpg", "must end in .png"),
        ("photos", "must end in .png"),
        ("folder.png", "is a folder"),
        ("nowhere/a.png", "there is no folder"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_refused_first(
    run: Run, tmp_path: Path, sheet: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("vgglab.prediction.predict.read_images", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match=f"sheet=.*{message}"):
        run(sheet=str(tmp_path / sheet))


def test_networks_without_names_for_their_layers_have_sheets_without_heat(
    run: Run, trained: Trained, checkpoint: Path, tmp_path: Path
) -> None:
    other = replace(trained, network=resnet18(num_classes=len(CLASSES)).eval())
    save_checkpoint(
        checkpoint, other, {"_target_": "torchvision.models.resnet18", "num_classes": 6}
    )
    done = run(sheet=str(tmp_path / "sheet.png"), images=str(tmp_path / "photos/other.png"))
    assert "without Grad-CAM" in done.err
    assert (tmp_path / "sheet.png").exists()


def test_the_configuration_is_complete(
    composed: Compose, checkpoint: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = composed("predict", f"checkpoint={checkpoint}", f"images={photos}")
    predict(parse(config, PredictConfig))
    assert f"{photos}/dog/2.png" in capsys.readouterr().out
