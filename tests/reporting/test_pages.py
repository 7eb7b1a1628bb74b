"""Pages are one file, valid, honest and readable, in a real browser too. Their results are fabricated here."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
import study_standins

import medcl.objectives  # noqa: F401  (arms name objectives)
from medcl.config.load import validate
from medcl.config.pipeline import PipelineConfig
from medcl.reporting.niivue import has_niivue
from medcl.reporting.run_page import write_page
from medcl.reporting.study_page import write_study_page
from medcl.runs import RunFolder
from medcl.workflow.pipeline import run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished study of stand-ins with one failed cell."""
    base = tmp_path_factory.mktemp("page")
    out = base / "study"
    out.mkdir()
    (out / "misbehave.json").write_text(json.dumps({"fail": "scratch/n4-s1-r0"}))
    stages = [{"name": name, "steps": 900, "terms": [{"objective": "nt_xent"}]} for name in ("global", "local")]
    config = validate(
        PipelineConfig,
        {
            "name": "fabricated",
            "title": "Fabricated <results> & shapes",
            "simulated": True,
            "out": out,
            "data": {"path": study_standins.write_cohort(base / "data"), "test": 5, "validation": 2},
            "finetune": {"steps": 900},
            "arms": {
                "scratch": {"label": "From scratch"},
                "local": {"label": "Global + local", "pretrain": {"stages": stages}},
            },
            "grid": {"labelled": [1, 4, "all"], "subsets": 2},
            "compare": {"resamples": 300},
        },
    )
    run(config, study_standins.prepare, study_standins.COMMANDS)
    return RunFolder(out)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A pretraining of two stages, fabricated."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "pre")
    with folder.started("pretrain", {"steps": 400}, seed=3):
        with open(folder.metrics, "w") as stream:
            for stage in ("global", "local"):
                for step in range(5, 401, 5):
                    row = {"stage": stage, "step": step, "loss_over_all_equal": 1 / step, "effective_rank": step / 9}
                    stream.write(
                        json.dumps({**row, "loss": 2.0, "positive_cosine": 0.9, "negative_cosine": 0.1}) + "\n"
                    )
        folder.record(pool=["scan_1", "scan_2"])
    write_page(folder)
    return folder


