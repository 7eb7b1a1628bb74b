"""Every objective that the laws hold for: one module a family, each with its ``CASES``."""

from __future__ import annotations

import importlib
import pkgutil

from tests.laws.case import Case

CASES: dict[str, Case] = {}
for _module in pkgutil.iter_modules(__path__):
    _cases = importlib.import_module(f"{__name__}.{_module.name}").CASES
    assert not CASES.keys() & _cases.keys(), f"{_module.name}: a name is taken"
    CASES |= _cases
