"""How far long work is, on a terminal and in a file."""

import io
import re
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from vgglab import progress as module
from vgglab.progress import Work, each, progress


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for."""
    for name in ("_BAR_AFTER", "_LINE_AFTER"):
        monkeypatch.setattr(module, name, 0.0)
    for name in ("_BETWEEN_DRAWINGS", "_BETWEEN_LINES"):
        monkeypatch.setattr(module, name, 0.01)


@pytest.fixture
def screen(at_once: None, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 80 columns is sent."""
    screen = io.StringIO()

    def console(*, stderr: bool, **settings: bool) -> Console:
        assert stderr
        return Console(file=screen, force_terminal=True, width=80, height=24, **settings)

    monkeypatch.setattr(module, "Console", console)
    return screen


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def threads() -> int:
    return threading.active_count()


def test_figures(clock: Clock) -> None:
    work = Work("images", 1000)
    assert work.figures() == "0 of 1,000 images (0 %)"
    clock.now += 3
    work.advance(300)
    assert work.figures() == "300 of 1,000 images (30 %), 100/s, 7 s left"
    assert work.figures(share=False) == "300 of 1,000 images, 100/s, 7 s left"


def test_bytes_are_megabytes(clock: Clock) -> None:
    work = Work("file.bin", 170_000_000, done=20_000_000, unit="bytes")
    clock.now += 10
    work.advance(50_000_000)
    assert work.figures() == "70 of 170 MB (41 %), 5.0 MB/s, 20 s left"


def test_what_was_done_before_counts_as_done_and_not_as_speed(clock: Clock) -> None:
    work = Work("images", 1000, done=900)
    clock.now += 10
    work.advance(50)
    assert work.figures() == "950 of 1,000 images (95 %), 5.0/s, 10 s left"


def test_the_rate_is_of_late(clock: Clock) -> None:
    """Of classes that are there already, thousands of images pass in no time."""
    work = Work("images", 1_000_000)
    work.advance(500_000)
    for _ in range(30):
        clock.now += 5
        work.advance(500)
        figures = work.figures()
    assert "100/s" in figures


def test_slow_work_has_a_rate_too(clock: Clock) -> None:
    work = Work("networks", 10, unit="networks")
    for _ in range(4):
        clock.now += 100
        work.figures()
        work.advance(1)
    assert work.figures() == "4 of 10 networks (40 %), 0.6/min, 10 min 0 s left"


def test_work_without_a_known_end(clock: Clock) -> None:
    work = Work("unpack", None, unit="files")
    clock.now += 2
    work.advance(2500)
    assert work.figures() == "2,500 files, 1,250/s"


def test_short_work_says_nothing_and_leaves_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    before = threads()
    with progress("images", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
    assert threads() == before


def test_a_file_gets_lines_on_standard_error(
    at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ""

    def comes(pattern: str) -> Callable[[], bool]:
        def there() -> bool:
            nonlocal shown
            captured = capsys.readouterr()
            assert captured.out == ""
            shown += captured.err
            return re.search(pattern, shown, re.MULTILINE) is not None

        return there

    with progress("[bold] :smile:", 1000, unit="images") as advance:
        wait_until(comes(r"^\[bold\] :smile:: 0 of 1,000 images \(0 %\)$"))
        advance(400)
        wait_until(comes(r"^\[bold\] :smile:: 400 of 1,000 images \(40 %\), [\d,]+/s, \d+ s left$"))
    assert "\x1b" not in shown
    assert "\r" not in shown


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_only_the_first_process_speaks(
    variable: str,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    before = threads()
    with progress("images", 10) as advance:
        advance(5)
        assert threads() == before
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_goes_when_the_work_is_done(screen: io.StringIO) -> None:
    with progress("images [a]", 1000) as advance:
        advance(500)
        wait_until(lambda: "500 of 1,000 images" in screen.getvalue())
    shown = screen.getvalue()
    assert "images [a]" in shown
    assert "━" in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is shown
    assert "\x1b[2K" in shown[shown.rindex("━") :]  # and the line erased


def test_bars_in_bars(screen: io.StringIO) -> None:
    """Rich draws one display at a time."""
    with progress("networks", 2, unit="networks") as outer:
        for _ in range(2):
            with progress("evaluate", 100) as inner:
                inner(50)
                wait_until(lambda: screen.getvalue().count("50 of 100 images") > 0)
            outer(1)
        wait_until(lambda: "2 of 2 networks" in screen.getvalue())
    assert not module._users


def test_no_line_is_wider_than_the_terminal(screen: io.StringIO) -> None:
    work = Work("evaluate " * 20, 10_000_000)
    work.note = "loss 1.2345"
    with module.shown(work):
        work.advance(123)
        wait_until(lambda: "123 of 10,000,000 images" in screen.getvalue())
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\r", screen.getvalue())
    assert max(map(len, re.split(r"[\r\n]", text))) <= 80


def test_results_stay_on_standard_output(
    screen: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while the bar is shown: rich would send them where it draws."""
    with progress("images", 10):
        wait_until(lambda: "images" in screen.getvalue())
        print('{"top1": 0.5}')
    assert capsys.readouterr().out == '{"top1": 0.5}\n'


def test_an_error_ends_the_bar(screen: io.StringIO) -> None:
    def work() -> None:
        for _ in each(range(10), "images", unit="images"):
            wait_until(lambda: "images" in screen.getvalue())
            raise KeyboardInterrupt

    before = threads()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert threads() == before
    assert screen.getvalue().rstrip().endswith("\x1b[?25h")


def test_each_counts_its_items(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Work] = []
    begin = Work.__init__

    def remember(self: Work, *arguments: object, **named: object) -> None:
        begin(self, *arguments, **named)  # type: ignore[arg-type]
        kept.append(self)

    monkeypatch.setattr(Work, "__init__", remember)
    done = [kept[0].done for _ in each("abc", "letters", unit="letters")]
    assert done == [0, 1, 2]
    assert (kept[0].done, kept[0].total) == (3, 3)
