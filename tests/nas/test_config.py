from dataclasses import replace
from pathlib import Path

import pytest

from latencykit.baselines import Baseline
from latencykit.errors import InputError
from latencykit.macro import Macro
from nas.config import SEARCH_MODES, Row, RunConfig, SearchConfig, TrainConfig, load_run, overridden

WHOLE = """
name = "small"
table = "tables/host.json"
seeds = [0, 3]
threads = [1, 2]
pace_hz = 25

[data]
kind = "folder"
path = "images"

[search]
epochs = 10
warmup_epochs = 4
[search.augmentation]
translate = 0.05

[train.augmentation]
rotate_degrees = 5

[[rows]]
name = "U-Net"
kind = "baseline"
baseline = { width = 8, stride = 4, depth = 3 }

[[rows]]
name = "searched"
kind = "search"
macro = { segmentation_stride = 4, quality_stride = 4, segmentation_widths = [4, 8, 16, 32] }
search = { target_ms = 3, augmentation = { scale = 0.2 } }
train = { epochs = 7 }
"""


def load(tmp_path, text) -> RunConfig:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_run(path)


def test_a_run_is_read_from_one_file(tmp_path):
    config = load(tmp_path, WHOLE)
    assert (config.name, config.seeds, config.pace_hz) == ("small", (0, 3), 25.0)
    assert config.rows[0].baseline == Baseline(width=8, stride=4, depth=3)
    assert config.rows[1].macro == Macro(segmentation_stride=4, quality_stride=4, segmentation_widths=(4, 8, 16, 32))


def test_paths_are_relative_to_the_file(tmp_path):
    config = load(tmp_path, WHOLE)
    assert Path(config.table) == tmp_path / "tables/host.json"
    assert Path(config.data.path) == tmp_path / "images"


def test_a_row_overrides_fields_and_keeps_the_rest_nested_ones_too(tmp_path):
    config = load(tmp_path, WHOLE)
    search = config.search_of(config.rows[1])
    assert (search.epochs, search.target_ms) == (10, 3.0)
    assert (search.augmentation.translate, search.augmentation.scale) == (0.05, 0.2)
    assert config.train_of(config.rows[1]).epochs == 7
    assert config.train_of(config.rows[0]).epochs == TrainConfig().epochs
    assert config.train.augmentation.gain == TrainConfig().augmentation.gain
    assert config.train.augmentation.rotate_degrees == 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "small"', "nmae = 1", "'nmae'.*known are"),
        ("epochs = 10", "epoch = 10", "search: unknown field 'epoch'"),
        ("translate = 0.05", "translat = 0.05", "augmentation: unknown field 'translat'"),
        ("width = 8", "widht = 8", "baseline: unknown field 'widht'"),
        ("[4, 8, 16, 32] }", "[4, 8, 16, 32], depth = 3 }", "macro: unknown field 'depth'"),
        ('kind = "folder"', 'kind = "folder"\nroot = 1', "data: unknown field 'root'"),
        ("epochs = 7", "epoch = 7", "row 'searched': train: unknown field 'epoch'"),
        ("target_ms = 3", "target_ms = -3", "target_ms is -3"),
        ('kind = "search"', 'kind = "serach"', "serach"),
        ("epochs = 10", 'epochs = "ten"', "search.*int"),
        ("seeds = [0, 3]", "seeds = [0, 0]", "must each differ"),
        ("seeds = [0, 3]", "seeds = []", "at least one"),
        ("threads = [1, 2]", "threads = [2, 1, 2]", "different numbers"),
        ("seeds = [0, 3]", "seeds = [-1]", "none below 0"),
        ('name = "searched"', 'name = "U-Net"', "must each differ"),
        ("seeds = [0, 3]", 'report_split = "test"', "report_split"),
        ("warmup_epochs = 4", "warmup_epochs = 10", "leaves none for the architecture"),
        ("[data]", "[data", "cannot be read as TOML"),
        ('name = "small"', "train = 3", "train: a table expected"),
        ("epochs = 10", 'mode = "papre"', "search: mode is 'papre'; expected one of default, paper"),
        ("search = { target_ms = 3,", "targets = []\nsearch = {", "targets is \\[\\]; expected milliseconds"),
        ("search = { target_ms = 3,", 'targets = ["3"]\nsearch = {', "expected milliseconds"),
        ("search = { target_ms = 3,", "targets = [2]\nsearch = { target_ms = 3,", "no `target_ms` beside them"),
        (
            "search = { target_ms = 3,",
            "race = { epoch = 3 }\nsearch = {",
            "row 'searched': race: unknown field 'epoch'",
        ),
        ("train = { epochs = 7 }", "macros = {}", "expected one of them"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_field(tmp_path, old, new, message):
    assert old in WHOLE
    text = WHOLE.replace(old, new, 1)
    with pytest.raises(InputError, match=message):
        load(tmp_path, text if new != "train = 3" else text[: text.index("[train")])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.toml"):
        load_run(tmp_path / "absent.toml")


@pytest.mark.parametrize("config", [SearchConfig, TrainConfig])
@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 0}, {"selection_share": 0.5}, {"lambda_quality": -1}, {"clip": float("nan")}],
)
def test_values_that_cannot_work_are_refused(config, wrong):
    with pytest.raises(InputError, match="shares" if "selection_share" in wrong else next(iter(wrong))):
        config(**wrong)


