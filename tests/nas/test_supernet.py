import pytest
import torch

from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, cell_edges, template
from nas.modules import GraphModule
from nas.supernet import INITIAL_DEVIATION, SLOTS, ArchitectureParameters, fair_paths, one_hot


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def alphas():
    return ArchitectureParameters(3, generator())


def unused(cell_type):
    return [
        (row, len(edge.candidates)) for row, edge in enumerate(cell_edges(cell_type, 3)) if len(edge.candidates) < SLOTS
    ]


def test_weights_and_architecture_parameters_are_disjoint(alphas, macro):
    module = GraphModule(template(macro), generator())
    assert not {id(p) for p in module.parameters()} & {id(p) for p in alphas.parameters()}
    assert {tuple(p.shape) for p in alphas.parameters()} == {(9, 5), (6, 5)}
    assert len(list(alphas.parameters())) == len(CELL_TYPES)


def test_all_candidates_begin_alike(alphas):
    values = torch.cat([p.flatten() for p in alphas.parameters()])
    assert values.std().item() == pytest.approx(INITIAL_DEVIATION, rel=0.2)


@pytest.mark.parametrize("sample", ["softmax", "soft", "hard"])
def test_rows_sum_to_one_and_unused_slots_have_none_of_it(alphas, sample):
    tables = alphas.softmax() if sample == "softmax" else alphas.gumbel_softmax(0.5, generator(1), sample == "hard")
    for cell_type in CELL_TYPES:
        assert torch.allclose(tables[cell_type].sum(1), torch.ones(len(tables[cell_type])))
        for row, first in unused(cell_type):
            assert (tables[cell_type][row, first:] == 0).all()
    assert unused("up")


@pytest.mark.parametrize("temperature", [5.0, 0.09])
def test_gradients_are_finite_and_unused_slots_get_none(alphas, temperature):
    tables = alphas.gumbel_softmax(temperature, generator(1))
    sum((table * torch.arange(float(SLOTS))).sum() for table in tables.values()).backward()
    for cell_type in CELL_TYPES:
        gradient = alphas.tables[cell_type].grad
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
        for row, first in unused(cell_type):
            assert (gradient[row, first:] == 0).all()


def test_a_hard_sample_is_one_hot_and_still_differentiable(alphas):
    table = alphas.gumbel_softmax(1.0, generator(2), hard=True)["down"]
    assert ((table != 0).sum(1) == 1).all()
    table[:, 0].sum().backward()
    assert alphas.tables["down"].grad.abs().sum() > 0


def test_a_low_temperature_nearly_chooses(alphas):
    cold, warm = (alphas.gumbel_softmax(t, generator(3))["down"].max(1).values.mean() for t in (0.09, 5.0))
    assert cold > 0.9
    assert warm < 0.4


def test_gumbel_noise_picks_each_candidate_as_often_as_softmax_says(alphas):
    with torch.no_grad():
        alphas.tables["down"][:] = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
    noise = generator(4)
    picked = sum(alphas.gumbel_softmax(1.0, noise, hard=True)["down"].detach() for _ in range(400)) / 400
    assert torch.allclose(picked.mean(0), alphas.softmax()["down"][0], atol=0.03)


def test_the_noise_is_the_generators(alphas):
    first, again, other = (alphas.gumbel_softmax(1.0, generator(seed))["up"] for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_entropy_goes_from_one_to_zero_whatever_the_number_of_candidates(alphas):
    assert alphas.entropy() == pytest.approx(dict.fromkeys(CELL_TYPES, 1.0), abs=1e-4)
    with torch.no_grad():
        for table in alphas.parameters():
            table[:, 0] = 100
    assert alphas.entropy() == pytest.approx(dict.fromkeys(CELL_TYPES, 0.0), abs=1e-4)


def test_the_strongest_candidate_is_never_an_unused_slot(alphas):
    with torch.no_grad():
        for table in alphas.parameters():
            table[:, -1] = 100
    for row, first in unused("up"):
        assert alphas.strongest()["up"][row] < first
    assert alphas.strongest()["down"][0] == SLOTS - 1


def test_every_candidate_of_an_edge_runs_once_before_any_runs_twice():
    for cell_type in CELL_TYPES:
        for index, edge in enumerate(cell_edges(cell_type, 3)):
            count = len(edge.candidates)
            drawn = [fair_paths(3, 0, (2, 0), step)[cell_type][index] for step in range(2 * count)]
            assert all(row.sum() == 1 and row.max() == 1 for row in drawn)
            for turn in (drawn[:count], drawn[count:]):
                assert sorted(row.argmax().item() for row in turn) == list(range(count))


def test_fair_paths_are_a_function_of_seed_and_position():
    def drawn(seed, position):
        return torch.cat([fair_paths(3, seed, position, step)["up"] for step in range(4)])

    assert torch.equal(drawn(0, (1, 0)), drawn(0, (1, 0)))
    assert not torch.equal(drawn(0, (1, 0)), drawn(1, (1, 0)))
    assert not torch.equal(drawn(0, (1, 0)), drawn(0, (2, 0)))
    assert not torch.equal(drawn(0, (1, 0)), drawn(0, (1, 2)))


def test_an_architecture_as_probabilities_has_a_row_of_zeros_where_an_edge_is_deleted_that_has_no_zero():
    for architecture in sample_architectures(Macro(), 3, 0):
        tables = one_hot(architecture)
        for cell_type, chosen in architecture.choices.items():
            for row, edge, primitive in zip(tables[cell_type], cell_edges(cell_type, 3), chosen, strict=True):
                assert row.sum() == 1
                assert edge.candidates[row.argmax()] == primitive
    up = tuple(ZERO if i == 1 else edge.candidates[0] for i, edge in enumerate(cell_edges("up", 3)))
    assert ZERO not in cell_edges("up", 3)[1].candidates
    without = type(architecture)(Macro(), {**architecture.choices, "up": up})
    assert one_hot(without)["up"].sum(1).tolist() == [1, 0, *[1] * 7]
