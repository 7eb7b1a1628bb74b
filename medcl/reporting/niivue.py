"""The JavaScript of NiiVue, from the package `ipyniivue`, for pages that must work without a network.

That package's widget carries NiiVue a second time, as one ES module in percent-encoding: what NiiVue writes into pages that it saves.
It exports the class ``Niivue``. The package itself is never imported, for it would bring Jupyter's widgets along.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from medcl.errors import ConfigError

INSTALL = 'pip install "medcl[view]"'

_ENCODED = re.compile(r'"([\w.~!*\'()%-]{500000,})"', re.ASCII)
_EXPORTS = re.compile(r"export\s*\{[^{}]*\bNiivue\b[^{}]*\};?\s*$")


def niivue_module() -> str:
    """The source of NiiVue as one ES module. Raises ConfigError where `ipyniivue` is not installed or carries no such module."""
    bundle = _bundle()
    if bundle is None:
        raise ConfigError(f"medcl view needs the viewer that the package ipyniivue carries; install it: {INSTALL}")
    for encoded in _ENCODED.finditer(bundle.read_text(encoding="utf-8")):
        module = unquote(encoded[1])
        if _EXPORTS.search(module):
            return module
    raise ConfigError(
        f"{bundle}: ipyniivue {_version()} carries no NiiVue module of the form that medcl knows; install one that does: {INSTALL}"
    )


def has_niivue() -> bool:
    """Whether :func:`niivue_module` has where to look."""
    return _bundle() is not None


def niivue_licence() -> str:
    """The licence text that must go with the module; empty where the package's metadata are missing."""
    try:
        return distribution("ipyniivue").read_text("licenses/LICENSE") or ""
    except PackageNotFoundError:
        return ""


def _bundle() -> Path | None:
    spec = find_spec("ipyniivue")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder) / "static" / "widget.js"
        if path.is_file():
            return path
    return None


def _version() -> str:
    try:
        return version("ipyniivue")
    except PackageNotFoundError:
        return "of unknown version"
