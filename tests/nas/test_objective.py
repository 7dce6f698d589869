import math

import pytest
import torch

from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, cell_edges
from nas.objective import ExpectedLatency, hard_dice, quality_loss, segmentation_loss, soft_dice_loss
from nas.supernet import ArchitectureParameters


def masks(*rows):
    return torch.tensor(rows, dtype=torch.float32)[:, None, None]


def test_dice_of_the_hard_mask_is_counted_per_image():
    logits = masks([5, 5, -5, -5], [-5, -5, -5, -5], [-5, -5, -5, -5], [0.1, 0.1, 0.1, 0.1])
    truth = masks([1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1])
    assert hard_dice(logits, truth).tolist() == pytest.approx([2 / 3, 1, 0, 1])


def test_cross_entropy_at_even_odds_is_log_two():
    loss, cross_entropy = segmentation_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert loss.item() == cross_entropy.item() == pytest.approx(math.log(2))


def test_the_dice_loss_is_added_where_it_has_a_weight():
    logits, truth = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 1, 4, 4)
    loss, cross_entropy = segmentation_loss(logits, truth, dice_weight=0.5)
    assert (loss - cross_entropy).item() == pytest.approx(0.5 * soft_dice_loss(logits, truth).item())


def test_a_perfect_mask_has_no_dice_loss_and_an_empty_one_a_finite_one():
    truth = masks([1, 1, 0, 0])
    assert soft_dice_loss(200 * truth - 100, truth).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(torch.full_like(truth, -100), torch.zeros_like(truth)).item() == pytest.approx(0, abs=1e-6)


def test_the_quality_target_carries_no_gradient():
    logits, predicted = torch.zeros(2, 1, 4, 4, requires_grad=True), torch.full((2, 1), 0.5, requires_grad=True)
    quality_loss(predicted, logits, torch.ones(2, 1, 4, 4)).backward()
    assert logits.grad is None
    assert predicted.grad.abs().sum() > 0


def test_the_expectation_of_a_certain_choice_is_that_architectures_latency(costs, macro):
    latency = ExpectedLatency(costs)
    for architecture in sample_architectures(macro, 5, seed=1):
        tables = {}
        for cell_type in CELL_TYPES:
            edges = cell_edges(cell_type, macro.cell_nodes)
            tables[cell_type] = torch.zeros(len(edges), 5)
            for row, (edge, name) in enumerate(zip(edges, architecture.choices[cell_type], strict=True)):
                tables[cell_type][row, edge.candidates.index(name)] = 1
        assert latency(tables).item() == pytest.approx(costs.total_ms(architecture))


def test_the_gradient_of_latency_favours_the_cheap(costs, macro):
    alphas = ArchitectureParameters(macro.cell_nodes, torch.Generator().manual_seed(0))
    ExpectedLatency(costs)(alphas.softmax()).backward()
    conv, dilated, separable, identity, zero = alphas.tables["non_scaling"].grad[0].tolist()
    assert dilated > conv > separable > identity == pytest.approx(zero, rel=0.01)
    assert identity < 0 < conv
