"""The network as an ONNX file: from prepared windows to scores."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medcl.errors import WeightsError
from medcl.weights.exports.model import Model, write_sheet
from medcl.weights.exports.program import traced

FILE, INPUT, OUTPUT = "model.onnx", "windows", "scores"


def export_onnx(model: Model, folder: Path) -> list[str]:
    """Write ``model.onnx`` into ``folder``: ``windows (n, C, *window)`` float32 to ``scores (n, K, *window)`` before softmax, for any n.

    Recipe, labels and window also stand in the file's own metadata. Raises WeightsError where the packages that write ONNX are missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise WeightsError(f'writing ONNX needs {" and ".join(missing)}: pip install "medcl[export]"')
    with _quiet():
        program = torch.onnx.export(
            traced(model), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
    assert program is not None
    program.model.metadata_props.update(
        {
            "medcl.recipe": model.recipe.to_yaml(),
            "medcl.classes": json.dumps(model.classes),
            "medcl.window": json.dumps(model.window),
        }
    )
    program.save(folder / FILE)
    write_sheet(model.weights, folder)
    size = " x ".join(map(str, model.window))
    return [f"{FILE} takes prepared windows of {size} voxels; cutting, blending and preparing is the caller's part"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of its own work, and of operators of packages that no network here uses."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
