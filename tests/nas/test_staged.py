import shutil
from dataclasses import replace

import numpy as np
import pytest

from latencykit.architecture import read_architecture
from latencykit.edges import SearchCosts
from latencykit.errors import InputError
from latencykit.primitives import ZERO
from latencykit.schema import read_json
from latencykit.space import CELL_TYPES, cell_edges
from nas import staged as module
from nas.config import Row, RunConfig, SearchConfig
from nas.finished import check_finished
from nas.macro_space import MacroSpace
from nas.race import TOLERANCE, Race
from nas.race_figure import macro_label, race_figure
from nas.staged import is_searched, search_row
from nas.workspace import Workspace
from tests.nas.test_race import CONFIG, SPACE, TARGET_MS, TRAINING, price

SETTINGS = SearchConfig(epochs=2, warmup_epochs=1, batch_size=4, max_steps_per_epoch=1, target_ms=TARGET_MS)
ROW = Row("raced", "search", macros=SPACE, search={"target_ms": TARGET_MS})
RUN = RunConfig((ROW,), search=SETTINGS, train=TRAINING, race=CONFIG, threads=(1,))


SUPERNETS = {"racers": "supernets", "candidates": 2, "epochs": [1, 2], "search_cells": False}


def prices(macro):
    """Costs by which a network takes what `price` says."""
    edges_ms = {c: np.zeros((len(cell_edges(c, macro.cell_nodes)), 5)) for c in CELL_TYPES}
    for cell_type, array in edges_ms.items():
        for row, edge in zip(array, cell_edges(cell_type, macro.cell_nodes), strict=True):
            row[: len(edge.candidates)] = [float(name != ZERO) for name in edge.candidates]
    return SearchCosts(0.0, edges_ms, "edge", 0.0, 30.0)


