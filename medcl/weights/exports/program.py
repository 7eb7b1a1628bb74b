"""The network as a program of ``torch.export``: it runs wherever PyTorch does, without medcl."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from medcl.weights.exports.model import Model, write_sheet

PROGRAM = "model.pt2"


def traced(model: Model) -> ExportedProgram:
    """From windows ``(n, C, *window)`` float32 to scores before softmax ``(n, K, *window)``, for any n."""
    shapes = ({0: Dim("windows", min=1)},)
    with torch.no_grad():
        return torch.export.export(model.network, (model.example(),), dynamic_shapes=shapes)


def export_torch(model: Model, folder: Path) -> list[str]:
    """Write ``model.pt2`` into ``folder``."""
    torch.export.save(traced(model), folder / PROGRAM)
    write_sheet(model.weights, folder)
    size = " x ".join(map(str, model.window))
    return [f"torch.export.load('{PROGRAM}').module() takes prepared windows of {size} voxels and gives scores"]
