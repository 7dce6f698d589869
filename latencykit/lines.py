"""Progress as plain lines on standard error, for where there is no terminal, or nothing that could draw a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

FIRST_LINE_S = 2.0
LINE_EVERY_S = 10.0
ENOUGH_SHARE = 0.02
"""Of the units, done before the time left is told: the first ones wait for processes to start."""


class Advance(Protocol):
    """Advances a step by one unit or more, whatever it is called with; `note` is shown beside it."""

    def __call__(self, *_: object, note: str = "", units: int = 1) -> None:
        """So many more units are done."""


Show = Callable[[str, int, int], AbstractContextManager[Advance]]
"""Title, units in all, units done by an earlier process."""


@contextmanager
def lines(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show a step of `total` units, of which an earlier process did `done`; nothing of one that ends within seconds."""
    begin_s = time.monotonic()
    next_s, now_done = begin_s + FIRST_LINE_S, done

    def advance_line(*_: object, note: str = "", units: int = 1) -> None:
        nonlocal now_done, next_s
        now_done += units
        now_s = time.monotonic()
        if now_s >= next_s or (now_done == total and now_s - begin_s >= FIRST_LINE_S):
            line = f"{title}: {now_done}/{total}, {now_s - begin_s:.0f} s"
            if now_done - done >= ENOUGH_SHARE * (total - done):
                left_s = (now_s - begin_s) / (now_done - done) * max(total - now_done, 0)
                line += f", {left_s:.0f} s left"
            sys.stderr.write(f"{line}; {note}\n" if note else f"{line}\n")
            sys.stderr.flush()
            next_s = now_s + LINE_EVERY_S

    yield advance_line
