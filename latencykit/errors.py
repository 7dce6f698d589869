"""The one tree of errors, each with the exit code that the command line ends with.

::

    LatencyKitError                70  internal: an error that nobody foresaw a remedy for
    ├── UsageError                  2  the call's words are off
    ├── MissingRowError             3  a table has no row for what was asked
    ├── NotComparableError          4  another CPU, runtime or setting
    ├── UnfitError                  5  threads refused, or the machine is unfit to measure
    ├── InputError                  6  a file or value from outside is not what it must be
    ├── InterruptedRunError         7  stopped; the same command resumes
    └── RegressionError             8  a comparison or training went wrong beyond its limit

A message says what, the value got, what was expected, and what to run next.
"""

from __future__ import annotations

from typing import ClassVar


class LatencyKitError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code: ClassVar[int] = 70


class UsageError(LatencyKitError):
    """Options that do not fit together."""

    exit_code = 2


class MissingRowError(LatencyKitError):
    """A strict look-up found no row; nothing costs 0 by default."""

    exit_code = 3


class NotComparableError(LatencyKitError):
    """Figures of different CPUs, runtimes or settings would be mixed."""

    exit_code = 4


class UnfitError(LatencyKitError):
    """This machine cannot measure what was asked."""

    exit_code = 5


class InputError(LatencyKitError):
    """A file, array or configuration value is wrong; the message names it and the remedy."""

    exit_code = 6


class InterruptedRunError(LatencyKitError):
    """Work was stopped part-way; what was done is kept and the same command goes on."""

    exit_code = 7


class RegressionError(LatencyKitError):
    """Something got worse than its stated limit allows."""

    exit_code = 8
