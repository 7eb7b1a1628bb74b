"""Cached gradients: a batch encoded in chunks, so that only one chunk's activations are held (objectives.md 3.3).

Each chunk runs without keeping its activations; when the gradient of the loss reaches its outputs, it runs again, with the
same random numbers, and passes the gradient on. The objective sees all outputs at once: its negatives, state and
gathering are those of the whole batch. The running again is ``torch.utils.checkpoint``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

log = logging.getLogger(__name__)

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def in_chunks(module: nn.Module, data: Tensor, size: int, *more: Any) -> list[Tensor]:
    """The tensors that ``module`` makes of ``data (N, ...)`` and ``more``, ``size`` rows at a time; gradients equal those of one call.

    With batch normalisation statistics are those of a chunk; running averages are updated once, not again when a chunk is
    repeated.
    """
    parts = [
        checkpoint(
            module,
            part,
            *more,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _kept_statistics(module)),
        )
        for part in data.split(size)
    ]
    return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


def warn_of_batch_norm(module: nn.Module) -> None:
    """Say once that batch statistics of a chunk are not those of the batch."""
    if any(isinstance(part, _BATCH_NORM) for part in module.modules()):
        log.warning(
            "trainer.chunk: this network has batch normalisation, whose statistics will be those of a chunk, not of the "
            "batch; instance or group normalisation does not depend on the chunk"
        )


@contextlib.contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Running averages of batch normalisation stay as they are inside."""
    norms = [part for part in module.modules() if isinstance(part, _BATCH_NORM) and part.track_running_stats]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, value in buffers.items():
                getattr(norm, name).copy_(value)
