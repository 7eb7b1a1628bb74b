"""Packages that medcl is checked against. They live in .venv-peers (`make peers`); elsewhere these tests skip."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def import_peer(name: str) -> ModuleType:
    """The module ``name``. Skips where its package is not installed.

    lightly's and open_clip's packages import torchvision when they open, of which there is no CPU build. Where that
    fails, the module is imported without running the ``__init__`` of the packages above it.
    """
    root = name.partition(".")[0]
    if root not in sys.modules and importlib.util.find_spec(root) is None:
        pytest.skip(
            f"{root} is not installed here; run `make peers`, then .venv-peers/bin/python -m pytest tests/peers"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
    _open_bare(name)
    return importlib.import_module(name)


def _open_bare(name: str) -> None:
    root, *inner, _ = name.split(".")
    spec = importlib.util.find_spec(root)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    for depth in range(len(inner) + 1):
        package = ModuleType(".".join([root, *inner[:depth]]))
        package.__path__ = [str(folder.joinpath(*inner[:depth]))]
        package.__spec__ = importlib.util.spec_from_file_location(package.__name__, folder / "__init__.py")
        sys.modules[package.__name__] = package


@pytest.fixture(scope="session")
def peer() -> Callable[[str], ModuleType]:
    """``peer("package.module")`` imports a peer's module or skips the test."""
    return import_peer
