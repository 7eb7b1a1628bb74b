"""Which program's folder of a network a folder is."""

from __future__ import annotations

from pathlib import Path

_SIGNS = {
    "configs/metadata.json": "MONAI bundle",
    "plans.json": "nnU-Net results",
    "model.onnx": "ONNX network",
    "model.pt2": "segmentation program (torch.export)",
}


def format_of(folder: Path) -> str | None:
    """The kind of network in ``folder`` in words; None where it holds none that is not medcl's own."""
    return next((kind for sign, kind in _SIGNS.items() if (folder / sign).is_file()), None)
