import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from latencykit.errors import InputError
from nas.figures import save_figure
from nas.report import SECTIONS, Provenance, versions, write_report
from nas.results import Result, choose_selection, write_results
from nas.table import build_table

VOID = {"meta", "img", "br"}
PROVENANCE = Provenance("CAMUS: non-commercial research only.", "da7a", {"CPU": "four cores <fast> & fit"})


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a page could load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.images = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.images += [values["src"]] if tag == "img" else []
        self.links += [values[name] for name in ("href", "src") if name in values]
        assert not any(name.startswith("on") for name in values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def directory(tmp_path, pictures):
    results = [
        Result(
            row, seed, "valid", "all", 0.86, 5.0, 1.5, 0.04, 0.05, 0.6, None, 4, 30.0, 10.0, 12.0, 10**9, 10**9, 10**5,
            "c0ffee", "7ab1e", "deadbeef",
        )
        for row in ("unet16", "searched<s4>")
        for seed in (0, 1)
    ]  # fmt: skip
    write_results(tmp_path / "results.csv", results)
    for name in pictures:
        figure = Figure(figsize=(1, 1))
        figure.add_subplot().plot([0, 1])
        save_figure(figure, tmp_path / name)
    return build_table(results, choose_selection(results))


ALL = ["pareto.png", "history.png", "history-s4.png", "cells.svg", "qualitative.png", "quality.png", "validation.png"]


def report(tmp_path, pictures, **options):
    table = directory(tmp_path, pictures)
    path = write_report(
        tmp_path, table, PROVENANCE, options.pop("configurations", {"searched.toml": "seed = 1"}), **options
    )
    assert path == tmp_path / "report.html"
    return path.read_text()


def test_the_page_is_well_formed_and_loads_nothing(tmp_path):
    page = Page(report(tmp_path, ALL))
    assert len(page.images) == len(ALL)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_pictures_are_embedded_byte_for_byte(tmp_path):
    page = Page(report(tmp_path, ["pareto.png", "cells.svg"]))
    embedded = [base64.b64decode(url.split(",", 1)[1]) for url in page.images]
    assert embedded == [(tmp_path / "pareto.png").read_bytes(), (tmp_path / "cells.svg").read_bytes()]


def test_every_link_within_the_page_has_its_target(tmp_path):
    text = report(tmp_path, ALL)
    assert {link[1:] for link in Page(text).links if link.startswith("#")} <= set(re.findall(r'id="([^"]+)"', text))


def test_what_is_missing_is_named_with_its_remedy(tmp_path):
    text = report(tmp_path, ["pareto.png"], configurations={})
    for section in SECTIONS[1:]:
        assert f"Missing: no {section.pattern} picture" in text
        assert section.remedy in text
    assert "Missing: no pareto" not in text
    assert "no configuration was given" in text


def test_nothing_is_called_missing_where_all_is_there(tmp_path):
    assert "Missing" not in report(tmp_path, ALL)


def test_of_a_picture_in_two_formats_the_svg_is_shown(tmp_path):
    page = Page(report(tmp_path, ["cells.png", "cells.svg"]))
    assert [url.split(";")[0] for url in page.images] == ["data:image/svg+xml"]


def test_the_table_the_data_and_the_provenance_are_in_it(tmp_path):
    text = report(tmp_path, [])
    for part in (
        "0.860±0.000",
        "const. MAE",
        "non-commercial research only",
        "da7a",
        "c0ffee",
        "7ab1e",
        "deadbeef",
        "0, 1",
    ):
        assert part in text
    assert "numpy " in text


def test_names_and_facts_are_escaped(tmp_path):
    text = report(tmp_path, [], configurations={"a": "<script>alert(1)</script>"})
    assert "searched&lt;s4&gt;" in text
    assert "four cores &lt;fast&gt; &amp; fit" in text
    assert "<script" not in text


def test_a_picture_that_is_none_is_refused(tmp_path):
    table = directory(tmp_path, [])
    (tmp_path / "pareto.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"pareto\.png is not a PNG"):
        write_report(tmp_path, table, PROVENANCE, {})
    assert not (tmp_path / "report.html").exists()


def test_a_report_needs_results_and_a_statement_of_the_data(tmp_path):
    table = directory(tmp_path, [])
    (tmp_path / "results.csv").unlink()
    with pytest.raises(InputError, match=r"results\.csv cannot be read"):
        write_report(tmp_path, table, PROVENANCE, {})
    with pytest.raises(InputError, match="origin and terms"):
        Provenance("  ", "", {})


def test_versions_name_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("nas.report.VERSIONED", ("numpy", "no-such-package"))
    assert versions()["no-such-package"] == "not installed"
