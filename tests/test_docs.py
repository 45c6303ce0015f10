"""What README and the pages of docs/ promise of themselves, and that they can be followed."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from monai_rd.cli.app import app
from monai_rd.protocol.experiments import TABLES
from tests.tools import tool

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
PAGES += [ROOT / "benchmarks" / "results" / "README.md", *sorted(ROOT.glob("bundles/*/docs/README.md"))]
CONFIGS = [path for path in ROOT.glob("bundles/*/configs/*.json") if path.name != "metadata.json"]
IDS = {key for path in CONFIGS for key in json.loads(path.read_text(encoding="utf-8"))} | {"config_file", "bundle_root"}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def outside_code(text: str) -> Iterator[str]:
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(line.lstrip("#")) for line in outside_code(page.read_text(encoding="utf-8")) if line.startswith("#")}


@every_page
def test_no_line_is_long_but_those_of_tables(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.lstrip().startswith(("|", "![", "<!--"))]
    assert [line for line in lines if len(line) > 120 and line not in tables] == []


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = "\n".join(outside_code(page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = Path(os.path.normpath(page.parent / path)) if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
        if (ROOT / "docs") in page.parents:
            assert (ROOT / "docs") in linked.parents, f"{target} is not on the site"


def wrong_words(words: list[str], command: Any) -> list[str]:
    """Of a command of ours: subcommands, options, rows of tables and bundle ids that do not exist."""
    while words and not words[0].startswith("--") and getattr(command, "commands", None):
        if words[0] not in command.commands:
            return words[:1]
        command, words = command.commands[words[0]], words[1:]
    ours, ids = (words[: words.index("--")], words[words.index("--") :]) if "--" in words else (words, [])
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    if command.context_settings.get("ignore_unknown_options"):
        ours, ids = [], words
    wrong = [word for word in ours if word.startswith("--") and word.partition("=")[0] not in known]
    if "--methods" in ours and command.name in TABLES:
        rows = {row.name for row in TABLES[command.name].rows} | {"ROWS"}
        wrong += [row for row in ours[ours.index("--methods") + 1].split(",") if row not in rows]
    return wrong + unknown_ids(ids)


def unknown_ids(words: list[str]) -> list[str]:
    found = [word[2:].partition("=")[0].partition("#")[0] for word in words if word.startswith("--") and word != "--"]
    return [name for name in found if name not in IDS]


@every_page
def test_commands_can_be_typed(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    typed = [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r" *(monai-rd|python -m monai\.bundle run) ", line)
    ]
    wrong = []
    for words in typed if page.name != "commands.md" else []:  # which is written from the commands themselves
        ours = words[0] == "monai-rd"
        found = wrong_words(words[1:], get_command(app)) if ours else unknown_ids(words[4:])
        wrong += [(" ".join(words), found)] if found else []
    assert wrong == []


def test_first_pages_are_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110
    for page in (ROOT / "docs" / "start").glob("*.md"):
        assert len(list(outside_code(page.read_text(encoding="utf-8")))) <= 80, page.name


def test_where_readme_stands_alone_its_links_are_absolute(tmp_path: Path) -> None:
    """As on PyPI; nothing else of it is changed."""
    text, address = (ROOT / "README.md").read_text(encoding="utf-8"), "https://example.org/o/n/"
    made = tool("absolute_links").absolute(text, ROOT, address, "v1")
    links = re.findall(r"\]\(([^)]*)\)", made)
    assert len(links) == len(re.findall(r"\]\(", text))
    assert all(link.startswith("https://") for link in links)
    assert f"]({address}raw/v1/docs/method.svg)" in made
    assert f"]({address}blob/v1/docs/guide/serve.md)" in made
    assert re.sub(f"{address}(raw|blob)/v1/", "", made) == text
    (tmp_path / "a.md").touch()
    kept = "[a](#b) [b](https://example.org/c)"
    assert tool("absolute_links").absolute(f"[one](a.md#b) {kept}", tmp_path, "https://x", "1") == (
        f"[one](https://x/blob/1/a.md#b) {kept}"
    )
    with pytest.raises(FileNotFoundError, match=r"gone\.md"):
        tool("absolute_links").absolute("[one](gone.md)", tmp_path, "https://x", "1")


def test_the_reference_says_what_the_code_says() -> None:
    folder = next(one for one in get_command(app).commands["audit"].params if one.param_type_name == "argument")
    if not folder.help:
        pytest.skip("this Typer does not tell the help of arguments with this Click")
    for name, text in tool("write_reference").pages().items():
        assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == text, "run tools/write_reference.py"
