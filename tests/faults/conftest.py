"""What the fault trials came to, at the end of the test run."""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Trials by kind, as each test recorded it; reports carry that across processes."""
    ran, equal = Counter[str](), Counter[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            kind = dict(report.user_properties).get("trial")
            if report.when == "call" and kind is not None:
                ran[str(kind)] += 1
                equal[str(kind)] += outcome == "passed"
    if ran:
        terminalreporter.section("fault trials")
        for kind in sorted(ran):
            terminalreporter.line(f"{kind}: {equal[kind]} of {ran[kind]}")
        total = f"{equal.total()} of {ran.total()} equal, nothing lost"
        terminalreporter.line(total if equal == ran else f"{equal.total()} of {ran.total()} equal")
