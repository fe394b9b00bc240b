"""What a script does with an error."""

import pytest

from vgglab.config import door
from vgglab.config.door import readable_errors
from vgglab.errors import InputError


def fail(error: BaseException) -> None:
    with readable_errors():
        raise error


def test_bad_input_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        fail(InputError("no such\nfile"))
    assert exited.value.code == 2
    assert capsys.readouterr() == ("", "error: no such file\n")


def test_no_password_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(InputError("no answer from http://me:hunter2@host"))
    assert capsys.readouterr().err == "error: no answer from http://***@host\n"


def test_ctrl_c_is_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        fail(KeyboardInterrupt())
    assert exited.value.code == 130  # what shells say of it
    assert capsys.readouterr() == ("", "stopped\n")


def test_bugs_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_other_processes_let_the_first_one_speak(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only they found must be said by them; what all found ends them while they wait."""
    waited: list[float] = []
    monkeypatch.setattr(door.time, "sleep", waited.append)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SystemExit) as exited:
        fail(InputError("not here"))
    assert exited.value.code == 2
    assert waited == [door._FIRST_SPEAKS]
    assert capsys.readouterr().err == "error: process 1: not here\n"


def test_the_full_traceback_is_there_for_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "FULL_TRACEBACK", True)
    with pytest.raises(InputError):
        fail(InputError("shown whole"))