@pytest.fixture(scope="module")
def priced():
    """Made-up prices instead of a table's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NetworkPrices", lambda table, threads, pace_hz: price)
        patch.setattr(module, "rhythm", lambda table, threads, pace_hz: pace_hz)
        patch.setattr(module, "search_costs", lambda table, threads, macro, pace_hz: prices(macro))
        yield


@pytest.fixture(scope="module")
def stages(priced, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("staged")
    return search_row(RUN, ROW, SETTINGS, None, data, 0, out), out


def test_the_outcome_is_the_finalist_with_the_best_score(stages):
    found, out = stages
    best = max(found.finalists.values(), key=lambda entry: entry.score)
    assert found.finalists["raced"] == found.race.winner
    assert (found.architecture, found.latency_ms) == (best.network, best.predicted_ms)
    assert read_architecture(out / "architecture.json") == best.network
    assert found.pace_hz == 30.0
    stored = read_json(out / "finalists.json", 10_000_000)
    assert {name: entry["score"] for name, entry in stored.items()} == {
        name: entry.score for name, entry in found.finalists.items()
    }


def test_the_cells_are_searched_in_the_winner_s_macro_configuration(stages):
    found, _ = stages
    assert len(found.history) == SETTINGS.epochs
    assert {entry.network.macro for entry in found.finalists.values()} == {found.race.winner.network.macro}
    assert all(entry.predicted_ms <= (1 + TOLERANCE) * TARGET_MS for entry in found.finalists.values())


def test_stages_that_are_finished_are_done_once(stages, data, monkeypatch):
    found, out = stages
    assert is_searched(ROW, out)
    monkeypatch.setattr(MacroSpace, "draw", None)
    again = search_row(RUN, ROW, SETTINGS, None, data, 0, out)
    assert (again.architecture, again.finalists) == (found.architecture, found.finalists)


def test_a_race_has_a_picture(stages):
    found, out = stages
    assert (out / "race.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = race_figure(found.race, found.finalists).axes
    last = found.race.rounds[-1]
    assert [text.get_text() for text in axes.texts] == [str(rank + 1) for rank in range(len(last))]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["round 1: 4 networks, 1 epochs", "round 2: 2 networks, 2 epochs"]
    assert labels[2:] == [
        *(f"finalist: {name}" for name in found.finalists),
        *(f"{macro_label(e.network.macro)}: predicted Dice off by {e.mae:.3f}" for e in last),
    ]


def test_a_network_that_learned_nothing_stands_at_the_lower_edge_of_the_picture(stages):
    best = replace(stages[0].race.winner, dice=0.85)
    entries = tuple(replace(best, dice=dice) for dice in (0.85, 0.81, 0.0))
    (axes,) = race_figure(Race((entries,)), {"raced": best}).axes
    shown, below = (points.get_offsets()[:, 1].tolist() for points in axes.collections[:2])
    assert (shown, below) == ([0.85, 0.81], [pytest.approx(0.77)])
    assert axes.get_ylim()[0] > 0.75


def test_a_race_may_decide_alone(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "NetworkPrices", lambda table, threads, pace_hz: price)
    monkeypatch.setattr(module, "rhythm", lambda table, threads, pace_hz: None)
    row = replace(ROW, race={"epochs": [1], "candidates": 2, "search_cells": False})
    found = search_row(RUN, row, SETTINGS, None, data, 0, tmp_path)
    assert ([*found.finalists], found.history, len(found.race.rounds)) == (["raced"], (), 1)
    assert found.architecture == found.race.winner.network == read_architecture(tmp_path / "architecture.json")
    assert is_searched(row, tmp_path)
    assert not (tmp_path / "history.jsonl").exists()


@pytest.mark.parametrize("change", [None, {"race": {"candidates": 9}}, {"search": {"target_ms": TARGET_MS / 2}}])
def test_a_finished_race_of_other_settings_is_refused(stages, data, tmp_path, change):
    _, out = stages
    folder = Workspace(tmp_path).seed(ROW.name, 0)
    shutil.copytree(out / "race", folder.search / "race")
    folder.model.write_bytes(b"a model")
    config = replace(RUN, rows=(replace(ROW, **change or {}),), seeds=(0,))
    if change is None:
        check_finished(config, data, Workspace(tmp_path))
    else:
        with pytest.raises(InputError, match=r"a model of other settings \(race\)"):
            check_finished(config, data, Workspace(tmp_path))


@pytest.fixture(scope="module")
def supernets(priced, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("supernets")
    return search_row(RUN, replace(ROW, race=SUPERNETS), SETTINGS, None, data, 0, out), out


@pytest.mark.parametrize(("change", "named"), [({}, None), ({"epochs": 77}, "race")])
def test_a_finished_race_of_supernets_of_another_search_is_refused(supernets, data, tmp_path, change, named):
    _, out = supernets
    folder = Workspace(tmp_path).seed(ROW.name, 0)
    shutil.copytree(out / "race", folder.search / "race")
    folder.model.write_bytes(b"a model")
    row = replace(ROW, race=SUPERNETS, search={**ROW.search, **change})
    config = replace(RUN, rows=(row,), seeds=(0,))
    if named is None:
        check_finished(config, data, Workspace(tmp_path))
    else:
        with pytest.raises(InputError, match=rf"a model of other settings \({named}\)"):
            check_finished(config, data, Workspace(tmp_path))


def test_supernets_may_race_and_what_they_derive_is_trained_like_every_finalist(supernets, data):
    found, out = supernets
    assert [len(entries) for entries in found.race.rounds] == [2, 1]
    folder = out / "race"
    drawn = {read_architecture(folder / f"{index:03d}.json").macro for index in range(2)}
    assert {entry.network.macro for entry in found.race.rounds[0]} <= drawn
    last = found.race.rounds[-1][0]
    found_here = [read_architecture(path) for path in folder.glob(f"*/epochs{last.epochs}/architecture.json")]
    assert found_here.count(last.network) == 1
    assert last.predicted_ms == pytest.approx(price(last.network))
    assert (folder / "raced/weights.safetensors").exists()
    assert found.architecture == last.network
    again = search_row(RUN, replace(ROW, race=SUPERNETS), SETTINGS, None, data, 0, out)
    assert again.finalists == found.finalists


def test_stages_need_a_target(data, tmp_path):
    with pytest.raises(InputError, match="needs a target: --target-ms"):
        search_row(RUN, ROW, SearchConfig(), None, data, 0, tmp_path)
