"""Networks that run without medcl: ONNX in onnxruntime, torch.export; windows cut and blended as medcl does give the same mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from medcl.errors import ConfigError, WeightsError
from medcl.inference.predictor import Predictor
from medcl.modalities.volume import read_volume
from medcl.preparation.apply import prepare
from medcl.preparation.restore import Slab, restore
from medcl.weights.exports.write import export
from medcl.weights.read import find_weights
from medcl.workflow.describe import describe


def mask_by(run: Path, scan: Path, network) -> np.ndarray:
    """What a caller of an exported network does: prepare, cut windows, blend, softmax, restore."""
    weights = find_weights(run)
    prepared = prepare(read_volume([scan]), weights.recipe)
    data = torch.from_numpy(prepared.data)[None]
    scores = sliding_window_inference(
        data, weights.recipe.patch, 2, network, overlap=0.5, mode="gaussian", padding_mode="replicate"
    )
    return restore([Slab(0, 0, scores[0].softmax(0).numpy())], prepared).labels


def test_onnxruntime_gives_the_same_mask(make_run, scan, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = make_run()
    written = export(run, "onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(written.folder / "model.onnx", providers=["CPUExecutionProvider"])

    def network(windows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"windows": windows.numpy()})[0])

    expected = Predictor([run], skip_empty=False).predict([scan]).labels
    assert np.mean(mask_by(run, scan, network) != expected) <= 1e-4
    assert len(np.unique(expected)) > 1
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["medcl.classes"]) == ["background", "left", "right"]
    assert json.loads(told["medcl.window"]) == [16, 24, 8]


def test_torch_export_gives_the_same_mask(make_run, scan, tmp_path) -> None:
    run = make_run()
    export(run, "torch", tmp_path / "torch")
    network = torch.export.load(tmp_path / "torch" / "model.pt2").module()
    expected = Predictor([run], skip_empty=False).predict([scan]).labels
    with torch.no_grad():
        assert np.array_equal(mask_by(run, scan, network), expected)
    assert "segmentation program (torch.export)" in "\n".join(section.title for section in describe(tmp_path / "torch"))


def test_onnx_without_its_packages_is_one_line(make_run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r'onnx and onnxscript: pip install "medcl\[export\]"'):
        export(make_run(), "onnx", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_other_formats_and_used_folders_are_refused(make_run, tmp_path) -> None:
    run = make_run()
    with pytest.raises(ConfigError, match="--to tflite: is no format; choose one of onnx, torch, bundle, nnunet, hub"):
        export(run, "tflite", tmp_path / "x")
    with pytest.raises(ConfigError, match="holds something already"):
        export(run, "torch", run)
