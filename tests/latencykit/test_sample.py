"""The sampler: seeded, stable under a longer sample, valid and uniform."""

from collections import Counter
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latencykit.errors import UsageError
from latencykit.macro import Macro
from latencykit.primitives import ZERO
from latencykit.sample import sample_architectures, sparse_architectures
from latencykit.space import CELL_TYPES, Architecture, cell_edges, instantiate
from tests.latencykit.running import MACROS, SMALL


def test_a_longer_sample_begins_with_the_shorter_one() -> None:
    assert sample_architectures(SMALL, 12, 7)[:5] == sample_architectures(SMALL, 5, 7)


def test_the_nth_architecture_does_not_depend_on_the_count() -> None:
    assert sample_architectures(SMALL, 4, 7)[3] == sample_architectures(SMALL, 30, 7)[3]


def test_the_same_seed_gives_the_same_sample_and_another_seed_another() -> None:
    assert sample_architectures(SMALL, 5, 7) == sample_architectures(SMALL, 5, 7)
    first, second = sample_architectures(SMALL, 5, 7), sample_architectures(SMALL, 5, 8)
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_neighbouring_seeds_do_not_share_architectures() -> None:
    """The n-th of seed s is not the (n-1)-th of seed s + 1."""
    drawn = [str(a.choices) for seed in range(8) for a in sample_architectures(SMALL, 8, seed)]
    assert len(set(drawn)) == len(drawn)


def test_choices_do_not_depend_on_the_rest_of_the_macro_configuration() -> None:
    assert sample_architectures(SMALL, 1, 7)[0].choices == sample_architectures(Macro(), 1, 7)[0].choices


def test_a_known_architecture_stays_the_same_over_versions() -> None:
    """Tables and reports name networks by seed and number: a change of this is a change of all of them."""
    (architecture,) = sample_architectures(Macro(), 1, 7)
    assert architecture.choices["contracting"] == (
        "down_conv",
        "down_separable_conv",
        "zero",
        "down_dilated_conv",
        "dilated_conv",
        "dilated_conv",
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63), st.sampled_from(list(MACROS.values())))
def test_every_sampled_architecture_is_valid_and_expands(seed: int, macro: Macro) -> None:
    (architecture,) = sample_architectures(macro, 1, seed)
    assert set(instantiate(architecture).outputs) == {"mask", "uncertainty", "dice"}


def test_candidates_are_drawn_alike() -> None:
    sample = sample_architectures(SMALL, 1000, 3)
    for index, edge in enumerate(cell_edges("down", 3)):
        counts = Counter(a.choices["down"][index] for a in sample)
        assert set(counts) == set(edge.candidates)
        assert max(abs(count - 200) for count in counts.values()) < 5 * np.sqrt(200 * 0.8)  # five standard deviations


def test_a_node_that_has_a_single_edge_never_draws_zero() -> None:
    counts = Counter(a.choices["non_scaling"][0] for a in sample_architectures(SMALL, 300, 3))
    assert ZERO not in counts
    assert len(counts) == 4


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (-1, 1), (1, -1)])
def test_no_architecture_or_a_negative_seed_is_a_usage_error(count: int, seed: int) -> None:
    with pytest.raises(UsageError, match=f"{count} networks of seed {seed}; expected"):
        sample_architectures(SMALL, count, seed)


def test_the_papers_space_has_the_median_macs_of_decision_7() -> None:
    macs = [instantiate(architecture).macs / 1e6 for architecture in sample_architectures(Macro(), 60, 1)]
    assert median(macs) == pytest.approx(382, rel=0.05)


# The light end


def deleted(architectures: list[Architecture]) -> list[float]:
    """Share of the edges with a `zero` that it was chosen on, network by network."""
    shares = []
    for architecture in architectures:
        edges = [
            (edge, c) for t in CELL_TYPES for edge, c in zip(cell_edges(t, 3), architecture.choices[t], strict=True)
        ]
        chosen = [c == ZERO for edge, c in edges if ZERO in edge.candidates]
        shares.append(sum(chosen) / len(chosen))
    return shares


def test_sparse_networks_have_ever_more_deleted_edges_and_all_are_whole() -> None:
    macro = MACROS["small"]
    shares = np.mean([deleted(sparse_architectures(macro, 20, seed)) for seed in range(8)], axis=0)
    uniform = float(np.mean(deleted(sample_architectures(macro, 100, 1))))
    assert abs(shares[0] - uniform) < 0.12
    assert shares[-1] > 0.7  # every node keeps an edge
    assert np.corrcoef(np.arange(20), shares)[0, 1] > 0.95
    lightest, heaviest = (median(instantiate(a).macs for a in found) for found in (
        sparse_architectures(macro, 20, 1)[-5:], sample_architectures(macro, 20, 1)
    ))  # fmt: skip
    assert lightest < 0.8 * heaviest


def test_a_sparse_sample_depends_on_its_seed_and_count_alone() -> None:
    assert sparse_architectures(SMALL, 6, 7) == sparse_architectures(SMALL, 6, 7)
    assert sparse_architectures(SMALL, 6, 7) != sparse_architectures(SMALL, 6, 8)
    assert sparse_architectures(SMALL, 0, 7) == []
