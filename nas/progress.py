"""Progress with the time left, on stderr: a bar in a terminal, a line now and then elsewhere.

The clock here times epochs for people to plan with; latencies are measured by `latencykit` alone.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINE_INTERVAL_S: Final = 30.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Shows how far a run is; usable by several runs one after the other, each with its own bar."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self._bars = Bars(*columns, *times, console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None
        self._title, self._done, self._total, self._begun = "", 0, 0, 0
        self._start = self._shown = 0.0

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """Start a new bar of `total` units, of which `done` were done before this process."""
        self._task = self._bars.add_task(title, total=total, completed=done, note="")
        self._title, self._total, self._done, self._begun = title, total, done, done
        self._start = self._shown = time.monotonic()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count units done; `note` is shown after the time left."""
        self._done += units
        if self._task is not None:
            self._bars.advance(self._task, units)
            if note:
                self._bars.update(self._task, note=note)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._shown >= LINE_INTERVAL_S:
            self._shown = now
            left = (now - self._start) / (self._done - self._begun) * (self._total - self._done)
            line = f"{self._title}: {self._done}/{self._total}, {left / 60:.0f} min left"
            self._console.print(f"{line}; {note}" if note else line, highlight=False, markup=False)


class Stopwatch:
    """Wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._start