class _Document(html.parser.HTMLParser):
    """Ids, references, tags that stay open, and what would be loaded."""

    _VOID = frozenset({"meta", "link", "br", "img", "use", "path", "rect", "stop", "image"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self._VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._attributes(attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self.open, f"</{tag}> closes nothing"
            opened = self.open.pop()
            assert opened == tag, f"</{tag}> closes <{opened}>"

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                (self.references.add(value[1:]) if value.startswith("#") else self.addresses.append(value))
            self.references.update(re.findall(r"url\(#([^)]+)\)", value))


@pytest.mark.parametrize("which", ["study", "training"])
def test_pages_are_one_valid_file_that_loads_nothing(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which).page.read_text()
    document = _Document(text)
    assert not document.open
    assert len(set(document.ids)) == len(document.ids), "ids repeat"
    assert document.references <= set(document.ids)
    assert all(address.startswith(("data:", "views/")) for address in document.addresses)  # views are links to follow
    assert "script" not in document.tags
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!#)", text)


def test_every_figure_says_what_it_shows(study: RunFolder) -> None:
    text = study.page.read_text()
    figures = re.findall(r'<svg class="figure".*?</svg>', text, re.DOTALL)
    assert len(figures) >= 2 + 3 + 3 + 3
    for figure in figures:
        assert 'role="img"' in figure
        assert re.search(r"<title [^>]*>[^<]{10,}</title><desc [^>]*>[^<]{20,}</desc>", figure)
        assert not re.search(r"#01010[1-4]|#01020\d", figure), "a stand-in colour was left"


def test_the_study_says_what_it_is_and_what_failed(study: RunFolder) -> None:
    text = study.page.read_text()
    assert "Simulated data." in text
    assert "Fabricated &lt;results&gt; &amp; shapes" in text
    rows = json.loads((study.path / "table.json").read_text())
    best = max((row for row in rows if row["labelled"] == 1), key=lambda row: row["dice"])
    assert f"<strong>{best['dice']:.3f}</strong>" in text
    assert "cells/scratch/n4-s1-r0" in text
    assert "asked to fail" in text
    assert "medcl predict cells/local/n1-s" in text
    for word in ("best", "median", "worst"):
        assert f"<b>{word.capitalize()}</b>" in text
    for name in ("label_efficiency", "differences", "label_worth"):
        drawn = (study.path / "figures" / f"{name}.svg").read_text()
        assert "var(" not in drawn, "a figure of its own has no page to take colours from"
        assert "#0072b2" in drawn


@pytest.mark.skipif(not has_niivue(), reason='the viewer is not installed: pip install "medcl[view]"')
def test_the_cases_of_a_study_have_viewer_pages_of_their_own(study: RunFolder) -> None:
    links = re.findall(r'<a href="(views/[^"]+)">All of it, in 3D</a>', study.page.read_text())
    assert len(links) == 3, "best, median and worst"
    for link in links:
        page = (study.path / unquote(link)).read_text()
        assert '<meta name="medcl-page" content="view">' in page
        assert re.findall(r"data-mask", page)
        assert str(study.path.parent) not in page, "no paths"


@pytest.mark.skipif(not has_niivue(), reason='the viewer is not installed: pip install "medcl[view]"')
def test_a_case_that_the_viewer_refuses_keeps_its_picture(
    study: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = RunFolder(shutil.copytree(study.path, tmp_path / "study"))
    mine = min((copy.path / "views").iterdir())
    mine.write_text("notes of my own")
    text = write_study_page(copy).read_text()
    assert text.count("All of it, in 3D") == 2
    assert text.count('<figure class="case">') == 3
    assert mine.read_text() == "notes of my own"
    assert "has no page in the viewer" in caplog.text


def test_a_study_that_counts_subjects_says_so(study: RunFolder, tmp_path: Path) -> None:
    facts = json.loads((study.path / "study.json").read_text())
    assert facts["counted"] == "volume"
    assert "What a labelled volume is worth" in (study.path / "page.html").read_text()
    copy = RunFolder(shutil.copytree(study.path, tmp_path / "study"))
    (copy.path / "study.json").write_text(json.dumps({**facts, "counted": "subject"}))
    page = write_study_page(copy).read_text()
    assert "What a labelled subject is worth" in page
    assert "labelled subjects</title>" in page
    assert "labelled volume" not in page


def test_a_study_without_its_images_still_gets_a_page(study: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(study.path, tmp_path / "study"))
    text = copy.config.read_text()
    copy.config.write_text(re.sub(r"path: .*", f"path: {tmp_path / 'gone'}", text, count=1))
    assert "could not be read any more" in write_study_page(copy).read_text()


def test_nothing_finished_is_a_page_without_results(study: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(study.path, tmp_path / "study"))
    document = json.loads((copy.path / "study.json").read_text())
    document["rows"] = []
    document["cells"] = [{**cell, "dice": None} for cell in document["cells"]]
    (copy.path / "study.json").write_text(json.dumps(document))
    assert "there are no results" in write_study_page(copy).read_text()


def test_a_run_says_its_command_figures_and_records(training: RunFolder) -> None:
    text = training.page.read_text()
    assert "medcl pretrain" in text
    assert "scan_1, scan_2" in text
    assert text.count('<svg class="figure"') == 3
    assert "Loss, as a share of its all-equal value" in text


@pytest.mark.parametrize(("width", "which"), [(1280, "study"), (420, "study"), (1280, "training")])
def test_a_browser_shows_every_figure_and_has_nothing_to_complain_of(
    width: int, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here; install it to look at pages in a browser")
    page = request.getfixturevalue(which).page.read_text()
    measure = (
        "<script>addEventListener('load', () => { const b = [...document.querySelectorAll('svg.figure')]"
        ".map(e => e.getBoundingClientRect()); const found = { sizes: b.map(r => [r.width, r.height]),"
        " inside: document.documentElement.scrollWidth <= innerWidth + 1,"
        " loaded: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')) };"
        " document.body.innerHTML = '<pre id=found>' + JSON.stringify(found) + '</pre>'; })</script>"
    )
    target = tmp_path / "page.html"
    target.write_text(page.replace("</body>", measure + "</body>"))
    shown = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1000",
            "--virtual-time-budget=5000", "--dump-dom", target.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', shown.stdout, re.DOTALL)[1])
    assert len(found["sizes"]) == page.count('<svg class="figure"')
    for figure_width, height in found["sizes"]:
        assert figure_width > 200
        assert height > 80
    assert found["loaded"] == []
    assert found["inside"], "the page is wider than its window"
