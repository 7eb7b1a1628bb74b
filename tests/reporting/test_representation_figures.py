"""Figures of a representation say what was found, follow the page's colours and load nothing."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from medcl.evaluation.representation import Diagnosis, NearestRows
from medcl.reporting.figures import write_svg
from medcl.reporting.representation import neighbour_figure, plane_figure, remarks, spectrum_figure
from medcl.types import Array

_NUMBERS = {
    "uniformity": -2.1,
    "mean_cosine": 0.31,
    "tolerance": 0.62,
    "site_tolerance": 0.4,
    "collapsed_dims": 0.0,
    "covariance_effective_rank": 9.6,
    "knn": 0.9,
    "knn_chance": 0.5,
}


def _diagnosis(rows: int = 200, **numbers: float) -> Diagnosis:
    return Diagnosis(
        rows=rows,
        used=min(rows, 200),
        seed=0,
        numbers={**_NUMBERS, **numbers},
        eigenvalues=tuple(10.0 ** (-k / 8) for k in range(16)),
        neighbours=(NearestRows(0, (3, 4, 5), (0.93, 0.9, 0.52)), NearestRows(7, (4, 3), (0.7, 0.61))),
    )


def _pictures() -> dict[int, Array]:
    rng = np.random.default_rng(0)
    return {row: rng.normal(size=(20, 14 + row)) for row in (0, 3, 4, 5, 7)}


def _valid(drawn: Markup | None) -> str:
    assert drawn is not None
    text = str(drawn)
    ElementTree.fromstring(text)
    assert re.search(r"<title [^>]*>[^<]{10,}</title><desc [^>]*>[^<]{20,}</desc>", text)
    assert not re.search(r"#01010[1-4]|#01020\d", text), "a stand-in colour was left"
    addresses = re.findall(r'href="([^"#][^"]{4})', text)
    assert all(address == "data:" for address in addresses)
    return text


def test_every_figure_is_valid_and_described() -> None:
    study = {"NT-Xent": _diagnosis(), "BYOL": _diagnosis(uniformity=-0.4, tolerance=0.97)}
    plane = _valid(plane_figure(study, "a study"))
    assert "BYOL: uniformity -0.40, one class 0.97, any two patients 0.31, one site 0.40" in plane
    assert "of one site" in plane
    spectrum = _valid(spectrum_figure(study, "a study"))
    assert "effective rank 9.6 of 16 directions, 0 collapsed" in spectrum
    strip = _valid(neighbour_figure(_diagnosis(), _pictures(), "a run"))
    assert "data:image/png;base64," in strip
    assert len(re.findall(r">0\.\d\d<", strip)) == 5


def test_a_figure_can_be_a_file_of_its_own(tmp_path: Path) -> None:
    write_svg(tmp_path / "plane.svg", plane_figure({"a run": _diagnosis()}, "a run"))
    assert "var(" not in (tmp_path / "plane.svg").read_text()


def test_classes_are_framed_and_counted() -> None:
    classes = {0: "oedema", 3: "oedema", 4: "none", 5: "oedema"}
    strip = _valid(neighbour_figure(_diagnosis(), _pictures(), "a run", classes=classes))
    assert "row 0 of class oedema, as 2 of its neighbours: 3 neighbours, cosines 0.93 to 0.52; row 7: 2" in strip
    assert strip.count("stroke: var(--series-3)") == 2
    assert strip.count("stroke: var(--series-2)") == 1
    assert ">0.52  oedema<" in strip


def test_without_classes_there_is_no_plane_and_without_neighbours_no_strip() -> None:
    bare = {name: value for name, value in _NUMBERS.items() if name not in ("tolerance", "site_tolerance")}
    found = dataclasses.replace(_diagnosis(), numbers=bare, neighbours=())
    assert plane_figure({"a run": found}, "a run") is None
    assert neighbour_figure(found, {}, "a run") is None
    _valid(spectrum_figure({"a run": found}, "a run"))


@pytest.mark.parametrize("eigenvalues", [(1.0, 1e-9, 0.0, 0.0), (0.0,) * 4])
def test_a_collapsed_spectrum_can_be_drawn(eigenvalues: tuple[float, ...]) -> None:
    found = dataclasses.replace(_diagnosis(collapsed_dims=3), eigenvalues=eigenvalues)
    assert ">collapsed<" in _valid(spectrum_figure({"a run": found}, "a run"))


def test_remarks_warn_first() -> None:
    said = remarks(_diagnosis(site_knn=0.9, site_knn_chance=0.5, hard_same_subject=0.4, collapsed_dims=5))
    assert [sentence.split()[0] for sentence in said[:3]] == ["5", "Neighbours", "40%"]
    assert "exclude_same_subject" in said[2]
    assert "tell the class (0.90, by chance 0.50)" in said[-1]
    assert remarks(_diagnosis(collapsed_dims=16))[0] == "The representation has collapsed: all rows are equal."
    assert remarks(_diagnosis(rows=900))[-1] == "200 of 900 rows were looked at."
    assert len(remarks(_diagnosis())) == 2


def test_few_rows_are_not_called_a_collapse() -> None:
    """Nine rows vary in eight directions at most: the other eight of sixteen say nothing."""
    found = _diagnosis(rows=9, collapsed_dims=8, covariance_effective_rank=6.0)
    assert remarks(found)[0] == "The variance spreads over 6 of 8 directions."
    assert "of 8 directions, 0 collapsed" in spectrum_figure({"a run": found}, "a run")


def test_figures_of_one_page_share_no_ids() -> None:
    drawn = [plane_figure({"a run": _diagnosis()}, owner) for owner in ("one", "two")]
    ids = [set(re.findall(r'\bid="([^"]+)"', str(figure))) for figure in drawn]
    assert not ids[0] & ids[1]
