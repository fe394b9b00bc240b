"""scripts/evaluate.py: checkpoints and weights on a test set."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import VGG11_Weights

from tests.conftest import TINY, Compose
from vgglab.config.jobs import EvaluateConfig
from vgglab.config.schema import TrainConfig, parse
from vgglab.data import ImageFolder
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.evaluate import evaluate
from vgglab.evaluation.protocols import Member, posteriors, score
from vgglab.evaluation.trained import load_trained
from vgglab.networks import build_vgg
from vgglab.reporting.record import read_skipped
from vgglab.training.run import train

CPU = torch.device("cpu")
CLASSES = ("apple", "bean")
MODEL = {"name": "vgg11", "width": 0.05, "head": "compact", "max_pools": 3}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes, with images of mixed sizes."""
    sizes = [(40, 30), (30, 40), (36, 36), (50, 31)]
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number, size in enumerate(sizes):
                picture = Image.effect_noise(size, 64).convert("RGB")
                picture.save(tmp_path / "photos" / split / name / f"{number}.png")
    return tmp_path / "photos"


def checkpoint(
    path: Path, photos: Path, *, seed: int = 0, classes: Sequence[str] = CLASSES, size: int = 24
) -> Path:
    """A checkpoint as scripts/train.py writes it, of an untrained network."""
    torch.manual_seed(seed)
    network = build_vgg(**MODEL, num_classes=len(classes))  # type: ignore[arg-type]
    torch.nn.init.normal_(network.classifier[1].weight)  # type: ignore[arg-type]
    data = {"_target_": "vgglab.data.ImageFolder", "root": str(photos), "image_size": size}
    card = {
        "config": {"model": {"_target_": "vgglab.networks.build_vgg", **MODEL}, "data": data},
        "classes": list(classes),
        "preprocessing": Preprocessing((0.5,) * 3, (0.2,) * 3, (size, size), 28).to_dict(),
    }
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "vgglab": card}, path)
    return path


def job(composed: Compose, *overrides: str) -> EvaluateConfig:
    return parse(composed("evaluate", "device=cpu", *overrides), EvaluateConfig)