def test_a_rows_kind_decides_which_fields_it_may_have():
    with pytest.raises(InputError, match="is a baseline"):
        Row("a", "baseline", macro=Macro())
    with pytest.raises(InputError, match="is a search"):
        Row("a", "search", baseline=Baseline())


def test_a_mode_names_what_a_search_starts_from(tmp_path):
    text = WHOLE.replace("search = { target_ms = 3,", 'search = { mode = "paper", target_ms = 3,')
    searched = load(tmp_path, text).search_of(load(tmp_path, text).rows[1])
    paper = SEARCH_MODES["paper"]
    assert (paper.epochs, paper.warmup_epochs, paper.lambda_quality, paper.lambda_latency) == (80, 40, 1.0, 0.001)
    assert (paper.paths, paper.dice_weight, paper.target_ms) == ("all", 0.0, None)
    augmentation = replace(paper.augmentation, scale=0.2)
    assert searched == replace(paper, target_ms=3.0, augmentation=augmentation)  # nothing of [search]
    general = load(tmp_path, WHOLE.replace("epochs = 10", 'mode = "paper"\nepochs = 70')).search
    assert (general.epochs, general.warmup_epochs, general.weight_optimiser) == (70, 4, "sgd")


def test_a_row_of_several_targets_is_a_row_for_each(tmp_path):
    text = WHOLE.replace("search = { target_ms = 3,", "targets = [0.7, 12]\nsearch = {")
    config = load(tmp_path, text)
    assert [row.name for row in config.rows] == ["U-Net", "searched-0.7", "searched-12"]
    assert [config.search_of(row).target_ms for row in config.rows[1:]] == [0.7, 12.0]
    assert config.search_of(config.rows[2]).augmentation.scale == 0.2


def test_a_row_has_its_own_race(tmp_path):
    config = load(tmp_path, WHOLE.replace("search = {", "race = { epochs = [27], search_cells = false }\nsearch = {"))
    race = config.race_of(config.rows[1])
    assert (race.epochs, race.search_cells, race.candidates) == ((27,), False, config.race.candidates)
    with pytest.raises(InputError, match="is a baseline"):
        Row("a", "baseline", race={"candidates": 3})


def test_overriding_leaves_the_base_as_it_was():
    base = SearchConfig()
    assert overridden(base, {"epochs": 50}, "here").epochs == 50
    assert base.epochs == 20


RACED = 'kind = "search"\nmacros = { segmentation_stride = [4, 8] }\n'


def raced(tmp_path, more):
    return load(tmp_path, f'[[rows]]\nname = "raced"\n{RACED}{more}\n[race]\nepochs = [2, 4]\n')


def test_a_row_may_choose_its_macro_configuration_at_a_target(tmp_path):
    config = raced(tmp_path, "search = { target_ms = 1 }")
    assert config.rows[0].macros.segmentation_stride == (4, 8)
    assert config.race.epochs == (2, 4)


@pytest.mark.parametrize("text", ["epochs = []", "epochs = [0]", "keep_one_of = 1", "band = 0", "quality_weight = -1"])
def test_a_race_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="race: "):
        load(tmp_path, f"{WHOLE}\n[race]\n{text}\n")
