"""Is one measurement slower than another, row by row? Verdicts from medians by process, with three processes enough.

A row's ratio is that of the two quoted figures, medians over processes. How sure it is:

* processes are the independent unit, two sides that ran in the same ones are compared process by process; the
  standard error of a median over them is Maritz and Jarrett's, which is a bootstrap's limit, since processes differ
  with heavy tails: now and then one is 10 % off, with two threads 100 %;
* three processes a side give four degrees of freedom, too few to decide anything. All rows of a setting say together
  what spread is usual, and each row's own is drawn towards that as far as rows resemble each other (the moderated t
  of limma; Smyth 2004);
* p-values against "no change" are corrected over all rows (Benjamini and Hochberg).

SLOWER, FASTER: the change is real (5 % false discoveries) and the ratio is at least the margin from 1.
SAME: the ratio is less than the margin from 1, and its 95 % interval lies within twice the margin: a change of that
size would have been seen. An interval within the margin itself would be a stronger word, but where processes differ by
1.5 %, three a side give an interval of +-2.9 %, and nearly every unchanged row would read UNCLEAR.
UNCLEAR: anything else; more processes would tell. Swapping the two sides swaps FASTER and SLOWER and nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from latencykit.measurement import Measurement

Outcome = Literal["SAME", "FASTER", "SLOWER", "UNCLEAR"]
OUTCOMES: tuple[Outcome, ...] = ("SAME", "FASTER", "SLOWER", "UNCLEAR")

CONFIDENCE = 0.95
FALSE_DISCOVERIES = 0.05
SMALLEST_SPREAD = 1e-3
"""Relative deviation between processes that is always assumed: clocks step, figures are rounded to a nanosecond."""
FEWEST_ROWS = 8
"""Fewer rows say nothing about what spread is usual; each then stands for itself."""
MOST_PRIOR_FREEDOM = 20.0
"""However alike the rows are, a row's own spread keeps some weight."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """One row: the verdict, the ratio of the second to the first with its interval, the corrected p-value."""

    outcome: Outcome
    ratio: float
    interval: tuple[float, float]
    q: float


ONE_MEASUREMENT = Judgement("SAME", 1.0, (1.0, 1.0), 1.0)
"""Both sides are one and the same measurement."""


def judge(
    a: Sequence[Measurement],
    b: Sequence[Measurement],
    groups: Sequence[Hashable],
    margin_pct: float,
    *,
    one_run: bool = False,
) -> list[Judgement]:
    """Judge measurements two by two.

    Args:
        a: one side.
        b: the other, equally long.
        groups: the rows of a group share what spread is usual (a setting).
        margin_pct: a smaller change does not matter.
        one_run: both sides were measured in the same processes, one by one: what one process is slower by than the
            next is no change then. The ratio is the median over processes of theirs.
    """
    medians = [m.process_medians_us for m in a], [m.process_medians_us for m in b]
    return judge_medians(*medians, groups, margin_pct, one_run=one_run)


