"""The pages of docs/: reference pages are what the code says, links lead somewhere, marked snippets run, and every command line there is one that medcl knows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

import medcl.objectives  # noqa: F401  (announced before a test works on a copy of what is known)
from medcl.cli.main import app
from medcl.cli.reference import PAGES
from medcl.config.objective import ObjectiveConfig
from tests.snippets import ROOT, blocks, run

DOCS = ROOT / "docs"
WRITTEN = sorted(page for page in DOCS.rglob("*.md") if "reference" not in page.parts)
GUIDES = [page for page in WRITTEN if page.parent.name in ("getting-started", "how-to")]
COMMAND = re.compile(r"^(?: {4,})?(medcl (?:.*\\\n)*.*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("name", PAGES)
def test_reference_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / "reference" / name).read_text() == PAGES[name](), "run make reference"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_every_guide_is_in_the_index() -> None:
    linked = {(DOCS / link).resolve() for link in LINK.findall((DOCS / "README.md").read_text())}
    assert [page for page in GUIDES if page.resolve() not in linked] == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_commands_and_options_exist(page: Path) -> None:
    """Every line that begins with medcl: its command, its options, its configuration file."""
    group = typer.main.get_command(app)
    context = group.make_context("medcl", [], resilient_parsing=True)
    for line in COMMAND.findall(page.read_text()):
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        command = group.get_command(context, words[1])
        assert command is not None, line
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert options <= known, f"{line}: {options - known}"
        shipped = [word for word in words if word.startswith(("configs/", "pipelines/"))]
        assert [word for word in shipped if not (ROOT / word).exists()] == [], line


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in GUIDES if any(block.how for block in blocks(page))], ids=lambda page: page.stem
)
def test_snippets_run_in_order(page: Path, small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marked = [block for block in blocks(page) if block.how]
    if any(block.how.startswith("cohort") for block in marked):
        shutil.copytree(small_cohort, tmp_path / "scans")
    monkeypatch.chdir(ROOT if all(block.how == "repository" for block in marked) else tmp_path)
    monkeypatch.setattr(ObjectiveConfig, "known", dict(ObjectiveConfig.known))  # a page may add an objective
    assert sum(run(block, page) for block in marked) > 0
