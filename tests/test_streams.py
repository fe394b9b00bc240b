"""A process whose output nobody reads any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GUARDED = """
import sys
from vgglab.streams import outlive_readers
outlive_readers(goes_on={goes_on})
for _ in range(3):
    print("x" * 20_000)
    print("y", file=sys.stderr)
print("end", flush=True)
open("done", "w").close()
"""

DOOR = """
from vgglab.config.door import readable_errors
with readable_errors(outlives_output={goes_on}):
    print("less than a buffer")
"""


def unread(terminal: bool) -> int:
    """Where writing fails."""
    reader, writer = os.openpty() if terminal else os.pipe()
    os.close(reader)
    return writer


def run(code: str, folder: Path, *, output: int, errors: int) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdout=output,
            stderr=errors,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        for each in {output, errors} - {subprocess.PIPE}:
            os.close(each)


@pytest.mark.parametrize("terminal", [False, True])
def test_what_goes_on_does_so_without_a_reader(terminal: bool, tmp_path: Path) -> None:
    nobody = unread(terminal)
    done = run(GUARDED.format(goes_on=True), tmp_path, output=nobody, errors=nobody)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()


def test_others_end_as_unix_tools_do(tmp_path: Path) -> None:
    code = GUARDED.format(goes_on=False)
    done = run(code, tmp_path, output=unread(False), errors=subprocess.PIPE)
    assert done.returncode == 141
    assert set(done.stderr.split()) <= {"y"}
    assert not (tmp_path / "done").exists()


def test_errors_that_nobody_reads_end_nothing(tmp_path: Path) -> None:
    code = GUARDED.format(goes_on=False)
    done = run(code, tmp_path, output=subprocess.PIPE, errors=unread(False))
    assert (done.returncode, len(done.stdout)) == (0, 60_007)


@pytest.mark.parametrize(("goes_on", "code"), [(True, 0), (False, 141)])
def test_the_door_notices_at_its_end(goes_on: bool, code: int, tmp_path: Path) -> None:
    program = DOOR.format(goes_on=goes_on)
    done = run(program, tmp_path, output=unread(False), errors=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (code, "")


def test_closed_streams_are_as_good_as_unread_ones(tmp_path: Path) -> None:
    code = "import os, sys; sys.stdout = sys.stderr = None\n" + GUARDED.format(goes_on=True)
    done = run(code, tmp_path, output=subprocess.PIPE, errors=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
