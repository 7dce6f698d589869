"""A command run in this process, as its entry point runs it, and how it ended."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Ended(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Tool = Callable[..., Ended]


def run_command(main: Callable[[], object], *words: object) -> Ended:
    """Run an entry point with these words, the program's name first."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*map(str, words)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())
