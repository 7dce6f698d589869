import io

import pytest
from rich.console import Console

from nas import progress as module
from nas.progress import LINE_INTERVAL_S, Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def shown(clock, steps, seconds, terminal=False):
    stream = io.StringIO()
    with Progress(Console(file=stream, force_terminal=terminal, width=120)) as progress:
        progress.begin("search", total=10, done=2)
        for _ in range(steps):
            clock[0] += seconds
            progress.advance(note="Dice 0.5")
    return stream.getvalue()


def test_nothing_is_printed_outside_a_terminal_while_there_is_little_to_say(clock):
    assert shown(clock, 4, LINE_INTERVAL_S / 5) == ""


def test_a_line_comes_now_and_then_with_the_time_left_by_this_process_speed(clock):
    assert shown(clock, 4, LINE_INTERVAL_S).splitlines() == [
        "search: 3/10, 4 min left; Dice 0.5",
        "search: 4/10, 3 min left; Dice 0.5",
        "search: 5/10, 2 min left; Dice 0.5",
        "search: 6/10, 2 min left; Dice 0.5",
    ]


def test_a_terminal_shows_a_bar(clock):
    assert "Dice 0.5" in shown(clock, 2, 1.0, terminal=True)
