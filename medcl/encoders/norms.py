"""Batch normalisation where a batch has too few rows for statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation of ``network`` uses its running statistics, as in evaluation: a single row has no others."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
