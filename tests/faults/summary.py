"""What the fault trials and soaks came to, told at the end of the tests.

The tests put it into their reports, which reach the one process that talks to the terminal.
"""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = [report for reports in terminalreporter.stats.values() for report in reports]
    reports = [report for report in found if isinstance(report, pytest.TestReport)]
    measured = [
        (report.nodeid, value)
        for report in reports
        for name, value in report.user_properties
        if name == "measured" and report.when == "teardown"
    ]
    trials = [r for r in reports if "trial" in dict(r.user_properties) and r.when == "call"]
    if measured or trials:
        terminalreporter.section("faults")
    for test, text in sorted(measured):
        terminalreporter.line(f"{test.partition('::')[2]}: {text}")
    if trials:
        terminalreporter.line(_told(trials))


def _told(trials: list[pytest.TestReport]) -> str:
    ran, equal, lost, saves = Counter[str](), Counter[str](), 0, 0
    for report in trials:
        known = dict(report.user_properties)
        kind = str(known["trial"])
        ran[kind] += 1
        equal[kind] += report.outcome == "passed"
        lost += known.get("lost", False) is True
        saves += int(str(known.get("saves", 0)))
    kinds = ", ".join(f"{kind} {equal[kind]} of {ran[kind]}" for kind in ran)
    minutes = (max(r.stop for r in trials) - min(r.start for r in trials)) / 60
    return (
        f"{equal.total()} of {ran.total()} equal; by kind: {kinds}; "
        f"lost saves: {lost} of {saves:,}; {minutes:.1f} minutes"
    )
