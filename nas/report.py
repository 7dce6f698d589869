"""One offline HTML file of a results directory: the table, the pictures, and where everything comes from.

No network, no script: pictures are embedded, SVG ones as images too, so that nothing in them can run. What the
directory lacks is named as missing.
"""

from __future__ import annotations

import base64
import fnmatch
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latencykit.errors import InputError
from latencykit.files import write_text
from nas.results import Result, read_results
from nas.table import COLUMNS, Table, caption

REPORT_NAME = "report.html"
RESULTS_NAME = "results.csv"
MAX_PICTURE_BYTES = 20_000_000
VERSIONED = ("latencykit", "numpy", "torch", "monai", "onnx", "onnxruntime", "moocore")

_MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Section:
    """Pictures of one kind.

    Attributes:
        title: heading.
        text: what the pictures show.
        pattern: file names in the directory, with `*`.
        remedy: what makes the file where it is missing.
    """

    title: str
    text: str
    pattern: str
    remedy: str


SECTIONS: tuple[Section, ...] = (
    Section(
        "Pareto front",
        "Latency of the whole pair against Dice. Filled marks are beaten by no other row; bars are one standard "
        "deviation over seeds.",
        "pareto*",
        "nas pareto DIR",
    ),
    Section(
        "Search history",
        "What the search did, epoch by epoch: the expected latency is of the mixture, the derived one of the network "
        "that would be chosen then.",
        "history*",
        "nas run CONFIG --out DIR",
    ),
    Section(
        "Searched cells",
        "The operations chosen on every edge, as the paper's Fig. 4; deleted edges are left out.",
        "cells*",
        "nas cells ARCH",
    ),
    Section(
        "Predicted masks",
        "Frames with the true and the predicted contour, the uncertainty map, and true and predicted Dice.",
        "qualitative*",
        "nas run CONFIG --out DIR",
    ),
    Section(
        "Predicted quality",
        "Predicted against true Dice. A prediction is worth something where its error is well below the constant "
        "prediction's and r is well above 0.",
        "quality*",
        "nas run CONFIG --out DIR",
    ),
    Section(
        "Validation of the latency table",
        "Latency predicted from the table against the measured one, on networks that the table was not fitted to.",
        "validation*",
        "latencykit validate TABLE --plot PNG",
    ),
)


@dataclass(frozen=True)
class Provenance:
    """Where a report's figures come from; what the results themselves hold is added to it.

    Attributes:
        data_statement: origin and terms of the data, as its owner wants them stated.
        data_hash: of the data set file.
        facts: anything else by name, such as the CPU and its checks.
    """

    data_statement: str
    data_hash: str
    facts: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.data_statement.strip():
            raise InputError("report: the statement of the data's origin and terms is empty; a report needs one.")


def write_report(
    directory: Path,
    table: Table,
    provenance: Provenance,
    configurations: Mapping[str, str],
    title: str = "Hardware-aware search: results",
) -> Path:
    """Write DIRECTORY/report.html from the contract's files in that directory.

    Args:
        directory: holds `results.csv` and pictures named as in the contract; a picture may be missing, and is named.
        table: Table II, of the same results.
        provenance: of the data and machine.
        configurations: text of each configuration by name.
        title: heading of the page.

    Returns:
        The file.

    Raises:
        InputError: no readable `results.csv`, or a picture that is too large or not what its name says.
    """
    import jinja2

    results = read_results(directory / RESULTS_NAME)
    template_text = Path(__file__).with_name(REPORT_NAME).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections = [(section, _pictures(directory, section)) for section in SECTIONS]
    html = environment.from_string(template_text).render(
        title=title,
        table=table,
        caption=caption(table),
        headings=[heading for heading, _ in COLUMNS],
        rows=[[text(row) for _, text in COLUMNS] for row in table.rows],
        sections=sections,
        missing=[section for section, pictures in sections if not pictures],
        configurations=configurations,
        statement=provenance.data_statement,
        facts=_facts(results, provenance),
    )
    write_text(directory / REPORT_NAME, html)
    return directory / REPORT_NAME


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on; a missing one is named so."""
    found = {"Python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _facts(results: Sequence[Result], provenance: Provenance) -> dict[str, str]:
    def distinct(name: str) -> str:
        values = dict.fromkeys(str(getattr(result, name)) for result in results)
        return ", ".join(value or "none" for value in values) or "none"

    return {
        "Commit": distinct("commit"),
        "Data, hash": provenance.data_hash or "not stated",
        "Latency table, checksum": distinct("table_sha"),
        "Configuration, hash": distinct("config_sha"),
        "Seeds": distinct("seed"),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        **provenance.facts,
    }


def _pictures(directory: Path, section: Section) -> list[tuple[str, str]]:
    """Name and data URL of each picture of a section; of one in both formats the SVG."""
    names = sorted(path.name for path in directory.iterdir() if path.suffix in _MEDIA and path.is_file())
    matching = [name for name in names if fnmatch.fnmatchcase(name, section.pattern)]
    shown = [name for name in matching if name.endswith(".svg") or Path(name).with_suffix(".svg").name not in matching]
    return [(name, _data_url(directory / name)) for name in shown]


def _data_url(path: Path) -> str:
    data = path.read_bytes()
    if len(data) > MAX_PICTURE_BYTES:
        raise InputError(f"{path} has {len(data)} bytes; at most {MAX_PICTURE_BYTES} are embedded.")
    is_png = data.startswith(b"\x89PNG\r\n\x1a\n")
    if is_png != (path.suffix == ".png") or (path.suffix == ".svg" and b"<svg" not in data[:4096]):
        raise InputError(f"{path} is not a {path.suffix[1:].upper()} picture; write it again.")
    return f"data:{_MEDIA[path.suffix]};base64,{base64.b64encode(data).decode('ascii')}"
