"""The configuration in a run's folder, as a job that repeats the run elsewhere."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException

from vgglab.config.components import is_inside
from vgglab.config.schema import TrainConfig, parse
from vgglab.config.stored import CONFIG, read_stored
from vgglab.errors import InputError

_TRACKING = "vgglab.reporting.tracking"


def stored_job(folder: Path, run_dir: Path, allowed_targets: list[str]) -> TrainConfig:
    """The job of a run's folder, as one that starts afresh in `run_dir` and writes only there.

    Args:
        folder: the run's, perhaps a stranger's.
        run_dir: where the run is repeated.
        allowed_targets: what may be called beside `vgglab.config.components.ALLOWED_PACKAGES`; what
            the folder says of it is ignored.

    Raises:
        InputError: there is no configuration, or it is not one that may run.
    """
    path = folder / CONFIG
    if not folder.is_dir():
        raise InputError(f"run={folder}: no such folder")
    if not path.is_file():
        raise InputError(f"run={folder} is not the folder of a run: it has no .hydra/config.yaml")
    if run_dir.resolve() == folder.resolve():
        raise InputError(f"hydra.run.dir={run_dir} is the run itself; give another folder")
    config = read_stored(folder).config
    try:
        config.run_dir = str(run_dir)
        config.allowed_targets = allowed_targets
        if _is_own(config.get("resume"), folder):
            config.resume = None
        job = parse(config, TrainConfig)
    except (InputError, OmegaConfBaseException, RecursionError) as error:
        raise InputError(f"{path}: {error}") from error
    # Where the run itself was sent to, its repetition is not.
    kept = {k: v for k, v in job.logger.items() if not is_inside(v.target, (_TRACKING,))}
    job = job.model_copy(update={"logger": kept})
    for section, components in (("callbacks", job.callbacks), ("logger", job.logger)):
        for name, component in components.items():
            for setting, value in _texts(f"{section}.{name}", component.arguments):
                _refuse_outside(setting, value, run_dir)
    return job


def _is_own(resume: object, folder: Path) -> bool:
    """Whether a run continued from its own checkpoints: undisturbed, it would have the same end."""
    if not isinstance(resume, str) or resume == "auto":
        return True
    return Path(resume).resolve().is_relative_to(folder.resolve())


def _texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """All texts in nested containers, by their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(name, inner)
    elif isinstance(value, str):
        yield name, value


def _refuse_outside(name: str, value: str, run_dir: Path) -> None:
    """Refuse what would be written over the run's own files, or anywhere else."""
    # The names of folders are relative to the working folder, those of files to the folder's.
    start = Path() if "dir" in name.rpartition(".")[2] else run_dir
    if not (start / value).resolve().is_relative_to(run_dir.resolve()):
        raise InputError(f"{name}={value} leads out of the replay's own folder, {run_dir}")
