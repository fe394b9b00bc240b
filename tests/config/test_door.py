"""What a script does with an error."""

import pytest

from vgglab.config import door
from vgglab.config.door import readable_errors
from vgglab.errors import InputError


def fail(error: Exception) -> None:
    with readable_errors():
        raise error


def test_bad_input_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        fail(InputError("no such\nfile"))
    assert exited.value.code == 2
    assert capsys.readouterr() == ("", "error: no such file\n")


def test_bugs_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())


def test_other_ranks_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit):
        fail(InputError("once is enough"))
    assert capsys.readouterr().err == ""


def test_the_full_traceback_is_there_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "FULL_TRACEBACK", True)
    with pytest.raises(InputError):
        fail(InputError("shown whole"))
