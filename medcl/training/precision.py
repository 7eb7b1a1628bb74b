"""The precision that a machine computes in."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from medcl.config.training import Precision

log = logging.getLogger(__name__)

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def resolve_precision(wanted: Precision, *, gpu: bool) -> Literal["32", "bf16"]:
    """What ``wanted`` means on this machine's GPU or CPU: ``auto`` is bf16 where it has instructions for it, and 32 elsewhere.

    A CPU without them computes bf16 about thirty times slower than float32: asked for by name, that is warned of.
    """
    if wanted == "32":
        return "32"
    if gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in _BF16_INSTRUCTIONS)
    if native or wanted == "auto":
        return "bf16" if native else "32"
    log.warning("precision: this machine has no bf16 instructions and is very slow in bf16; set it to auto")
    return "bf16"
