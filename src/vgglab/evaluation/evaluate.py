"""scripts/evaluate.py: checkpoints, or public weights, on the test images of a data source."""

import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from torch import nn

from vgglab.config.jobs import EvaluateConfig
from vgglab.data import ImageDataModule
from vgglab.data.transforms import Preprocessing
from vgglab.errors import InputError
from vgglab.evaluation.protocols import (
    Member,
    check_members,
    find_device,
    paper_scales,
    passes,
    posteriors,
    score,
    smallest_scale,
)
from vgglab.evaluation.trained import Trained, data_of, load_trained
from vgglab.networks import load_weights
from vgglab.progress import each
from vgglab.reporting.environment import open_run_folder, write_json
from vgglab.reporting.skipped import skipped_row, write_skipped
from vgglab.reporting.terminal import print_result


def evaluate(job: EvaluateConfig) -> dict[str, float]:
    """Test and write `metrics.json` into the run's folder.

    With `data.on_error=skip` images that cannot be read are left out; `skipped.json` lists them.

    Raises:
        InputError: neither or both of checkpoint and weights, files that do not fit each other or
            the data, or a protocol or scale that the network cannot take.
    """
    device = find_device(job.device)
    members, data = _subject(job)
    check_members(members, job.protocol)
    data.prepare_data()
    data.setup("test")
    images = data.sets["test"]
    skipped: dict[int, str] | None = {} if data.on_error == "skip" else None
    start = time.perf_counter()
    found = posteriors(
        members,
        images,
        job.protocol,
        device=device,
        precision=job.precision,
        batch_size=job.batch_size or data.batch_size,
        num_workers=data.num_workers,
        skipped=skipped,
    )
    seconds = time.perf_counter() - start
    result = score(found, images.labels)
    folder = Path(job.run_dir)
    open_run_folder(folder, job.composition)
    left_out = [*images.skipped, *(skipped or {}).values()]
    if left_out:
        write_skipped(folder, left_out)
    write_json(folder / "metrics.json", result)
    print_result(
        result,
        {
            "what": " + ".join(_names(job)),
            "data": f"{len(images) - len(skipped or ()):,} test images of {type(data).__name__}",
            **skipped_row(folder, left_out),
            "protocol": f"{job.protocol}, {_seen(job, members)}",
            "rate": f"{len(images) / seconds:,.1f} images/s, {seconds:.1f} s",
            "run folder": str(folder),
        },
    )
    return result


def _subject(job: EvaluateConfig) -> tuple[list[Member], ImageDataModule]:
    """What is tested, and on which data."""
    if (job.checkpoint is None) == (job.weights is None):
        raise InputError("give checkpoint=PATH, or weights=... with model=... and data=...")
    if job.checkpoint is None:
        network, data = _public_weights(job)
        return [_member(job, network, data.preprocessing)], data
    if job.model is not None:
        raise InputError("model= is the checkpoint's own; give it with weights= alone")
    files = _names(job)
    trained = [
        load_trained(Path(file), job.allowed_targets)
        for file in each(files, "read checkpoints", unit="files")
    ]
    section = job.data or data_of(trained[0])
    data = section.checked("data", job.allowed_targets).build("data")
    for file, its in zip(files, trained, strict=True):
        _check_classes(data, its, file, "data" if job.data else files[0])
    return [_member(job, its.network, its.preprocessing) for its in trained], data


def _check_classes(data: ImageDataModule, trained: Trained, file: str, source: str) -> None:
    theirs, known = list(data.classes), list(trained.classes)
    if theirs != known:
        label = next(i for i, pair in enumerate(zip_longest(theirs, known)) if len(set(pair)) > 1)
        shown = [repr(names[label]) if label < len(names) else "none" for names in (theirs, known)]
        raise InputError(
            f"{source}: its {len(theirs)} classes are not the {len(known)} that {file} was trained "
            f"on: class {label} is {shown[0]} there and {shown[1]} here"
        )


def _public_weights(job: EvaluateConfig) -> tuple[nn.Module, ImageDataModule]:
    if job.model is None or job.data is None or job.weights is None:
        raise InputError("weights=... also needs model=... and data=...")
    data: ImageDataModule = job.data.build("data")
    network: nn.Module = job.model.build_for(len(data.classes), data.preprocessing.channels)
    if dropped := load_weights(network, job.weights):
        raise InputError(f"weights={job.weights} do not fit {len(data.classes)} classes: {dropped}")
    return network, data


def _member(job: EvaluateConfig, network: nn.Module, preprocessing: Preprocessing) -> Member:
    if isinstance(job.scales, list):
        scales = sorted(set(job.scales))
    elif job.scales is None and preprocessing.resize is not None:
        scales = [preprocessing.resize]  # as in the run's own test
    else:
        wanted = paper_scales(preprocessing, several=job.scales == "auto")
        needed = smallest_scale(Member(network, preprocessing, wanted), job.protocol)
        # Those of the paper that are too small for the network are left out, if not all are.
        scales = [scale for scale in wanted if scale >= needed] or wanted
    return Member(network, preprocessing, scales)


def _names(job: EvaluateConfig) -> list[str]:
    """The checkpoints' files, or the model and its weights."""
    if job.checkpoint is not None:
        return job.checkpoint
    return [f"{job.model and job.model.arguments.get('name')} {job.weights}"]


def _seen(job: EvaluateConfig, members: Sequence[Member]) -> str:
    """How each network saw each image, once where all did the same."""
    found = []
    for member in members:
        shown = ", ".join(map(str, member.scales))
        word = "scale" if len(member.scales) == 1 else "scales"
        found.append(f"{word} {shown} ({passes(job.protocol, len(member.scales))})")
    return " + ".join(dict.fromkeys(found))
