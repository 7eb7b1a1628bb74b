"""`medcl objectives`: every objective has a page that says when to choose it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.objective import NEEDS, ObjectiveConfig
from medcl.errors import ConfigError
from medcl.workflow.objectives import find_objective, list_objectives

PAGES = {page.name: page for page in list_objectives()}


def test_all_are_listed() -> None:
    assert set(PAGES) == set(ObjectiveConfig.known)
    assert len(PAGES) >= 30


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_a_user_needs(name: str) -> None:
    page = PAGES[name]
    assert page.summary
    assert page.source
    assert len(page.choose.split()) > 4
    assert "`" in page.text
    assert ObjectiveConfig.known[name].needs <= set(NEEDS)
    assert all(meaning or setting in ("temperature", "margin") for setting, _, meaning in page.settings)
    keeps = any(need in ("sample ids", "teacher") for need in page.needs)
    assert page.state or not keeps or "teacher" in page.needs


def test_the_command_shows_them() -> None:
    table = CliRunner().invoke(app, ["objectives"], env={"COLUMNS": "160"})
    assert table.exit_code == 0
    assert all(name in table.output for name in PAGES)
    page = CliRunner().invoke(app, ["objectives", "isog_clr"], env={"COLUMNS": "160"})
    assert "numbers a record" in page.output
    assert "grad_clip" in page.output


def test_a_misspelt_name_is_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mv_dhel'"):
        find_objective("mv_dhl")
