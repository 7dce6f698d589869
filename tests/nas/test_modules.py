from dataclasses import replace

import pytest
import torch
from torch import nn

from latencykit.baselines import Baseline, baseline_graph
from latencykit.graph import chain
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Choice, cell_edges, instantiate, template
from latencykit.spec import Add, Conv
from nas.modules import GraphModule, MixedOp
from nas.operations import ConvNorm


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_hot(architecture):
    tables = {}
    for cell_type in CELL_TYPES:
        edges = cell_edges(cell_type, architecture.macro.cell_nodes)
        tables[cell_type] = torch.zeros(len(edges), 5)
        for index, (edge, name) in enumerate(zip(edges, architecture.choices[cell_type], strict=True)):
            if name in edge.candidates:
                tables[cell_type][index, edge.candidates.index(name)] = 1
    return tables


def ran(module):
    """Names of the submodules that run from now on."""
    names = []
    for name, part in module.named_modules():
        if not any(part.children()):
            part.register_forward_hook(lambda *_, name=name: names.append(name))
    return names


@pytest.fixture(scope="module")
def supernet(macro):
    return GraphModule(template(macro), generator())


@pytest.fixture
def architecture(macro):
    return sample_architectures(macro, 1, seed=3)[0]


def test_a_pair_gives_the_three_outputs_of_the_contract():
    module = GraphModule(
        baseline_graph(Baseline(width=4, depth=2, stride=2, quality_width=4, image_size=64)), generator()
    )
    outputs = module.eval()(torch.rand(2, 3, 64, 64))
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {"mask": (2, 1, 64, 64), "uncertainty": (2, 1, 64, 64), "dice": (2, 1)}
    assert all(value.min() >= 0 and value.max() <= 1 for value in outputs.values())


def test_any_graph_with_several_inputs_runs():
    graph = chain((Add(), Conv(3)), ((2, 4, 4), (2, 4, 4)))
    outputs = GraphModule(graph, generator())(
        torch.ones(1, 2, 4, 4), ("output",), given={"input1": torch.ones(1, 2, 4, 4)}
    )
    assert outputs["output"].shape == (1, 3, 4, 4)


