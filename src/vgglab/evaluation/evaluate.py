"""scripts/evaluate.py: a checkpoint, or public weights, on the test images of a data source."""

from pathlib import Path

from torch import nn

from vgglab.config.schema import Data, EvaluateConfig
from vgglab.data import ImageDataModule
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.protocols import center_crop, find_device
from vgglab.evaluation.trained import load_trained
from vgglab.networks import load_weights
from vgglab.reporting.environment import open_run_folder, write_json
from vgglab.reporting.terminal import print_result


def evaluate(job: EvaluateConfig) -> dict[str, float]:
    """Test and write `metrics.json` into the run's folder.

    Raises:
        InputError: neither or both of checkpoint and weights, or files that do not fit.
    """
    device = find_device(job.device)
    network, data, preprocessing = _subject(job)
    data.prepare_data()
    data.setup("test")
    result = center_crop(
        network,
        data.test_dataloader(),
        preprocessing.normalize,
        num_classes=len(data.classes),
        device=device,
        precision=job.precision,
    )
    folder = Path(job.run_dir)
    open_run_folder(folder, job.composition)
    write_json(folder / "metrics.json", result)
    images = f"{len(data.sets['test']):,} test images of {type(data).__name__}"
    print_result(
        result,
        {
            "what": str(
                job.checkpoint or f"{job.model and job.model.arguments.get('name')} {job.weights}"
            ),
            "data": images,
            "protocol": job.protocol,
            "run folder": str(folder),
        },
    )
    return result


def _subject(job: EvaluateConfig) -> tuple[nn.Module, ImageDataModule, Preprocessing]:
    """What is tested, on which data, with which input."""
    if (job.checkpoint is None) == (job.weights is None):
        raise InputError("give checkpoint=PATH, or weights=... with model=... and data=...")
    if job.checkpoint is None:
        return _public_weights(job)
    if job.model is not None:
        raise InputError("model= is the checkpoint's own; give it with weights= alone")
    trained = load_trained(Path(job.checkpoint), job.allowed_targets)
    section = job.data or Data.model_validate(trained.config["data"])
    section = section.checked("data", job.allowed_targets)
    data = _data(section, job)
    if list(data.classes) != list(trained.classes):
        raise InputError(
            f"data: its {len(data.classes)} classes are not the {len(trained.classes)} "
            f"that {job.checkpoint} was trained on"
        )
    ours, theirs = data.preprocessing, trained.preprocessing
    if (ours.size, ours.resize) != (theirs.size, theirs.resize):
        raise InputError(
            f"data: images come at {ours.size} (shortest side {ours.resize}), but "
            f"{job.checkpoint} was trained at {theirs.size} ({theirs.resize})"
        )
    return trained.network, data, theirs


def _public_weights(job: EvaluateConfig) -> tuple[nn.Module, ImageDataModule, Preprocessing]:
    if job.model is None or job.data is None or job.weights is None:
        raise InputError("weights=... also needs model=... and data=...")
    data = _data(job.data, job)
    network: nn.Module = job.model.build_for(len(data.classes), data.preprocessing.channels)
    if dropped := load_weights(network, job.weights):
        raise InputError(f"weights={job.weights} do not fit {len(data.classes)} classes: {dropped}")
    return network, data, data.preprocessing


def _data(section: Data, job: EvaluateConfig) -> ImageDataModule:
    if job.batch_size is not None:
        section = section.with_arguments(batch_size=job.batch_size)
    data: ImageDataModule = section.build("data")
    return data
