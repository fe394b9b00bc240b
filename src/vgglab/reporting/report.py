"""`report.html`: a run's own page, made from the other files of its folder."""

import json
from html import escape
from pathlib import Path
from typing import Any

from vgglab.files import replace_file
from vgglab.reporting.charts import Series, line_chart
from vgglab.reporting.confusion import confusion_section
from vgglab.reporting.history import read_history
from vgglab.reporting.page import code, facts, note, page, section, tiles


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder: one file that needs no network and no script.

    It shows what the folder holds: `metrics.json`, `metrics.csv`, `confusion.json` (`classes`,
    and `matrix` as rows of counts by true class), `environment.json` and `.hydra/`. What is
    missing is left out, so a run that failed has a page as well.

    Returns:
        The path of the page.

    Raises:
        OSError: the folder cannot be written.
        InputError: `metrics.csv` is damaged.
    """
    metrics: dict[str, float] = _load(run_dir / "metrics.json") or {}
    environment: dict[str, Any] = _load(run_dir / "environment.json") or {}
    confusion: dict[str, Any] = _load(run_dir / "confusion.json") or {}
    csv = run_dir / "metrics.csv"
    history = read_history(csv) if csv.exists() else []
    body = (
        section("Result", _result(metrics, history))
        + section("Curves", _curves(history))
        + section("Classes", confusion_section(**confusion) if confusion else "")
        + section("How to reproduce it", _reproduce(environment))
        + section("What was run", _what_was_run(environment, run_dir))
        + _configuration(run_dir)
    )
    folder = run_dir.resolve()
    path = run_dir / "report.html"
    title = f"{folder.parent.name} / {folder.name}"
    subtitle = f"started {environment['started']}" if environment else ""
    replace_file(path, page(title, subtitle, body).encode())
    return path


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _is_accuracy(name: str) -> bool:
    return name.endswith(("/top1", "/top5"))


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _short_percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _result(metrics: dict[str, float], history: list[dict[str, float]]) -> str:
    numbers = {}
    for name, value in sorted(metrics.items(), key=lambda item: not _is_accuracy(item[0])):
        numbers[name] = _percent(value) if _is_accuracy(name) else f"{value:.4g}"
    validated = [row for row in history if "val/top1" in row]
    if validated:
        best = max(validated, key=lambda row: row["val/top1"])
        epoch = f"{best['epoch']:.0f}" if "epoch" in best else "?"
        numbers[f"best val/top1 (epoch {epoch})"] = _percent(best["val/top1"])
    unfinished = "The run did not reach its test: this page shows how far it got."
    return ("" if metrics else note(unfinished, warn=True)) + (tiles(numbers) if numbers else "")


def _curves(history: list[dict[str, float]]) -> str:
    def series(*names: str) -> list[Series]:
        return [Series(n, [(row["step"], row[n]) for row in history if n in row]) for n in names]

    charts = (
        line_chart("Loss", series("train/loss", "val/loss"), "{:.4g}".format),
        line_chart("Accuracy", series("train/top1", "val/top1", "val/top5"), _short_percent),
        line_chart("Learning rate", series("lr"), "{:.3g}".format, from_zero=True),
        line_chart(
            "Images per second",
            series("throughput/images_per_second"),
            "{:,.0f}".format,
            from_zero=True,
        ),
    )
    return f'<div class="grid2">{"".join(charts)}</div>' if any(charts) else ""


def _reproduce(environment: dict[str, Any]) -> str:
    if not environment:
        return ""
    command = f"uv run {environment['command']}"
    git = environment["git"]
    if git is None:
        return code(command) + note("The code was not in a git repository.", warn=True)
    steps = code(f"git checkout {git['commit']}\n{command}")
    if git["dirty"]:
        changes = (
            "The working tree differed from this commit; the SHA-256 of its git diff HEAD was "
            f"{git['diff_sha256']}."
        )
        steps += note(changes, warn=True)
    return steps


def _what_was_run(environment: dict[str, Any], run_dir: Path) -> str:
    pairs: dict[str, str] = {}
    overrides = run_dir / ".hydra" / "overrides.yaml"
    if overrides.exists():
        lines = [
            line.removeprefix("- ") for line in overrides.read_text(encoding="utf-8").splitlines()
        ]
        pairs["overrides"] = " ".join(line for line in lines if line != "[]") or "none"
    if environment:
        hardware = environment["hardware"]
        gpus = [f"{gpu['name']} ({_gibibytes(gpu['memory'])})" for gpu in hardware["gpus"]]
        pairs |= {
            "processor": f"{hardware['cpu']}, {hardware['cores']} cores, "
            f"{_gibibytes(hardware['memory'])}",
            "GPUs": ", ".join(gpus) or "none",
            "system": environment["os"],
            "versions": ", ".join(f"{k} {v}" for k, v in environment["versions"].items() if v),
        }
    return facts(pairs) if pairs else ""


def _configuration(run_dir: Path) -> str:
    config = run_dir / ".hydra" / "config.yaml"
    if not config.exists():
        return ""
    text = escape(config.read_text(encoding="utf-8"))
    return (
        f"<section><details><summary>Configuration</summary><pre>{text}</pre></details></section>"
    )


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.0f} GiB"
