"""Progress with an estimate of the time left, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FIRST_LINE_S = 2.0
LINE_EVERY_S = 10.0


class Advance(Protocol):
    """Advances a step by one unit, whatever it is called with; `note` is shown beside it."""

    def __call__(self, *_: object, note: str = "") -> None:
        """One more unit is done."""


Show = Callable[[str, int, int], AbstractContextManager[Advance]]
"""Title, units in all, units done by an earlier process."""


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show a step of `total` units, of which an earlier process did `done`.

    Nothing is shown for steps that end within two seconds where there is no terminal. A process that works beside
    others, each with a step of its own, writes lines too.
    """
    console = Console(stderr=True)
    if console.is_terminal and multiprocessing.parent_process() is None:
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, console=console
        ) as bars:
            task = bars.add_task(title, total=total, completed=done, note="")

            def advance_bar(*_: object, note: str = "") -> None:
                bars.advance(task)
                if note:
                    bars.update(task, note=note)

            yield advance_bar
        return
    begin_s = time.monotonic()
    next_s, now_done = begin_s + FIRST_LINE_S, done

    def advance_line(*_: object, note: str = "") -> None:
        nonlocal now_done, next_s
        now_done += 1
        now_s = time.monotonic()
        if now_s >= next_s or (now_done == total and now_s - begin_s >= FIRST_LINE_S):
            left_s = (now_s - begin_s) / (now_done - done) * max(total - now_done, 0)
            line = f"{title}: {now_done}/{total}, {now_s - begin_s:.0f} s, {left_s:.0f} s left"
            sys.stderr.write(f"{line}; {note}\n" if note else f"{line}\n")
            sys.stderr.flush()
            next_s = now_s + LINE_EVERY_S

    yield advance_line


class Stopwatch:
    """Wall-clock seconds since it was made, for people to plan with; latencies are measured by `latencykit.timing`."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._begin_s
