"""Tells after the tests how many hostile files were tried."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                if name == "fuzz" and report.when == "teardown":
                    terminalreporter.write_line(f"fuzzed {text}")
