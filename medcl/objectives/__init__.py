"""Losses: tensors in, a number out. Every module of this package is imported, so a new objective is one new file."""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