def test_the_default_equals_the_runs_own_test(composed: Compose, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "evaluation"
    train(parse(composed("train", *TINY, run_dir=run), TrainConfig))
    overrides = f"checkpoint={run / 'checkpoints/best.ckpt'}"
    result = evaluate(parse(composed("evaluate", overrides, run_dir=folder), EvaluateConfig))
    assert result == pytest.approx(json.loads((run / "metrics.json").read_text()), rel=1e-5)
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert set(result) == {"test/top1", "test/top5", "test/loss"}


def test_the_result_says_what_was_done(
    composed: Compose, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path / "a.ckpt", photos)
    evaluate(job(composed, f"checkpoint={path}", "protocol=multi_crop", "scales=[24,28,32]"))
    shown = capsys.readouterr().out
    for part in (str(path), "multi_crop", "scales 24, 28, 32", "150 crops", "8 test images"):
        assert part in shown
    assert "images/s" in shown
    evaluate(job(composed, f"checkpoint={path}"))
    assert "center_crop, scale 28 (1 crop)" in capsys.readouterr().out
    evaluate(job(composed, f"checkpoint={path}", "protocol=dense", "scales=auto"))
    # The paper's {S - d, S, S + d}; d is a seventh of the input, as 32 is of 224.
    assert "dense, scales 25, 28, 31 (6 whole images)" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_images_are_left_out_and_counted(
    workers: int,
    composed: Compose,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = checkpoint(tmp_path / "a.ckpt", photos)
    folder = f"data.root={photos}", "data.image_size=24", f"data.num_workers={workers}"
    given = (f"checkpoint={path}", "protocol=multi_crop", "data=image_folder", *folder)
    broken = photos / "test/bean/1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    with pytest.raises(InputError, match=r"bean/1\.png"):
        evaluate(job(composed, *given))
    result = evaluate(job(composed, *given, "data.on_error=skip"))
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text()) == result
    (line,) = read_skipped(run)
    assert line.startswith(f"{broken}: ")
    shown = capsys.readouterr().out
    assert "7 test images" in shown
    assert "skipped images  1, in " in " ".join(shown.split(" "))
    broken.unlink()
    (run / "skipped.json").unlink()
    assert evaluate(job(composed, *given)) == pytest.approx(result)
    assert not (run / "skipped.json").exists()
    for picture in photos.glob("test/*/*"):
        picture.write_bytes(b"")
    with pytest.raises(InputError, match="none of the 7 images can be read"):
        evaluate(job(composed, *given, "data.on_error=skip"))


def test_several_checkpoints_are_fused(composed: Compose, photos: Path, tmp_path: Path) -> None:
    files = [checkpoint(tmp_path / f"{seed}.ckpt", photos, seed=seed) for seed in (0, 1)]
    fused = f"checkpoint=[{files[0]},{files[1]}]"
    result = evaluate(job(composed, fused, "protocol=dense", "scales=[28,32]", "batch_size=3"))
    data = ImageFolder(root=str(photos))
    data.setup("test")
    alone = []
    for file in files:
        trained = load_trained(file)
        member = Member(trained.network, trained.preprocessing, [28, 32])
        images = data.sets["test"]
        alone.append(posteriors([member], images, "dense", device=CPU, batch_size=8))
    expected = score((alone[0] + alone[1]) / 2, data.sets["test"].labels)
    assert result == pytest.approx(expected, rel=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_networks_of_other_classes_are_not_fused(
    composed: Compose, photos: Path, tmp_path: Path
) -> None:
    one = checkpoint(tmp_path / "one.ckpt", photos)
    three = checkpoint(tmp_path / "three.ckpt", photos, classes=("a", "b", "c"))
    renamed = checkpoint(tmp_path / "renamed.ckpt", photos, classes=("bean", "apple"))
    with pytest.raises(InputError, match=r"one\.ckpt: its 2 classes are not the 3.*three\.ckpt"):
        evaluate(job(composed, f"checkpoint=[{one},{three}]"))
    with pytest.raises(InputError, match=r"one\.ckpt.*renamed\.ckpt"):
        evaluate(job(composed, f"checkpoint=[{one},{renamed}]"))
    with pytest.raises(InputError, match=r"data: its 4 classes are not the 2.*one\.ckpt"):
        evaluate(job(composed, f"checkpoint={one}", "data=synthetic", "data.num_classes=4"))


def test_other_data_comes_in_the_networks_own_size(
    composed: Compose, photos: Path, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "a.ckpt", tmp_path / "moved")
    section = ("data=image_folder", f"data.root={photos}", "data.num_workers=0")
    here = evaluate(job(composed, f"checkpoint={path}", *section, "data.image_size=16"))
    own = evaluate(job(composed, f"checkpoint={checkpoint(tmp_path / 'b.ckpt', photos)}"))
    assert here == own


def test_what_the_network_cannot_take_is_refused_before_anything_is_written(
    composed: Compose, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint(tmp_path / "a.ckpt", photos)
    monkeypatch.delattr(ImageFolder, "load")  # nothing is decoded
    with pytest.raises(InputError, match=r"scales=\[20, 28\]: 20 is too small.*at least 24"):
        evaluate(job(composed, f"checkpoint={path}", "protocol=multi_crop", "scales=[28,20]"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("protocol=ten_crop", "protocol"),
        ("scales=[]", "scales"),
        ("scales=[0]", "scales"),
        ("scales=many", "scales"),
        ("checkpoint=[]", "checkpoint"),
    ],
)
def test_bad_settings_are_named(composed: Compose, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        job(composed, setting)


def test_public_weights_on_a_folder_are_one_command(
    composed: Compose, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_vgg("vgg11", width=0.02, num_classes=2)
    (tmp_path / "checkpoints").mkdir()
    wanted = VGG11_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(network.state_dict(), tmp_path / "checkpoints" / wanted)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    sections = ("model=vgg11", "model.width=0.02", "data=image_folder", f"data.root={photos}")
    protocol = ("protocol=dense", "scales=[224]", "data.num_workers=0", "data.in_memory=false")
    result = evaluate(job(composed, "weights=IMAGENET1K_V1", *sections, *protocol))
    data = ImageFolder(root=str(photos), in_memory=False)
    data.setup("test")
    member = Member(network, data.preprocessing, [224])
    found = posteriors([member], data.sets["test"], "dense", device=CPU, batch_size=8)
    assert result == pytest.approx(score(found, data.sets["test"].labels), rel=1e-5)


def test_weights_need_a_model_and_data(composed: Compose, tmp_path: Path) -> None:
    weights = f"weights={tmp_path / 'weights.pth'}"
    torch.save(
        build_vgg("vgg11", head="compact", width=0.05, num_classes=4).state_dict(), weights[8:]
    )
    with pytest.raises(InputError, match="also needs model"):
        evaluate(job(composed, weights))
    with pytest.raises(InputError, match="give checkpoint"):
        evaluate(job(composed))
    with pytest.raises(InputError, match="checkpoint's own"):
        evaluate(job(composed, "checkpoint=a.ckpt", "model=vgg11"))
    sections = ("model=vgg11", "model.head=compact", "model.width=0.05", "data=synthetic")
    with (
        pytest.warns(UserWarning, match="another number of classes"),
        pytest.raises(InputError, match="do not fit 5 classes"),
    ):
        evaluate(job(composed, weights, *sections, "data.num_classes=5"))
