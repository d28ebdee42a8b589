"""The documents: their links lead somewhere, their commands exist, and the tests that they call as witnesses are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("haproxy/*.md"), *ROOT.glob("examples/*/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)|\b(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
WITNESS = re.compile(r"\b((?:tests|examples)/[\w/]+\.py)::(\w+)")
FOLDERS = "core|plugins|tools|utils|tests|bench|init-scripts|examples|haproxy|docs|grafana"
SOURCE = re.compile(rf"`((?:app|gunicorn\.conf)\.py|(?:{FOLDERS})/[\w./-]*\w/?)`")
MAKE = re.compile(r"\bmake ([a-z]+)\b")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose_of(path: Path) -> str:
    """A document without its code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def commands_of(path: Path) -> str:
    """The commands of a document: its blocks for a shell."""
    return "\n".join(text for kind, text in FENCE.findall(path.read_text(encoding="utf-8")) if kind in ("sh", "bash"))


@cache
def names_in(path: Path) -> set[str]:
    """The names of the tests in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


@cache
def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    titles = (re.sub(r"[`*]", "", title).lower() for title in HEADING.findall(prose_of(path)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_its_links_lead_to_files_and_headings_that_there_are(document: Path) -> None:
    broken = []
    for link in (first or second for first, second in LINK.findall(prose_of(document))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (document.parent / file).resolve() if file else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_its_make_targets_and_the_files_that_it_names_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(MAKE.findall(commands_of(document))) <= targets
    made_by_us = {"bench/results.json"}
    assert [name for name in SOURCE.findall(prose_of(document)) if name not in made_by_us and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_its_witnesses_are_tests_that_there_are(document: Path) -> None:
    named = WITNESS.findall(document.read_text(encoding="utf-8"))
    missing = [f"{file}::{test}" for file, test in named if not (ROOT / file).exists() or test not in names_in(ROOT / file)]
    assert not missing


def test_every_requirement_that_is_met_has_a_witness() -> None:
    rows = re.findall(r"^\| (\d+\.\d+\.\d+) \|.*$", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(set(rows)) > 60
    for row in re.findall(r"^\| \d+\.\d+\.\d+ \|.*$", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert WITNESS.search(row), row
