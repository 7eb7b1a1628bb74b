"""Shared fixtures. ``MEDCL_SHARED`` names the folder of reference vectors and real data (default: ../shared)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds ``data/`` and ``oracles/``; tests that need it skip with a clear reason without it."""
    folder = Path(os.environ.get("MEDCL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        message = f"no shared data at {folder}; set MEDCL_SHARED to the folder that holds data/ and oracles/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def hippocampus(shared: Path) -> Path:
    """The 200 real hippocampus volumes in Decathlon layout."""
    return shared / "data" / "hippocampus"
