"""scripts/compare.py: any set of runs side by side."""

import sys
from dataclasses import replace
from pathlib import Path

from vgglab.comparison.finding import common_names, find_runs
from vgglab.comparison.formats import markdown, print_comparison, to_csv, to_json
from vgglab.comparison.groups import Comparison, compare_runs
from vgglab.comparison.page import comparison_page
from vgglab.comparison.runs import OtherScriptError, Run, read_run
from vgglab.comparison.settings import LEFT_OUT
from vgglab.config.errors import explain
from vgglab.config.jobs import CompareConfig
from vgglab.errors import InputError
from vgglab.files import replace_file
from vgglab.progress import each
from vgglab.reporting.environment import open_run_folder
from vgglab.reporting.terminal import console


def compare(job: CompareConfig) -> Comparison:
    """Print the comparison and write `comparison.html`, `.md` and `.csv` into the run's folder.

    A run that is damaged is left out, or is shown without the file that is, and standard error
    says so: it does not hide the others.

    Raises:
        InputError: nothing can be compared, or there is nothing of the name to sort by.
    """
    problems: list[str] = []
    runs = _read(job, problems)
    if not runs:
        why = f": {problems[0]}" if problems else ""
        raise InputError(f"no run of scripts/train.py or evaluate.py in {job.runs}{why}")
    for problem in problems:
        print(f"warning: {explain(InputError(problem))}", file=sys.stderr)
    comparison = compare_runs(runs, job.sort)
    folder = Path(job.run_dir)
    open_run_folder(folder, job.composition)
    texts = {
        "markdown": markdown(comparison, job.price),
        "csv": to_csv(comparison),
        "html": comparison_page(comparison, folder, job.price),
    }
    for form, text in texts.items():
        ending = "md" if form == "markdown" else form
        replace_file(folder / f"comparison.{ending}", text.encode())
    if job.format == "table":
        print_comparison(comparison, console, job.price)
        console.print(f"page: {folder / 'comparison.html'}", soft_wrap=True, highlight=False)
    else:
        sys.stdout.write(to_json(comparison) if job.format == "json" else texts[job.format])
    return comparison


def _read(job: CompareConfig, problems: list[str]) -> list[Run]:
    folders = find_runs(job.runs)
    named = list(zip(folders, common_names(folders), strict=True))
    left_out = (*LEFT_OUT, *job.ignore)
    found: list[Run] = []
    for folder, name in each(named, "read", unit="runs"):
        try:
            run = read_run(folder, name, problems, left_out)
        except InputError as error:
            problems.append(f"left out: {error}")
        except OtherScriptError:
            continue
        else:
            found.append(_priced(run, job.price))
    return found


def _priced(run: Run, price: float | None) -> Run:
    if price is None or "device_hours" not in run.numbers:
        return run
    return replace(run, numbers={**run.numbers, "cost": price * run.numbers["device_hours"]})
