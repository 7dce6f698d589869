import pytest

from latencykit.baselines import Baseline, baseline_graph
from latencykit.errors import InputError
from latencykit.graph import chain
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from latencykit.space import instantiate, template
from latencykit.spec import Conv, ConvTranspose, Linear, MaxPool, Resize
from nas.flops import paper_flops


@pytest.mark.parametrize(("width", "exact", "paper_m"), [(8, 887_750_656, 1045), (16, 3_478_257_664, 3635)])
def test_the_baselines_come_out_as_in_table_ii(width, exact, paper_m):
    counted = paper_flops(baseline_graph(Baseline(width)))
    assert counted == exact + 153_452_672
    assert counted == pytest.approx(paper_m * 1e6, rel=0.005)


def test_the_difference_of_the_two_u_nets_is_the_papers():
    wide, narrow = (paper_flops(baseline_graph(Baseline(width))) for width in (16, 8))
    assert (wide - narrow) / 1e6 == pytest.approx(3635 - 1045, abs=1)


def test_a_convolution_counts_its_taps_its_bias_and_four_for_normalisation():
    shape = (3, 10, 10)
    assert paper_flops(chain([Conv(8, norm=False)], [shape])) == 800 * 27
    assert paper_flops(chain([Conv(8, norm=False, bias=True)], [shape])) == 800 * 28
    assert paper_flops(chain([Conv(8)], [shape])) == 800 * 31
    assert paper_flops(chain([Conv(6, groups=3, norm=False)], [shape])) == 600 * 9


def test_a_transposed_convolution_is_counted_at_its_output():
    assert paper_flops(chain([ConvTranspose(4, 2, norm=False)], [(3, 5, 5)])) == 4 * 100 * 3 * 4


def test_a_fully_connected_layer_counts_inputs_times_outputs_and_pools_count_nothing():
    assert paper_flops(chain([Linear(3)], [(7, 1, 1)])) == 21
    assert paper_flops(chain([MaxPool(), Resize(2)], [(7, 8, 8)])) == 0


@pytest.mark.parametrize("stride", [1, 4])
def test_every_searched_network_has_a_count_above_its_true_macs(stride):
    macro = Macro(
        image_size=128, segmentation_stride=stride, segmentation_widths=(4, 8, 16, 32), quality_widths=(8, 8, 16)
    )
    for architecture in sample_architectures(macro, 3, seed=0):
        graph = instantiate(architecture)
        assert paper_flops(graph) > graph.macs


def test_a_template_whose_choices_are_open_is_refused():
    with pytest.raises(InputError, match="Choice"):
        paper_flops(template(Macro()))
