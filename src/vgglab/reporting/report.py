"""`report.html`: a run's own page, made from the other files of its folder."""

from functools import partial
from pathlib import Path
from statistics import mean, median

from vgglab.config.jobs import ReportConfig
from vgglab.errors import InputError
from vgglab.files import is_occupied, replace_file
from vgglab.reporting.charts import Series, line_chart
from vgglab.reporting.confusion import confusion_section
from vgglab.reporting.history import best_validation, curve
from vgglab.reporting.mistakes import mistakes_section
from vgglab.reporting.network import network_section
from vgglab.reporting.outcome import outcome_banner, reproduction, what_was_run
from vgglab.reporting.page import code, details, page, section, tiles
from vgglab.reporting.record import RunRecord, read_record
from vgglab.reporting.skipped import skipped_section
from vgglab.reporting.status import Status
from vgglab.reporting.terminal import console
from vgglab.text import duration, is_accuracy, percent

_OF_A_RUN = (".hydra/config.yaml", "metrics.csv", "metrics.json")
_SPEED = "throughput/images_per_second"
_WAIT = "throughput/data_wait_fraction"
_USE = "throughput/mfu"


def report(job: ReportConfig) -> None:
    """Write the page of each run again, and say where it is.

    Raises:
        InputError: a folder holds no run, or a file in it is damaged.
        OSError: a folder cannot be written.
    """
    folders = [Path(run) for run in job.runs]
    for folder in folders:
        if not any((folder / name).exists() for name in _OF_A_RUN):
            raise InputError(f"{folder} holds no run: there is no {' or '.join(_OF_A_RUN)}")
    for folder in folders:
        path = write_report(folder, is_running=is_occupied(folder))
        console.print(str(path), soft_wrap=True)


def write_report(run_dir: Path, is_running: bool = False) -> Path:
    """Write `report.html` into a run's folder: one file that needs no network and no script.

    What is missing in the folder is left out, so a run that failed has a page as well.

    Args:
        run_dir: the folder; `vgglab.reporting.record` says what may lie in it.
        is_running: a process trains in it now.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written.
        InputError: a file in it is damaged.
    """
    run = read_record(run_dir)
    folder = run_dir.resolve()
    body = (
        outcome_banner(run, run_dir, is_running)
        + section("Result", _result(run))
        + section("Curves", _curves(run.history))
        + section("Classes", confusion_section(run.confusion) if run.confusion else "")
        + section("Worst mistakes", mistakes_section(run.mistakes))
        + section(f"Skipped images: {len(run.skipped):,}", skipped_section(run.skipped))
        + section("Speed and cost", _speed(run.history) + _cost(run.history, run.status))
        + section("How to reproduce it", reproduction(run, run_dir))
        + section("What was run", what_was_run(run))
        + (network_section(run.network) if run.network else "")
        + (details("Configuration", code(run.config)) if run.config else "")
    )
    path = run_dir / "report.html"
    title = f"{folder.parent.name} / {folder.name}"
    replace_file(path, page(title, _subtitle(run), body).encode())
    return path


def _subtitle(run: RunRecord) -> str:
    if run.status is not None:
        return f"started {run.status.started}"
    return f"started {run.environment.started}" if run.environment is not None else ""


_rough_percent = partial(percent, form=".3g")


def _result(run: RunRecord) -> str:
    numbers = {}
    metrics = run.metrics or {}
    for name, value in sorted(metrics.items(), key=lambda item: not is_accuracy(item[0])):
        numbers[name] = percent(value) if is_accuracy(name) else f"{value:.4g}"
    if (best := best_validation(run.history)) is not None:
        epoch = f"{best['epoch']:.0f}" if "epoch" in best else "?"
        numbers[f"best val/top1 (epoch {epoch})"] = percent(best["val/top1"])
    return tiles(numbers) if numbers else ""


def _series(history: list[dict[str, float]], *names: str) -> list[Series]:
    return [Series(name, curve(history, name), trend=name != "lr") for name in names]


def _curves(history: list[dict[str, float]]) -> str:
    accuracies = _series(history, "train/top1", "val/top1", "val/top5")
    return _grid(
        "grid2",
        line_chart("Loss", _series(history, "train/loss", "val/loss"), "{:.4g}".format),
        line_chart("Accuracy", accuracies, partial(percent, form=".4g")),
    )


def _speed(history: list[dict[str, float]]) -> str:
    whole = "{:,.0f}".format
    return _grid(
        "grid3",
        line_chart("Images per second", _series(history, _SPEED), whole, from_zero=True),
        line_chart("Waiting for data", _series(history, _WAIT), _rough_percent, from_zero=True),
        line_chart("Learning rate", _series(history, "lr"), "{:.3g}".format, from_zero=True),
    )


def _cost(history: list[dict[str, float]], status: Status | None) -> str:
    numbers = {}
    # Of the speed the median: the first rows hold the warm-up, others a validation.
    for name, label, summed, shown in (
        (_SPEED, "images/s (median)", median, "{:,.0f}".format),
        (_WAIT, "of the time waiting for data", mean, _rough_percent),
        (_USE, "of peak arithmetic (mfu)", median, _rough_percent),
    ):
        values = [value for _, value in curve(history, name)]
        if values:
            numbers[label] = shown(summed(values))
    if status is not None and status.seconds > 0:
        numbers["training and test"] = duration(status.seconds)
        is_short = status.device_seconds < 360
        unit = ("device-seconds", 1) if is_short else ("device-hours", 3600)
        numbers[unit[0]] = f"{status.device_seconds / unit[1]:.3g}"
        numbers["device" if status.devices == 1 else "devices"] = f"{status.devices:,}"
        if status.attempts > 1:
            numbers["attempts"] = f"{status.attempts:,}"
    return tiles(numbers) if numbers else ""


def _grid(kind: str, *charts: str) -> str:
    return f'<div class="{kind}">{"".join(charts)}</div>' if any(charts) else ""
