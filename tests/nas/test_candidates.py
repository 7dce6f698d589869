import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from latencykit.errors import MissingRowError, UsageError
from nas import candidates as module
from nas.candidates import Finder
from nas.config import RaceConfig
from nas.distributed import silent
from nas.macro_space import MacroSpace
from tests.nas.test_race import SPACE, TARGET_MS, price

CONFIG = RaceConfig(candidates=3, chains=0, drawn=8, climb=0, neighbours=2, draws=300, band=0.5)
FINDER = Finder(SPACE, TARGET_MS, CONFIG, price, silent)


def drawn(finder, seed=0):
    return finder.drawn(np.random.default_rng(seed))


@pytest.fixture
def dear_ones_promise_most(monkeypatch):
    monkeypatch.setattr(module, "promise", price)


@pytest.mark.usefixtures("dear_ones_promise_most")
def test_the_most_promising_of_all_that_are_drawn_are_taken():
    everything = drawn(replace(FINDER, config=replace(CONFIG, candidates=24, drawn=1)))
    assert len(everything) == 24
    assert {cost_ms for _, cost_ms in everything} > {max(cost_ms for _, cost_ms in everything)}
    assert [ms for _, ms in drawn(FINDER)] == sorted((cost_ms for _, cost_ms in everything), reverse=True)[:3]


@pytest.mark.usefixtures("dear_ones_promise_most")
def test_each_distance_between_logits_has_its_most_promising_ones():
    space = replace(SPACE, segmentation_stride=(4, 8), output_stride=(1, 2))
    found = drawn(replace(FINDER, space=space))
    assert [network.macro.logit_stride for network, _ in found].count(8) == 1
    assert {network.macro.logit_stride for network, _ in found} == {4, 8, 16}


@pytest.mark.usefixtures("dear_ones_promise_most")
def test_climbing_finds_neighbours_that_promise_more_at_the_same_distance_within_the_band():
    space = replace(SPACE, segmentation_stride=(4, 8))
    plain = replace(FINDER, space=space, config=replace(CONFIG, drawn=1))
    before, after = drawn(plain), drawn(replace(plain, config=replace(plain.config, climb=40)))
    assert all(one <= other <= TARGET_MS for (_, one), (_, other) in zip(before, after, strict=True))
    assert sum(cost_ms for _, cost_ms in after) > sum(cost_ms for _, cost_ms in before)
    assert [n.macro.logit_stride for n, _ in after] == [n.macro.logit_stride for n, _ in before]
    assert all(price(network) == cost_ms for network, cost_ms in after)
    assert len({str(network) for network, _ in after}) == 3


@pytest.mark.usefixtures("dear_ones_promise_most")
def test_chains_of_the_band_come_first_and_the_rest_is_drawn():
    space = replace(SPACE, segmentation_widths=(*SPACE.segmentation_widths, (4, 8, 8)), cell_nodes=(1,))
    (price_of_a_chain,) = {price(network) for network in space.chains}
    finder = replace(FINDER, space=space, config=replace(CONFIG, chains=2, drawn=1))
    found = drawn(finder)
    assert [network in space.chains for network, _ in found] == [True, True, False]
    assert [cost_ms for _, cost_ms in found[:2]] == [price_of_a_chain] * 2
    below = replace(finder, target_ms=price_of_a_chain - 0.5)
    assert not [network for network, _ in drawn(below) if network in space.chains]


def test_there_are_no_more_chains_than_candidates():
    space = replace(SPACE, cell_nodes=(1,))
    found = drawn(replace(FINDER, space=space, config=replace(CONFIG, candidates=1, chains=2)))
    assert [network in space.chains for network, _ in found] == [True]


def test_where_macro_configurations_stand_each_is_another_and_none_has_neighbours():
    space = replace(SPACE, segmentation_widths=((2, 4, 8), (4, 4, 4), (4, 8, 8), (2, 2, 2)))
    finder = replace(FINDER, space=space, one_a_macro=True, config=replace(CONFIG, drawn=1, climb=40))
    found = drawn(finder)
    assert len({network.macro for network, _ in found}) == len(found) == 3
    assert finder.neighbours([network for network, _ in found], np.random.default_rng(0), found) == []


def test_neighbours_are_new():
    found = drawn(FINDER)
    near = FINDER.neighbours([network for network, _ in found], np.random.default_rng(1), found)
    networks = [str(network) for network, _ in (*found, *near)]
    assert len(near) == 6
    assert len(set(networks)) == 9


def test_networks_that_the_table_cannot_price_are_passed_over():
    def partly(network):
        if network.macro.cell_nodes == 2:
            raise MissingRowError("no such kernel")
        return price(network)

    notes: list[str] = []

    @contextmanager
    def noted(title, total, done=0):
        yield lambda *_, note="", **__: notes.append(note)

    assert {network.macro.cell_nodes for network, _ in drawn(replace(FINDER, price=partly, show=noted))} == {1}
    assert re.fullmatch(r"24 found, \d\d? without a price", notes[-1])


def test_where_nothing_has_a_price_the_error_says_so():
    def nothing(network):
        raise MissingRowError("no such kernel")

    with pytest.raises(UsageError, match=r"300 of them run kernels that it cannot price \(nas sample --config\)"):
        drawn(replace(FINDER, price=nothing))


def test_a_target_that_nothing_meets_is_refused():
    with pytest.raises(UsageError, match=r"none of 300 networks of 4 macro configurations .* 0\.1 ms"):
        drawn(replace(FINDER, target_ms=0.1))


def test_the_default_space_is_drawn_from_all_over():
    assert len({network.macro for network in MacroSpace().sample(50)}) > 40
