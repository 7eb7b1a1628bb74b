"""How every row is computed: one module a family of objectives, each with its ``ADAPTERS``."""

from __future__ import annotations

import importlib
import pkgutil

from tests.oracles.rows import Adapters

BUILT: Adapters = {}
for _module in pkgutil.iter_modules(__path__):
    _adapters = importlib.import_module(f"{__name__}.{_module.name}").ADAPTERS
    assert not BUILT.keys() & _adapters.keys(), f"{_module.name}: a row has two adapters"
    BUILT |= _adapters