def test_equal_generators_give_equal_weights(macro):
    first, second = (GraphModule(template(macro), generator(5)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_is_wanted_is_computed(macro):
    module = GraphModule(template(macro), generator())
    names = ran(module)
    module(torch.rand(2, 3, 32, 32), ("logits",), one_hot(sample_architectures(macro, 1, 0)[0]))
    assert names
    assert not [name for name in names if "quality" in name or "uncertainty" in name]


def test_the_quality_part_alone_agrees_with_the_whole(supernet, architecture):
    supernet.eval()
    image, tables = torch.rand(2, 3, 32, 32), one_hot(architecture)
    whole = supernet(image, ("dice", *supernet.boundary), tables)
    given = {name: whole[name] for name in supernet.boundary}
    assert torch.equal(supernet(image, ("dice",), tables, given)["dice"], whole["dice"])


def test_segmentation_and_quality_share_no_parameter_and_leave_none_out(supernet):
    segmentation = {id(p) for p in supernet.segmentation_parameters()}
    quality = {id(p) for p in supernet.quality_parameters()}
    assert segmentation
    assert quality
    assert not segmentation & quality
    assert segmentation | quality == {id(p) for p in supernet.parameters()}


def test_each_part_is_put_in_training_mode_alone(supernet):
    supernet.train_parts(segmentation=False, quality=True)
    assert not supernet.operations["segmentation/stem1"].training
    assert supernet.operations["quality/stem"].training
    assert not any(part.training for part in supernet.operations["segmentation/down1/edge0"].modules())


def test_every_normalisation_takes_the_statistics(macro):
    module = GraphModule(template(replace(macro, quality_stride=2)), generator())
    module.set_statistics(((0.5,) * 3, (0.25,) * 3))
    scales = [value for name, value in module.state_dict().items() if name.endswith("scale")]
    assert len(scales) == 2
    assert all((scale == 4).all() for scale in scales)


def test_a_one_hot_supernet_is_the_derived_network(supernet, architecture, macro):
    plain = GraphModule(instantiate(architecture), generator(1)).eval()
    shared = supernet.state_dict()
    for name in plain.state_dict():
        head, _, tail = name.partition("/op")
        if tail:  # an edge: its chosen candidate's weights
            cell, edge = head.removeprefix("operations.").rsplit("/edge", 1)
            cell_type = next(t for t in CELL_TYPES if t in cell)
            chosen = architecture.choices[cell_type][int(edge)]
            index, rest = tail.split(".", 1)
            inner = f"{index}.{rest}" if "separable" in chosen else rest
            source = f"{head}.paths.{chosen}.{inner}"
        else:
            source = name
        if source in shared:  # affine parameters of batch norms are the plain network's own, 1 and 0 at first
            plain.state_dict()[name].copy_(shared[source])
        else:
            assert "norm" in source
    image = torch.rand(2, 3, 32, 32)
    expected, found = plain(image), supernet.eval()(image, probabilities=one_hot(architecture))
    for name in expected:  # the batch norm after a pool, at its initial statistics, scales by 1 - 5e-6
        assert torch.allclose(expected[name], found[name], atol=1e-4)


def test_a_node_without_any_contribution_is_zero(supernet, macro):
    tables = {t: torch.zeros(len(cell_edges(t, macro.cell_nodes)), 5) for t in CELL_TYPES}
    outputs = supernet.eval()(torch.rand(2, 3, 32, 32), ("logits", "dice"), tables)
    assert (outputs["logits"] == outputs["logits"][0, 0, 0, 0]).all()  # the head's bias is all that is left
    assert torch.isfinite(outputs["dice"]).all()


def test_a_one_hot_row_runs_one_path_and_zero_makes_no_tensor():
    mixed = MixedOp(Choice(0, "up", 0, "normal", 4, "relu"), (4, 8, 8))
    names = ran(mixed)
    x = torch.rand(1, 4, 8, 8)
    row = torch.tensor([0.0, 1.0, 0, 0, 0])
    mixed(x, row, row.tolist())
    assert names
    assert all(name.startswith("paths.dilated_conv") for name in names)
    assert mixed(x, torch.tensor([0.0, 0, 0, 0, 1]), [0, 0, 0, 0, 1]) is None
    assert "zero" not in mixed.paths


def test_identity_passes_and_weights_scale():
    mixed = MixedOp(Choice(0, "up", 0, "normal", 4, "relu"), (4, 8, 8))
    x, row = torch.rand(1, 4, 8, 8), torch.tensor([0.0, 0, 0, 0.25, 0.75])
    assert torch.equal(mixed(x, row, row.tolist()), 0.25 * x)


def test_the_auxiliary_skip_is_on_edges_that_keep_the_shape_only():
    x, none = torch.rand(1, 4, 8, 8), torch.zeros(5)
    normal = MixedOp(Choice(0, "up", 0, "normal", 4, "relu"), (4, 8, 8))
    down = MixedOp(Choice(0, "down", 0, "down", 4, "relu"), (4, 8, 8))
    assert torch.equal(normal(x, none, none.tolist(), auxiliary=0.5), 0.5 * x)
    assert down(x, none, none.tolist(), auxiliary=0.5) is None


@pytest.mark.parametrize("kind", ["down", "up", "normal"])
def test_candidates_have_batch_norm_without_affine_after_pools_too(kind):
    mixed = MixedOp(Choice(0, "down", 0, kind, 4, "relu"), (4, 8, 8))
    norms = [part for part in mixed.modules() if isinstance(part, nn.BatchNorm2d)]
    convolutions = [part for part in mixed.modules() if isinstance(part, ConvNorm) and part.norm is not None]
    pools = [part for part in mixed.modules() if isinstance(part, nn.MaxPool2d | nn.AvgPool2d)]
    assert len(pools) == (2 if kind == "down" else 0)
    assert len(norms) == len(convolutions) + len(pools)
    assert not any(norm.affine for norm in norms)


@pytest.mark.parametrize("head", ["resize", "depth_to_space", "transposed_conv"])
@pytest.mark.parametrize("uncertainty", ["entropy", "least_confidence"])
@pytest.mark.parametrize("place", ["operation", "node"])
def test_every_macro_option_trains(macro, head, uncertainty, place):
    options = {"head": head, "uncertainty": uncertainty, "activation_place": place, "segmentation_stride": 2}
    module = GraphModule(template(replace(macro, **options)), generator())
    tables = {t: torch.full((len(cell_edges(t, macro.cell_nodes)), 5), 0.2) for t in CELL_TYPES}
    for table in tables.values():
        table.requires_grad_()
    outputs = module(torch.rand(2, 3, 32, 32), ("logits", "dice"), tables)
    (outputs["logits"].square().mean() + outputs["dice"].mean()).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(torch.isfinite(table.grad).all() for table in tables.values())
