from dataclasses import replace

import pytest

from latencykit.architecture import read_architecture
from latencykit.errors import InputError, InterruptedRunError
from latencykit.primitives import ZERO
from nas.config import RaceConfig, TrainConfig
from nas.macro_space import MacroSpace
from nas.race import Judge, race
from tests.nas.test_search import stops_at

SPACE = MacroSpace(
    segmentation_stride=(8,), segmentation_widths=((2, 4, 8), (4, 4, 4)), output_stride=(1,), cell_nodes=(1, 2),
    quality_stride=(8,), quality_widths=((4, 4),),
)  # fmt: skip
CONFIG = RaceConfig(
    candidates=4, epochs=(1, 2), keep_one_of=2, generations=0, chains=0, drawn=1, climb=0, draws=200, band=0.5
)
WITH_NEIGHBOURS = replace(CONFIG, candidates=2, generations=2, neighbours=2)
TRAINING = TrainConfig(batch_size=4, max_steps_per_epoch=1, precision="float32")
TARGET_MS = 8.0


def price(network):
    """A millisecond for each edge that is there."""
    return float(sum(primitive != ZERO for chosen in network.choices.values() for primitive in chosen))


def asked(data, out, **changes):
    judged = {"config": CONFIG, "training": TRAINING, "dataset": data, "price": price, "seed": 0}
    judge = Judge(**judged | {name: changes.pop(name) for name in (*judged, "show") if name in changes})
    return {"space": SPACE, "target_ms": TARGET_MS, "judge": judge, "out": out} | changes


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("race")
    return race(**asked(data, out)), out


def test_candidates_of_several_macro_configurations_lie_just_below_the_target(run):
    found, out = run
    first = found.rounds[0]
    assert len(first) == CONFIG.candidates
    assert all((1 - CONFIG.band) * TARGET_MS <= entry.predicted_ms <= TARGET_MS for entry in first)
    assert all(entry.predicted_ms == price(entry.network) for entry in first)
    assert len({entry.network.macro for entry in first}) > 1
    written = [read_architecture(out / f"{index:03d}.json") for index in range(CONFIG.candidates)]
    assert all(entry.network in written for entry in first)


def test_the_better_ones_go_on_and_the_best_wins(run):
    found, _ = run
    assert [len(entries) for entries in found.rounds] == [4, 2]
    assert [entries[0].epochs for entries in found.rounds] == [1, 2]
    for entries in found.rounds:
        assert [entry.score for entry in entries] == sorted((entry.score for entry in entries), reverse=True)
    better = [entry.network for entry in found.rounds[0][:2]]
    assert all(entry.network in better for entry in found.rounds[1])
    assert found.winner == found.rounds[1][0]
    assert found.rounds[1][0].score == pytest.approx(found.winner.dice - CONFIG.quality_weight * found.winner.mae)
    assert all(entry.score == entry.dice for entry in found.rounds[0])  # of few epochs the error says nothing


@pytest.fixture(scope="module")
def with_neighbours(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("neighbours")
    return race(**asked(data, out, config=WITH_NEIGHBOURS)), out


def test_whoever_goes_on_brings_neighbours_within_the_band(with_neighbours):
    found, out = with_neighbours
    assert [len(entries) for entries in found.rounds] == [2, 3, 3, 1]
    assert [entries[0].epochs for entries in found.rounds] == [1, 1, 1, 2]
    assert found.winner.network == found.rounds[2][0].network
    assert found.rounds[1][0] in found.rounds[2]
    left, *others = (entry.network for entry in found.rounds[0])
    joined = [entry for entry in found.rounds[1] if entry.network != left]
    assert len(joined) == 2
    assert all((1 - CONFIG.band) * TARGET_MS <= entry.predicted_ms <= TARGET_MS for entry in joined)
    assert not [entry for entry in joined if entry.network in others]
    assert all(differences(entry.network, left) == 1 for entry in joined)
    assert {str(read_architecture(out / f"00{n}.json")) for n in (2, 3)} == {str(entry.network) for entry in joined}


def test_a_race_side_by_side_comes_to_the_same(run, data, tmp_path, monkeypatch):
    expected, _ = run
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("nas.train._Run.epoch", None)  # here; the processes import it as it is
    assert race(**asked(data, tmp_path)) == expected


def differences(network, other):
    """Choices of edges and of the macro configuration that differ."""
    pairs = [(network.choices[cell], other.choices[cell]) for cell in network.choices]
    pairs.append((tuple(vars(network.macro).values()), tuple(vars(other.macro).values())))
    return sum(a != b for one, two in pairs for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("config", [CONFIG, WITH_NEIGHBOURS], ids=["alone", "neighbours"])
def test_a_race_that_was_stopped_goes_on_to_the_same_end(run, with_neighbours, config, data, tmp_path):
    expected, _ = run if config == CONFIG else with_neighbours
    trained = 0

    def stops_in_the_third_training(title, total, done=0):
        nonlocal trained
        trained += title.startswith("train")
        return stops_at(0 if trained == 3 else 1000)(title, total, done)

    with pytest.raises(InterruptedRunError):
        race(**asked(data, tmp_path, config=config, show=stops_in_the_third_training))
    assert race(**asked(data, tmp_path, config=config)) == expected


def test_a_finished_race_trains_nothing_again(run, data, monkeypatch):
    expected, out = run
    monkeypatch.setattr(MacroSpace, "draw", None)
    assert race(**asked(data, out, price=None, show=stops_at(0))) == expected


@pytest.mark.parametrize(
    "changes", [{"target_ms": 9.0}, {"seed": 1}, {"config": replace(CONFIG, epochs=(1,))}], ids=["target", "seed", "c"]
)
def test_another_race_s_folder_is_refused(run, data, changes):
    with pytest.raises(InputError, match="race of another question"):
        race(**asked(data, run[1], **changes))


def test_a_finalist_is_judged_as_in_the_last_round(run, data, tmp_path):
    best = run[0].rounds[-1][0]
    judge = Judge(CONFIG, TRAINING, data, price, 0)
    assert judge(best.network, best.predicted_ms, CONFIG.epochs[-1], tmp_path) == best
