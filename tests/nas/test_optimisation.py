import math

import pytest
import torch
from torch import nn

from latencykit.errors import RegressionError
from nas.optimisation import (
    RISE,
    annealed_temperature,
    computed_in,
    cosine_rate,
    one_cycle_rate,
    set_rate,
    take_gradients,
    take_step,
)


@pytest.mark.parametrize("epochs", [1, 2, 7, 40])
def test_the_temperature_ends_where_it_should_whatever_the_number_of_epochs(epochs):
    assert annealed_temperature(5, 0.09, epochs - 1, epochs) == pytest.approx(0.09)


def test_the_temperature_over_forty_epochs_is_the_papers():
    for epoch in range(40):
        assert annealed_temperature(5, 0.09, epoch, 40) == pytest.approx(5 * math.exp(-0.1 * epoch), rel=0.13)


def test_the_cosine_falls_from_the_peak_to_nothing():
    rates = [cosine_rate(0.025, progress / 10) for progress in range(11)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (0.025, pytest.approx(0, abs=1e-12))


def test_one_cycle_rises_to_its_peak_and_falls():
    rates = [one_cycle_rate(3e-3, step / 100) for step in range(101)]
    peak = round(100 * RISE)
    assert rates[peak] == max(rates) == pytest.approx(3e-3)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(3e-3 / 25)
    assert rates[-1] == pytest.approx(3e-7)


def test_a_step_moves_against_the_gradient_and_clips_it():
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.SGD([parameter], 1.0)
    set_rate(optimiser, 0.5)
    take_step(optimiser, 100 * parameter.sum(), [parameter], clip=1.0, where="here")
    assert parameter.item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_anything_changes(bad):
    parameter = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([parameter], 1.0)
    with pytest.raises(RegressionError, match=r"epoch 3 is (nan|inf).*checkpoint.*lower") as caught:
        take_step(optimiser, parameter.sum() * bad, [parameter], 5.0, "the loss in epoch 3")
    assert caught.value.exit_code == 8
    assert parameter.item() == 1


def test_a_gradient_that_is_not_finite_stops_too():
    parameter = nn.Parameter(torch.zeros(1))
    with pytest.raises(RegressionError, match="gradient"):
        take_step(torch.optim.SGD([parameter], 1.0), parameter.sqrt().sum(), [parameter], 5.0, "the loss")


def test_gradients_are_taken_for_the_named_parameters_only():
    weight, alpha = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    take_gradients(torch.optim.SGD([alpha], 0.1), (weight * alpha).sum(), [alpha], "here")
    assert weight.grad is None
    assert alpha.item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("capabilities", "precision", "device", "found"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, "bfloat16", "cpu", "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "bfloat16", "cpu", "float32"),
        ({"avx2": True}, "bfloat16", "cpu", "float32"),
        ({"bf16": True}, "bfloat16", "cpu", "bfloat16"),
        ({"avx2": True}, "bfloat16", "cuda", "bfloat16"),
        ({"avx512_bf16": True}, "float32", "cpu", "float32"),
    ],
)
def test_bfloat16_is_computed_in_where_the_processor_has_it(monkeypatch, capabilities, precision, device, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert computed_in(precision, device) == found
