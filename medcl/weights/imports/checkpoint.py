"""Checkpoints of other trainers: tensors and plain values, and nothing that runs code when it is opened."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.dtypes import BoolDType, Float32DType, Float64DType, Int32DType, Int64DType

from medcl.errors import WeightsError

# Trainers log NumPy's numbers; this makes one and does nothing else. NumPy 2 moved it.
_NUMBER: Any = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [
    (_NUMBER, "numpy._core.multiarray.scalar"),
    (_NUMBER, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(BoolDType, Float32DType, Float64DType, Int32DType, Int64DType),
]


def read_checkpoint(file: Path) -> Mapping[str, Any]:
    """What ``file`` holds, on the CPU. Raises WeightsError where it is damaged or holds more than tensors and plain values."""
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{file}: no such file") from None
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{file}: holds more than weights and would run code when opened, so it is not read; save its state dict alone"
        ) from None
    except Exception as error:  # torch.load names no common class for what a damaged file makes it raise
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{file}: is damaged or not a checkpoint ({line})") from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file}: holds no named values; give a checkpoint or a state dict")
    return content
