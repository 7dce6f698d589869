import math

import pytest
import torch
from torch.nn import functional

from latencykit import spec
from latencykit.errors import InputError
from latencykit.space import Choice
from nas.operations import Linear, Normalise, binary_entropy, operation_module

EXAMPLES = {
    "Conv": (spec.Conv(6, stride=2, dilation=2, groups=2), [(4, 9, 8)]),
    "ConvTranspose": (spec.ConvTranspose(6, dilation=2, groups=2, bias=True), [(4, 5, 4)]),
    "MaxPool": (spec.MaxPool(), [(3, 9, 8)]),
    "AvgPool": (spec.AvgPool(), [(3, 9, 8)]),
    "Add": (spec.Add("relu"), [(2, 3, 3), (2, 3, 3), (2, 3, 3)]),
    "Concat": (spec.Concat(), [(2, 3, 3), (1, 3, 3)]),
    "Resize": (spec.Resize(4), [(2, 3, 3)]),
    "DepthToSpace": (spec.DepthToSpace(2), [(8, 3, 3)]),
    "GlobalAveragePool": (spec.GlobalAveragePool(), [(3, 4, 5)]),
    "Linear": (spec.Linear(2), [(3, 1, 1)]),
    "Relu": (spec.Relu(), [(2, 3, 3)]),
    "Sigmoid": (spec.Sigmoid(), [(1, 3, 3)]),
    "Softmax": (spec.Softmax(), [(2, 3, 3)]),
    "Entropy": (spec.Entropy(), [(1, 3, 3)]),
    "LeastConfidence": (spec.LeastConfidence(), [(1, 3, 3)]),
    "Normalise": (spec.Normalise(), [(3, 4, 4)]),
    "Identity": (spec.Identity(), [(2, 3, 3)]),
    "Zero": (spec.Zero(), [(2, 3, 3)]),
}


def test_every_operation_has_an_example_here():
    assert set(EXAMPLES) == set(spec.OPERATIONS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_module_gives_the_shape_that_the_specification_says(name):
    operation, shapes = EXAMPLES[name]
    output = operation_module(operation, tuple(shapes))(*(torch.rand(2, *shape) for shape in shapes))
    expected = operation.output_shape(tuple(shapes))
    assert output.shape == ((2, *expected) if name != "Linear" else (2, 2))


def test_a_foreign_operation_is_named():
    with pytest.raises(InputError, match="Choice"):
        operation_module(Choice(0, "down", 0, "down", 4, "relu"), ((4, 8, 8),))


def test_entropy_is_one_bit_at_even_odds_and_vanishes_with_certainty():
    entropy = binary_entropy(torch.tensor([0.0, 1000.0, -1000.0, math.log(3)]))
    assert entropy[:3].tolist() == [1, 0, 0]
    assert entropy[3].item() == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))


def test_least_confidence_is_symmetric():
    module = operation_module(spec.LeastConfidence(), ((1, 1, 4),))
    assert torch.allclose(module(torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])), torch.tensor([0, 0.4, 1, 0.4, 0]))


@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 5, 5)])
def test_resizing_is_torchs_bilinear_one_in_float32_under_autocast_too(shape):
    x = torch.randn(2, *shape)
    there = functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = operation_module(spec.Resize(4), (shape,))(x)
    assert torch.allclose(found, there, atol=1e-6)


def test_average_pooling_leaves_the_padding_out():
    pooled = operation_module(spec.AvgPool(), ((1, 4, 4),))(torch.ones(1, 1, 4, 4))
    assert torch.equal(pooled, torch.ones(1, 1, 2, 2))


def test_normalise_centres_and_scales_each_channel():
    module = Normalise(2)
    module.set_statistics((0.5, 1.0), (0.25, 2.0))
    assert module(torch.ones(1, 2, 1, 1)).flatten().tolist() == [2, 0]


def test_a_channel_without_variation_is_refused():
    with pytest.raises(InputError, match="standard deviations"):
        Normalise(1).set_statistics((0.5,), (0.0,))


def test_the_predicted_dice_stays_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear(4, 1)(torch.rand(2, 4, 1, 1).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("side", [128, 129])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_1x1_convolution_at_a_stride_is_one_in_either_layout_with_few_channels_too(side, layout):
    """Given the stride, torch 2.13 ends the process there, on CPUs with AVX-512."""
    torch.manual_seed(0)
    operation = spec.Conv(12, 1, stride=2, norm=False, bias=True, activation="none")
    module = operation_module(operation, ((6, side, side),))
    x = torch.randn(4, 6, side, side)
    weight = module.conv.weight.detach().clone().requires_grad_()
    expected = functional.conv2d(x, weight, module.conv.bias, stride=2)
    found = module.to(memory_format=layout)(x.to(memory_format=layout))
    cotangent = torch.randn_like(expected)
    (found * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(module.conv.weight.grad, weight.grad, rtol=1e-4, atol=1e-3)


def test_he_initialisation_keeps_the_variance_through_a_convolution():
    module = operation_module(spec.Conv(64, norm=False), ((64, 32, 32),))
    module.initialise(torch.Generator().manual_seed(0))
    x = torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(1))
    assert module(x)[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(1, rel=0.1)


def test_he_initialisation_counts_the_taps_that_a_transposed_convolution_really_has():
    module = operation_module(spec.ConvTranspose(64, norm=False), ((64, 16, 16),))
    module.initialise(torch.Generator().manual_seed(0))
    x = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    assert module(x)[..., 2:-2, 2:-2].square().mean().item() == pytest.approx(1, rel=0.1)
