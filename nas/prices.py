"""What a run asks of a latency table: one that covers its rows, whether it is true, the costs of its searches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from latencykit.architecture import Network
from latencykit.bench import VALIDATION_PROTOCOL
from latencykit.calibrate import fit_table, fits, networks_to_lower, space_needs
from latencykit.coverage import lower_all, network_kernels
from latencykit.doctor import doctor
from latencykit.edges import SearchCosts, cost, fit_edges, held_out, lower_samples
from latencykit.errors import MissingRowError, NotComparableError
from latencykit.figures import save_figure, validation_figure
from latencykit.files import write_json
from latencykit.instructions import used_cpu
from latencykit.interpolation import with_interpolated
from latencykit.lock import only_writer
from latencykit.macro import Macro
from latencykit.predict import predict_kernels
from latencykit.progress import progress
from latencykit.report import validation_json
from latencykit.runtime import Setting, runtime_version
from latencykit.schema import read_json, to_json
from latencykit.selection import choose_networks
from latencykit.space import Architecture
from latencykit.sweep import build, plan_build
from latencykit.table import Table
from latencykit.table_file import load_table, save_table, table_checksum
from latencykit.topology import check_threads
from latencykit.validate import timed_networks, validate

VALIDATION_SEED = 7
RACED_FIT_NETWORKS = 480
"""Networks that the edge costs of a macro configuration without stored ones are fitted to."""
MAX_VALIDATION_BYTES = 100_000_000


def ensure_table(path: Path, macros: Sequence[Macro], threads: Sequence[int], own: bool = True) -> Table:
    """The table at `path`; measured on this machine where there is none.

    A table of any CPU will do if it has the edge costs of these macro configurations.

    Args:
        path: the table.
        macros: of the searched rows.
        threads: of the search and of the latencies.
        own: it is the run's own, and is completed where it lacks costs; one that a user named is not written to.

    Raises:
        MissingRowError: a named table lacks costs.
        NotComparableError: costs are missing and the table is of another machine.
        InterruptedRunError: another process is measuring it.
        UnfitError: more threads than physical processors.
    """
    settings = [Setting(count) for count in threads]
    if path.exists():
        table = load_table(path)
        if all(table.has_edges(setting, macro, None) for setting in settings for macro in macros):
            return table
        lacking = [str(setting) for setting in settings if setting not in table.settings]
        try:
            table.require_same_machine(used_cpu(), {"onnxruntime": runtime_version()})
        except NotComparableError as error:
            if not lacking:
                raise
            there = " and ".join(map(str, table.settings))
            raise NotComparableError(
                f"{table.name} is of another machine and has costs at {there} only, not at {' and '.join(lacking)}: "
                "change `threads` in the configuration, or have a kit measure there (latencykit kit make)."
            ) from error
        if not own:
            counts = ",".join(map(str, threads))
            raise MissingRowError(
                f"{table.name} lacks edge costs of this search. Add them: latencykit build --out {path} --threads "
                f"{counts}, with --space FILE if the macro configuration is not the paper's at stride 1, 2 or 4."
            )
    for count in threads:
        check_threads(count)
    with progress("lower networks", networks_to_lower() * len(macros)) as advance:
        needs = space_needs(macros, advance=advance)
    with only_writer(path):
        plan = plan_build(path, settings, needs.keys, needs.calibration)
        total = plan.sample_sets() + fits(len(settings), len(macros))
        with progress("measure and fit the latency table", total) as advance:
            fit = partial(fit_table, samples=needs.samples, advance=advance)
            return build(path, plan, doctor(), advance=advance, fit=fit).table


def with_kernels_of(table: Table, networks: Sequence[Network], threads: Sequence[int], path: Path) -> Table:
    """The table with the kernels of these networks, measured here into a table at `path` that is begun as its copy.

    A table of another machine is taken as it is: kernels that it lacks are interpolated where they can be. Where the
    table has changed since the copy was begun, a new copy takes over the kernels that only the old one has.

    Raises:
        NotComparableError: the table at `path` is of another machine.
        InterruptedRunError: another process is measuring it.
    """
    here = used_cpu(), {"onnxruntime": runtime_version()}
    try:
        table.require_same_machine(*here)
    except NotComparableError:
        return table
    copy = load_table(path) if path.exists() else None
    begun = table_checksum(table)
    if copy is not None and begun in (table_checksum(copy), *copy.parents):
        table = copy
    elif copy is not None:
        copy.require_same_machine(*here)
        known = {(row.setting, row.key) for row in table.rows}
        table = table.with_rows([row for row in copy.rows if (row.setting, row.key) not in known])
        table = replace(table, parents=(*table.parents, begun))
    with progress("lower networks", len(networks)) as advance:
        kernels = dict.fromkeys(kernel for counts in lower_all(networks, advance) for kernel in counts)
    settings = [table.setting(count) for count in threads]
    complete = all(table.has(setting, kernel) for setting in settings for kernel in kernels)
    if complete and (copy is None or table is copy):
        return table
    with only_writer(path):
        if table is not copy:
            save_table(table, path)
        if complete:
            return table
        plan = plan_build(path, settings, kernels)
        with progress("measure kernels of the macro configurations", plan.sample_sets()) as advance:
            return build(path, plan, doctor(), advance=advance).table


def validate_table(table: Table, macro: Macro, threads: int, networks: int, out: Path) -> bool:
    """Write `validation.json` and `validation.png` of a table, unless they are there for this very question.

    Returns:
        False where the table is of another machine, so that this one's timing says nothing about it.
    """
    target, picture = out / "validation.json", out / "validation.png"
    asked = {"table_sha": table_checksum(table), "threads": threads, "n": networks, "macro": json.dumps(to_json(macro))}
    if target.exists() and picture.exists():
        before = read_json(target, MAX_VALIDATION_BYTES)
        if isinstance(before, dict) and asked.items() <= before.items():
            return True
    try:
        table.require_same_machine(used_cpu(), {"onnxruntime": runtime_version()})
    except NotComparableError:
        return False
    setting = table.setting(threads)
    chosen = choose_networks(table, setting, macro, networks, VALIDATION_SEED)
    journal = out / "validation.journal"
    total = timed_networks(table, setting, chosen) * VALIDATION_PROTOCOL.processes
    with progress("validate the table", total) as advance:
        found = validate(table, setting, chosen, journal=journal, advance=advance)
    save_figure(validation_figure(found), picture)
    write_json(target, {**validation_json(found), **asked, "seed": VALIDATION_SEED})
    journal.unlink()
    return True


def search_costs(table: Table, threads: int, macro: Macro, pace_hz: float) -> SearchCosts:
    """The search's costs under a macro configuration: paced where the table has that rhythm, else back to back.

    A configuration without stored edge costs gets them fitted here, kernels that the table lacks being interpolated.

    Raises:
        MissingRowError: kernels that cannot be interpolated.
        NotComparableError: no stored edge costs, and this host's instruction set or runtime gives other kernels.
    """
    setting = table.setting(threads)
    for rate in (pace_hz, None):
        if table.has_edges(setting, macro, rate):
            return cost(table, setting, macro, pace_hz=rate)
    table.require_same_kernels(used_cpu(), {"onnxruntime": runtime_version()})
    with progress("lower networks", RACED_FIT_NETWORKS + held_out(RACED_FIT_NETWORKS)) as advance:
        samples = lower_samples(macro, RACED_FIT_NETWORKS, advance)
    whole = with_interpolated(table, setting, [kernel for counts in samples.kernels for kernel in counts])
    return fit_edges(whole, setting, samples, rhythm(table, threads, pace_hz))


class NetworkPrices:
    """What a table says of networks, ms, lowered on this CPU; kernels that it lacks are interpolated.

    Guesses are kept, so that the next network with such a kernel costs a look.

    Raises:
        MissingRowError: kernels that cannot be interpolated, when called.
        NotComparableError: this host's instruction set or runtime gives other kernels.
    """

    def __init__(self, table: Table, threads: int, pace_hz: float) -> None:
        table.require_same_kernels(used_cpu(), {"onnxruntime": runtime_version()})
        self._table = table
        self._setting = table.setting(threads)
        self._pace_hz = rhythm(table, threads, pace_hz)

    def __call__(self, network: Architecture) -> float:
        kernels = network_kernels(network)
        self._table = with_interpolated(self._table, self._setting, kernels)
        return predict_kernels(self._table, self._setting, kernels, pace_hz=self._pace_hz).latency_us / 1000


def rhythm(table: Table, threads: int, pace_hz: float) -> float | None:
    """The calls a second that a table prices networks at: those asked for, or None where it is back to back only."""
    return pace_hz if table.model(table.setting(threads), pace_hz) is not None else None
