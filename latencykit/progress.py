"""Progress with an estimate of the time left, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from latencykit.lines import Advance, lines


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

            def advance_bar(*_: object, note: str = "", units: int = 1) -> None:
                bars.advance(task, units)
                if note:
                    bars.update(task, note=note)

            yield advance_bar
        return
    with lines(title, total, done) as advance:
        yield advance


class Stopwatch:
    """Wall-clock seconds since it was made, for people to plan with; latencies are measured by `latencykit.timing`."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._begin_s
