import json

import numpy as np
import pytest
from PIL import Image

from latencykit.errors import InputError, MissingRowError
from latencykit.table_file import load_table, table_checksum
from nas.config import load_run
from nas.data import load
from nas.gallery import summarise
from nas.results import Selection, read_results
from tests.nas.tiny_run import BASELINE, SEARCHED

WRITTEN = ("table.md", "pareto.png", "report.html")


@pytest.fixture
def work(finished_run, tmp_path):
    return finished_run.copy(tmp_path / "out")


def test_what_is_stored_gives_the_same_table_picture_and_report_again(work):
    before = {name: (work / name).read_bytes() for name in WRITTEN}
    for name in WRITTEN:
        (work / name).unlink()
    summarise(work)
    assert {name: (work / name).read_bytes() for name in WRITTEN} == before


def test_the_table_is_of_the_report_split_paced_and_relative_to_the_first_row(work):
    table = summarise(work).table
    assert table.selection == Selection("valid", "all", 1, 30.0)
    assert (table.reference, table.best_by) == (BASELINE, "selection")
    results = [r for r in read_results(work / "results.csv") if r.split == "valid" and r.degraded == "all"]
    for row in table.rows:
        lines = [r for r in results if r.row == row.row and r.pace_hz == 30]
        assert row.seeds == tuple(sorted(r.seed for r in lines))
        assert row.dice.mean == pytest.approx(np.mean([r.dice for r in lines]))
        assert row.p50_ms.mean == pytest.approx(np.mean([r.p50_ms for r in lines]))
    base, searched = table.rows
    expected = 100 * (1 - searched.p50_ms.mean / base.p50_ms.mean)
    assert searched.latency_reduction_pct == pytest.approx(expected)


def test_the_table_is_of_the_threads_that_were_searched_for(work):
    facts = json.loads((work / "facts.json").read_text())
    assert facts["threads"] == 1
    (work / "facts.json").write_text(json.dumps(facts | {"threads": 2}))
    with pytest.raises(MissingRowError, match="threads 2"):
        summarise(work)


def test_the_facts_name_data_machine_and_terms(work, finished_run):
    facts = json.loads((work / "facts.json").read_text())
    table = load_table(work / "table.json")
    assert (facts["title"], facts["split"], facts["data_statement"]) == ("tiny", "valid", "Made up for tests.")
    assert facts["facts"]["data sha256"] == load(load_run(finished_run.config).data).sha256
    assert facts["facts"]["CPU"] == table.cpu.model
    assert facts["facts"]["table"] == table_checksum(table)
    html = (work / "report.html").read_text()
    for text in ("tiny", "Made up for tests.", table_checksum(table), "lambda_latency = 0.1"):
        assert text in html


def test_the_facts_say_whether_the_machine_was_fit(work):
    facts = json.loads((work / "facts.json").read_text())["facts"]
    fit = load_table(work / "table.json").doctor["fit"]
    assert facts["machine while the table was measured"].startswith("fit" if fit else "unfit")


def test_without_final_the_selection_patients_are_shown(finished_run):
    """The first of the two runs had no other frames to show."""
    assert "selection" in finished_run.unfinished_results
    assert finished_run.unfinished.code == 0
    assert {"qualitative.png", "quality.png", "report.html"} <= finished_run.unfinished_files.keys()


def test_a_folder_without_facts_is_refused_by_name(work):
    (work / "facts.json").unlink()
    with pytest.raises(InputError, match=r"facts\.json"):
        summarise(work)


@pytest.mark.parametrize("name", ["pareto.png", "history.png", "quality.png", "qualitative.png", "validation.png"])
def test_pictures_show_something(finished_run, name):
    with Image.open(finished_run.out / name) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 200
    assert pixels.std() > 5


def test_the_cells_are_those_of_the_rows_architecture(finished_run):
    svg = (finished_run.out / "cells.svg").read_text()
    choices = json.loads((finished_run.out / SEARCHED / "architecture.json").read_text())["choices"]
    assert svg.lstrip().startswith("<")
    assert SEARCHED in svg
    assert set(choices) == {"down", "up", "contracting", "non_scaling"}
