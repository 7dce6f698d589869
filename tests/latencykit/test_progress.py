import pytest
from rich.console import Console

from latencykit import lines
from latencykit import progress as module
from latencykit.lines import FIRST_LINE_S, LINE_EVERY_S
from latencykit.progress import progress


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for where in (lines, module):
        monkeypatch.setattr(where, "time", found)
    return found


def test_a_short_step_shows_nothing_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("measure", 3) as advance:
        for _ in range(3):
            clock.now_s += 0.5
            advance()
    assert capsys.readouterr() == ("", "")


def test_a_long_step_shows_a_line_now_and_then_on_standard_error(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("measure", 40) as advance:
        for _ in range(40):
            clock.now_s += 1
            advance("whatever", "it is called with")
    output, lines = capsys.readouterr()
    assert output == ""
    assert lines.splitlines() == [
        "measure: 2/40, 2 s, 38 s left",
        "measure: 12/40, 12 s, 28 s left",
        "measure: 22/40, 22 s, 18 s left",
        "measure: 32/40, 32 s, 8 s left",
        "measure: 40/40, 40 s, 0 s left",
    ]


def test_the_end_of_a_step_of_some_seconds_is_shown(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("find", 2) as advance:
        for _ in range(2):
            clock.now_s += FIRST_LINE_S / 2
            advance()
    assert capsys.readouterr().err == "find: 2/2, 2 s, 0 s left\n"


def test_more_units_than_foreseen_leave_no_time_below_zero(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("find", 1) as advance:
        for _ in range(3):
            clock.now_s += 11
            advance()
    assert "find: 3/1, 33 s, 0 s left" in capsys.readouterr().err


def test_the_first_units_which_wait_for_processes_give_no_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("lower", 200) as advance:
        for _ in range(4):
            clock.now_s += 3
            advance()
            clock.now_s += LINE_EVERY_S
    assert capsys.readouterr().err.splitlines()[2:] == ["lower: 3/200, 29 s", "lower: 4/200, 42 s, 2058 s left"]


def test_a_step_of_nothing_shows_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with progress("find", 0):
        clock.now_s += 100
    assert capsys.readouterr() == ("", "")


def test_an_error_inside_comes_out(clock: Clock):
    with pytest.raises(ZeroDivisionError), progress("find", 2) as advance:
        advance(1 / 0)


def test_a_terminal_gets_a_bar_on_standard_error(monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(module, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=100))
    with progress("measure", 2) as advance:
        advance()
        advance("name")
    output, bar = capsys.readouterr()
    assert output == ""
    assert "measure" in bar
    assert "2/2" in bar


def test_a_resumed_step_counts_what_was_done_and_estimates_by_its_own_speed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    with progress("search", 10, 6) as advance:
        clock.now_s += LINE_EVERY_S
        advance(note="Dice 0.5")
    assert capsys.readouterr().err == "search: 7/10, 10 s, 30 s left; Dice 0.5\n"


def test_a_stopwatch_counts_from_when_it_was_made(clock: Clock):
    watch = module.Stopwatch()
    clock.now_s += 3
    assert watch.seconds == 3
