"""The documentation names only what exists: links, anchors, paths, commands, settings."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from contract.runtime.failpoints import FAILPOINTS
from stagecue.cli import cli

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a heading is linked as: lower case, punctuation dropped, spaces as dashes."""
    titles = re.findall(r"^#+ +(.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def commands(text: str) -> list[str]:
    """Every `stagecue ...` of a page: in code spans, and in indented blocks.

    In a block that shows a prompt only what is typed at it counts; the rest is output.
    """
    found = [" ".join(span.split()) for span in SPAN.findall(text)]
    for block in re.findall(r"(?:^ {4}.*\n?|^\n)+", re.sub(r"\\\n\s*", "", text), re.M):
        lines = [line[4:] for line in block.splitlines()]
        typed = [line[2:] for line in lines if line.startswith("$ ")]
        found += typed or lines
    bare = [re.sub(r"^([A-Z_]+=\S+ )+", "", command) for command in found]
    return [command for command in bare if command.startswith("stagecue ")]


def words(command: str) -> list[str]:
    """A command's words without what a shell, or a column of remarks, adds."""
    line = re.split(r"\s[#&|<>]|\s{3,}|;", command.replace("...", ""))[0]
    return shlex.split(line)[1:]


def check_command(command: str) -> None:
    """Raise AssertionError if a group, command or option of `command` does not exist."""
    here: click.Command = cli
    context = click.Context(cli)
    rest = words(command)
    while rest and isinstance(here, click.Group) and not rest[0].startswith("-"):
        names = re.split(r"\|", rest.pop(0))
        found = [here.get_command(context, name) for name in names]
        assert all(found), f"no such command: {command}"
        here = found[0] or here
    options = {name for parameter in here.params for name in (*parameter.opts, *parameter.secondary_opts)}
    named = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert named <= options | {"--help", "-h", "--version"}, f"no such option: {command}"


@every_page
def test_links_resolve(page):
    """Every relative link leads to a file, and its anchor to a heading there."""
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_commands_exist(page):
    """Every command and option a page names is one of the command line's."""
    for command in commands(prose(page)):
        check_command(command)


def test_the_check_of_commands_finds_mistakes():
    """So that a pass above means something."""
    assert commands(
        "see `stagecue event list` and\n\n    $ X=1 stagecue up --host h \\\n        --port-base 1 &\n"
    ) == [
        "stagecue event list",
        "stagecue up --host h --port-base 1 &",
    ]
    for good in ("stagecue up --host h --port-base 1 &", "stagecue event add|list", "stagecue event list   remarks"):
        check_command(good)
    for bad in ("stagecue upp", "stagecue event lst", "stagecue event add|lst", "stagecue up --prot 1"):
        with pytest.raises(AssertionError, match="no such"):
            check_command(bad)
    assert sum(len(commands(prose(page))) for page in PAGES) > 40


@every_page
def test_paths_exist(page):
    """Files of the project that a page names in code are there."""
    tops = "|".join(p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("."))
    named = {span for span in SPAN.findall(prose(page)) if re.fullmatch(rf"(?:{tops})/[\w./-]*", span)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@every_page
def test_python_blocks_parse(page):
    for language, block in FENCE.findall(page.read_text()):
        if language == "python":
            ast.parse(block)


@every_page
def test_no_page_names_where_it_was_written(page):
    """No absolute path of the machine a page was generated on."""
    assert str(ROOT) not in page.read_text()


def test_settings_page_is_the_generated_one():
    """`stagecue settings --markdown > docs/settings.md` mends it."""
    result = CliRunner().invoke(cli, ["settings", "--markdown"])
    assert result.exit_code == 0
    assert (DOCS / "settings.md").read_text() == result.output


def test_the_index_links_every_page():
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in LINK.findall((DOCS / "README.md").read_text())}
    missing = [page_id(page) for page in DOCS.rglob("*.md") if page not in linked and page.name != "README.md"]
    assert missing == []


def test_the_readme_begins_with_the_two_commands():
    """They stand above the first heading, and the Makefile has them."""
    top = (ROOT / "README.md").read_text().partition("\n## ")[0]
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert re.search(rf"^    make {target}\b", top, re.M)
    for target in re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_failpoint_is_explained():
    """By name in development.md, and by what its death leaves behind in reliability.md."""
    development = (DOCS / "development.md").read_text()
    assert [name for name in sorted(FAILPOINTS) if f"`{name}`" not in development] == []
    explained: set[str] = set()
    for row in re.findall(r"^\| (`(?:producer|router|node)\..*?) \|", (DOCS / "reliability.md").read_text(), re.M):
        first, *others = SPAN.findall(row)
        explained |= {first, *(first.rpartition(".")[0] + other for other in others)}
    assert explained == FAILPOINTS


def test_every_rule_has_its_place():
    """R1 to R21 each stand in architecture.md once, in bold."""
    found = re.findall(r"\*\*R(\d+)\b", (DOCS / "architecture.md").read_text())
    assert [int(number) for number in found] == list(range(1, 22))
