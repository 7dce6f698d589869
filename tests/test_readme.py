"""What the documents show exists: commands with their options, make's targets, files; and every command is shown."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from latencykit.cli import cli as latencykit_cli
from nas.cli import cli as nas_cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PUBLISHED = sorted(ROOT.glob("benchmarks/results/*/report.html"))
DOCUMENTS = [path for path in (README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))) if path.exists()]
TOOLS: dict[str, click.Group] = {"latencykit": latencykit_cli, "nas": nas_cli}
MADE_BY_RUNS = re.compile(r"benchmarks/results/[^/]+/")
"""Results are committed once a run has ended."""

if not README.exists():
    pytest.skip("there is no README.md", allow_module_level=True)


def shown_commands(text: str) -> Iterator[list[str]]:
    """Words of each command line in fenced blocks; `\\` at a line's end goes on with the next one."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.strip().removeprefix("$ ")
            if command.startswith((*(f"{tool} " for tool in TOOLS), "make ")):
                yield shlex.split(command, comments=True)


def targets(makefile: str) -> set[str]:
    """What `make` can be asked for."""
    return set(re.findall(r"^([a-z][\w-]*)\s*:(?!=)", makefile, re.MULTILINE))


def complaint(words: list[str], makefile: str) -> str | None:
    """What is wrong with a command; None where it could be run."""
    tool, *rest = words
    if tool == "make":
        known = targets(makefile)
        unknown = [word for word in rest if "=" not in word and not word.startswith("-") and word not in known]
        return f"make has no {unknown[0]}" if unknown else None
    try:
        group = click.Context(TOOLS[tool], info_name=tool, **TOOLS[tool].context_settings)
        name, command, arguments = TOOLS[tool].resolve_command(group, rest)
        if command is None:
            return f"{tool} has no {name}"
        command.make_context(name, arguments, parent=group)  # which a command's -h, once asked for, is remembered from
    except click.exceptions.Exit:  # --help
        return None
    except click.ClickException as error:
        return error.format_message()
    return None


def linked_files(text: str) -> list[str]:
    """Targets of Markdown links and pictures that are files: no addresses, no anchors."""
    targets_found = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", text)
    targets_found += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    without_anchor = [target.partition("#")[0] for target in targets_found]
    return [target for target in without_anchor if target and not re.match(r"[a-z][a-z+.-]*:", target)]


COMMANDS = [words for document in DOCUMENTS for words in shown_commands(document.read_text(encoding="utf-8"))]
LINKS = [(path, link) for path in DOCUMENTS for link in linked_files(path.read_text(encoding="utf-8"))]


def test_the_readme_shows_commands_of_both_tools_and_of_make() -> None:
    assert {words[0] for words in COMMANDS} == {"latencykit", "nas", "make"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_that_is_shown_parses(words: list[str]) -> None:
    assert complaint(words, (ROOT / "Makefile").read_text(encoding="utf-8")) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nas warp", "No such command"),
        ("latencykit sample --seed 1 --count 2", "Missing option '--out'"),
        ("nas table DIR --warp", "No such option"),
        ("nas table DIR too much", "unexpected extra argument"),
        ("nas train a.json --seed x --out b", "'x' is not a valid integer"),
        ("make warp", "make has no warp"),
    ],
)
def test_the_check_of_commands_can_fail(line: str, why: str) -> None:
    (words,) = shown_commands(f"text\n```\n{line}  # a comment\n```\n")
    assert why in (complaint(words, "demo: env\n.PHONY: warp\nVENV := x\n") or "")


def test_the_check_of_commands_reads_fenced_blocks_only_and_whole_lines() -> None:
    text = "nas warp\n```sh\n$ nas table \\\n    DIR --json\nls\nmake test lint\n```\n`nas warp`\n"
    assert list(shown_commands(text)) == [["nas", "table", "DIR", "--json"], ["make", "test", "lint"]]
    assert complaint(["nas", "table", "DIR", "--json"], "") is None
    assert complaint(["nas", "table", "--help"], "") is None
    assert complaint(["make", "-j2", "test", "PYTHON=python3.12"], "test: env\n") is None


@pytest.mark.parametrize("command", [f"{tool} {name}" for tool, group in TOOLS.items() for name in group.commands])
def test_every_subcommand_is_in_the_readme(command: str) -> None:
    assert mentioned(command, README.read_text(encoding="utf-8"))


def mentioned(command: str, text: str) -> bool:
    """Whether a command stands in a text, at the end of a line and the start of the next too."""
    words = r"\s+".join(map(re.escape, command.split()))
    return re.search(rf"(?<![\w-]){words}(?![\w-])", text) is not None


def test_the_check_of_mentions_can_fail() -> None:
    assert mentioned("nas run", "as `nas\nrun F` does")
    assert not mentioned("nas run", "nas runs; my-nas run")


@pytest.mark.parametrize(("document", "link"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_a_file_that_is_linked_exists(document: Path, link: str) -> None:
    target = document.parent / link
    if not target.exists() and MADE_BY_RUNS.match(link) and not target.parent.joinpath("results.csv").exists():
        pytest.skip(f"{link} is written by a run that has not ended")
    assert target.exists()


def test_links_are_found_and_addresses_and_anchors_are_not() -> None:
    text = '[a](docs/a.md) ![b](b.png "title") [c](https://x.org/y) [d](#part) [e](<f.md#part>) <img src="g.svg">'
    assert linked_files(text) == ["docs/a.md", "b.png", "f.md", "g.svg"]
    assert linked_files(README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("report", PUBLISHED, ids=lambda path: path.parent.name)
def test_a_published_report_shows_no_image_of_a_data_set(report: Path):
    """Terms of use: a run's own report does show some, so `qualitative.png` is moved away before one is published."""
    pictures = re.findall(r'alt="([^"]*)"', report.read_text(encoding="utf-8"))
    assert any("pareto.png" in picture for picture in pictures)
    assert not any("qualitative" in picture for picture in pictures)
