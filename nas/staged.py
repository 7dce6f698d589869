"""A row's search: of the cells of one macro configuration or, with `macros`, in stages.

The stages are the default search: a race chooses the macro configuration, a differentiable search its cells, and inner
patients decide. What comes out of the differentiable search is not believed to be better than the race's winner: those
of its derived networks that the table puts at the target are trained as the winner was, and the best one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from latencykit.architecture import write_architecture
from latencykit.errors import InputError
from latencykit.files import write_json
from latencykit.lines import Show
from latencykit.macro import Macro
from latencykit.progress import progress
from latencykit.schema import to_json
from latencykit.space import Architecture
from latencykit.table import Table
from nas.config import Row, RunConfig, SearchConfig
from nas.data import Dataset
from nas.derive import Rule
from nas.distributed import is_first
from nas.figures import save_figure
from nas.learning import ARCHITECTURE_FILE
from nas.prices import NetworkPrices, rhythm, search_costs
from nas.race import RACE_FOLDER, TOLERANCE, Entry, Judge, Race, SupernetJudge, race
from nas.race_figure import race_figure
from nas.search import search
from nas.search_state import derive_run

FINALISTS_FILE = "finalists.json"
RACE_PICTURE = "race.png"
RACED = "raced"


@dataclass(frozen=True)
class Found:
    """What a row's search came to.

    Attributes:
        architecture: the outcome.
        latency_ms: of it, by the table.
        pace_hz: calls a second that the search's costs hold for; None is back to back.
        history: of the differentiable search, one record an epoch; none where a race alone decided.
        finalists: with stages, what each finalist reached; by `raced` or the rule that derived it.
        race: the first stage, where there was one.
    """

    architecture: Architecture
    latency_ms: float
    pace_hz: float | None
    history: Sequence[Mapping[str, Any]]
    finalists: Mapping[str, Entry] = field(default_factory=dict)
    race: Race | None = None


def search_row(
    run: RunConfig,
    row: Row,
    settings: SearchConfig,
    table: Table,
    dataset: Dataset,
    seed: int,
    out: Path,
    show: Show = progress,
) -> Found:
    """Search a row's network pair, or go on with a search that was stopped.

    Writes what `nas.search` writes; with stages also the race's folder `race/`, `race.png` and `finalists.json`, and
    `architecture.json` is then the best finalist.

    Args:
        run: thread counts, rhythm and the race's configuration.
        row: its macro configuration, or those to choose among, and its training recipe.
        settings: of the differentiable search.
        table: prices.
        dataset: the patients of `train`.
        seed: of everything random.
        out: the run's folder.
        show: how far it is.

    Raises:
        LatencyKitError: as `race`, `search` and `search_costs`.
    """
    threads = run.threads[-1]
    if row.macros is None:
        macro = row.macro or Macro()
        costs = search_costs(table, threads, macro, run.pace_hz)
        result = search(settings, dataset, macro, costs, seed, out, show)
        return Found(result.architecture, result.history[-1]["derived_ms"], costs.pace_hz, result.history)
    target_ms, folder, racing = target_of(row, settings), out / RACE_FOLDER, run.race_of(row)

    price = NetworkPrices(table, threads, run.pace_hz)
    costs_of = partial(search_costs, table, threads, pace_hz=run.pace_hz)
    judge = Judge(racing, run.train_of(row), dataset, price, seed, show)
    if racing.racers == "supernets":
        supernets = SupernetJudge(**vars(judge), settings=settings, costs=costs_of)
        raced = race(row.macros, target_ms, supernets, folder)
        best = raced.winner
        finalists = {RACED: judge(best.network, best.predicted_ms, racing.epochs[-1], folder / RACED)}
    else:
        raced = race(row.macros, target_ms, judge, folder)
        finalists = {RACED: raced.winner}
    history: Sequence[Mapping[str, Any]] = ()
    if racing.search_cells:
        macro = raced.winner.network.macro
        history = search(settings, dataset, macro, costs_of(macro), seed, out, show).history
        for rule in get_args(Rule):
            network = derive_run(out, rule)
            known = [entry.network for entry in finalists.values()]
            if network not in known and (cost_ms := price(network)) <= (1 + TOLERANCE) * target_ms:
                finalists[rule] = judge(network, cost_ms, racing.epochs[-1], folder / rule)
    best = max(finalists.values(), key=lambda entry: (entry.meets(target_ms), entry.score))
    if is_first():
        write_architecture(out / ARCHITECTURE_FILE, best.network)
        save_figure(race_figure(raced, finalists), out / RACE_PICTURE)
        write_json(out / FINALISTS_FILE, to_json(finalists))
    pace_hz = rhythm(table, threads, run.pace_hz)
    return Found(best.network, best.predicted_ms, pace_hz, history, finalists, raced)


def target_of(row: Row, settings: SearchConfig) -> float:
    """What a row that chooses among `macros` chooses at, ms; raises `InputError` where it does not say."""
    if settings.target_ms is None:
        raise InputError(f"row {row.name!r} chooses among `macros`; it needs a target: --target-ms, or `target_ms`.")
    return settings.target_ms


def is_searched(row: Row, out: Path) -> bool:
    """Whether a row's search is finished; what it found is then in `architecture.json`."""
    return (out / (ARCHITECTURE_FILE if row.macros is None else FINALISTS_FILE)).exists()