def judge_medians(
    a_us: Sequence[Sequence[float]],
    b_us: Sequence[Sequence[float]],
    groups: Sequence[Hashable],
    margin_pct: float,
    *,
    one_run: bool = False,
) -> list[Judgement]:
    """`judge` of the medians by process."""
    if not a_us:
        return []
    if one_run:
        shift, variance, n = _medians([np.divide(b, a).tolist() for a, b in zip(a_us, b_us, strict=True)])
        freedom, share = n - 1, 1 / n
    else:
        (centre_a, spread_a, n_a), (centre_b, spread_b, n_b) = _medians(a_us), _medians(b_us)
        shift, freedom, share = centre_b - centre_a, n_a + n_b - 2, 1 / n_a + 1 / n_b
        variance = ((n_a - 1) * spread_a + (n_b - 1) * spread_b) / np.maximum(freedom, 1)
    for group in set(groups):
        chosen = np.array([other == group for other in groups])
        variance[chosen], freedom[chosen] = moderated(variance[chosen], freedom[chosen])
    error = np.sqrt(variance * share)
    freedom = np.maximum(freedom, 1)  # of rows without any, whose error is infinite
    q = stats.false_discovery_control(2 * special.stdtr(freedom, -np.abs(shift) / error))
    reach = error * special.stdtrit(freedom, (1 + CONFIDENCE) / 2)
    margin = np.log1p(margin_pct / 100)
    beyond = np.abs(shift) >= margin
    real = (q <= FALSE_DISCOVERIES) & beyond
    same = ~beyond & (np.abs(shift) + reach < 2 * margin)
    outcomes = np.select([real & (shift > 0), real, same], ["SLOWER", "FASTER", "SAME"], "UNCLEAR")
    rows = zip(outcomes.tolist(), np.exp(shift), np.exp(shift - reach), np.exp(shift + reach), q, strict=True)
    return [Judgement(o, float(ratio), (float(low), float(high)), float(p)) for o, ratio, low, high, p in rows]


def moderated(variance: Floats, freedom: Floats) -> tuple[Floats, Floats]:
    """Variances drawn towards what is usual among them, and the degrees of freedom that they then have.

    Args:
        variance: one a row.
        freedom: degrees of freedom of each; 0 where a row has no spread of its own: infinite if nothing tells it.
    """
    known = freedom > 0
    prior, prior_freedom = 0.0, 0.0
    if known.sum() >= FEWEST_ROWS:
        prior, prior_freedom = _usual(variance[known], freedom[known])
    total = freedom + prior_freedom
    drawn = (freedom * variance + prior_freedom * prior) / np.maximum(total, 1e-9)
    return np.where(total > 0, np.maximum(drawn, SMALLEST_SPREAD**2), np.inf), total


def _usual(variance: Floats, freedom: Floats) -> tuple[float, float]:
    """The usual variance, and how many degrees of freedom that knowledge is worth.

    A scaled F distribution, fitted by the mean and variance of its logarithm (Smyth 2004, section 6.2).
    """
    half, most = freedom / 2, MOST_PRIOR_FREEDOM / 2
    logs = np.log(np.maximum(variance, SMALLEST_SPREAD**2)) - special.digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - special.polygamma(1, half).mean()
    if excess <= special.polygamma(1, most):
        return float(np.exp(logs.mean())), MOST_PRIOR_FREEDOM
    worth = optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, most)
    return float(np.exp(logs.mean() + special.digamma(worth) - np.log(worth))), 2 * worth


def _medians(rows_us: Sequence[Sequence[float]]) -> tuple[Floats, Floats, Floats]:
    """Of each row: the log of its median over processes, n times that median's squared standard error, and n."""
    counts = np.array([len(row) for row in rows_us])
    centre, spread = np.empty(len(rows_us)), np.empty(len(rows_us))
    for n in np.unique(counts):
        chosen = counts == n
        logs = np.sort(np.log([row for row, mine in zip(rows_us, chosen, strict=True) if mine]), axis=1)
        centre[chosen] = np.median(logs, axis=1)
        spread[chosen] = n * _squared_error(logs - centre[chosen, None]) / _excess(int(n))
    return centre, spread, counts.astype(np.float64)


def _squared_error(ordered: Floats) -> Floats:
    """Maritz and Jarrett's squared standard error of each row's median; the rows are sorted."""
    n = ordered.shape[1]
    weights = np.diff(special.betainc((n + 1) / 2, (n + 1) / 2, np.arange(n + 1) / n))
    return np.asarray(ordered**2 @ weights - (ordered @ weights) ** 2)


@cache
def _excess(n: int) -> float:
    """How much too large that is on average where figures are normal: 1.2 times at n = 3, falling to 1."""
    ordered = np.sort(np.random.default_rng(0).standard_normal((20_000, n)), axis=1)
    return float(_squared_error(ordered).mean() / np.median(ordered, axis=1).var()) if n > 1 else 1.0
