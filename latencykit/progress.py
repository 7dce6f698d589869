"""Progress with an estimate of the time left, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a step of `total` units; the function given back advances it by one, whatever it is called with.

    Nothing is shown for steps that end within two seconds where there is no terminal.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bars:
            task = bars.add_task(title, total=total)
            yield lambda *_: bars.advance(task)
        return
    begin_s = last_s = time.monotonic()
    done = 0

    def advance(*_: object) -> None:
        nonlocal done, last_s
        done += 1
        now_s = time.monotonic()
        if now_s - last_s >= LINE_EVERY_S or (done == total and now_s - begin_s >= 2):
            left_s = (now_s - begin_s) / done * max(total - done, 0)
            sys.stderr.write(f"{title}: {done}/{total}, {now_s - begin_s:.0f} s, {left_s:.0f} s left\n")
            sys.stderr.flush()
            last_s = now_s

    yield advance
