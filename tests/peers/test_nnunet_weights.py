"""Whole models across nnU-Net and medcl: results folders made with nnU-Net's own trainer, and medcl's exports in nnU-Net's own runtime.

nnU-Net adds windows in 16 bits, which are set to 32 here, so that what is left would be a difference of networks, axes, preparation or label
order. For exports whose recipe is of medcl's own convention its Gaussian is set to MONAI's, too. `docs/how-to/weights.md` says what both cost.
"""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from scipy import ndimage

from medcl.config.encoder import EncoderConfig, NnunetConfig, ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.inference.predictor import Predictor
from medcl.preparation.recipe import Convention, CTIntensity, Recipe
from medcl.weights.card import WeightsCard
from medcl.weights.exports.write import export
from medcl.weights.imports.nnunet import import_nnunet
from medcl.weights.save import save_weights

PATCH = (16, 32, 24)
LAYOUT = {
    "features": (8, 12, 16, 16),
    "blocks": (1, 3, 2, 2),
    "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 1, 3)),
    "strides": ((1, 1, 1), (2, 2, 2), (1, 2, 2), (2, 2, 1)),
    "decoder_convs": (1, 2, 1),
}
ENCODERS = {
    "base": ResidualEncoderConfig(size="base"),
    "residual": NnunetConfig(kind="residual", **LAYOUT),
    "plain": NnunetConfig(kind="plain", **LAYOUT),
}


@pytest.fixture
def nnunet(peer, monkeypatch, tmp_path):
    """nnU-Net's modules, its folders in ``tmp_path``."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_compile", "F")
    peer("nnunetv2.paths")
    return peer


SCANS = {
    "six windows": ((32, 48, 24), (1.5, 1, 1.25)),
    "half windows do not divide it": ((29, 45, 31), (1.5, 1, 1.25)),
    "another spacing": ((32, 48, 24), (1, 1.4, 2)),
    "smaller than a window": ((12, 24, 20), (1.5, 1, 1.25)),
    "thick slices": ((28, 40, 8), (1.5, 1, 5)),
}


def save_scan(folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Path:
    """Smooth noise, stored with its first axis flipped."""
    values = 400 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.0) + 50
    folder.mkdir(parents=True)
    image = nibabel.Nifti1Image(values.astype(np.float32), np.diag([-spacing[0], *spacing[1:], 1]))
    nibabel.save(image, folder / "case_0000.nii.gz")
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A scan of six windows at the spacing of the recipe."""
    return save_scan(tmp_path / "scans", *SCANS["six windows"])


def save_run(folder: Path, encoder: EncoderConfig, convention: Convention = "medcl") -> Path:
    torch.manual_seed(0)
    recipe = Recipe(
        convention=convention,
        spacing=(1.5, 1, 1.25),
        intensity=CTIntensity(window=(-300, 400), mean=30, std=120),
        patch=PATCH,
        channels=("CT",),
        labels={0: "background", 1: "left", 2: "right"},
    )
    segmenter = randomised(Segmenter(build_encoder(encoder, 1, PATCH), 3))
    card = WeightsCard(encoder=encoder, in_channels=1, classes=3, stage="finetuned")
    save_weights(folder, segmenter, card, recipe)
    return folder


def randomised(module: Any) -> Any:
    """No term of the network is left at 0 or 1."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


@lru_cache
def monai_gaussian(tile: tuple[int, ...], **_: Any) -> torch.Tensor:
    return compute_importance_map(tuple(tile), mode="gaussian", sigma_scale=0.125)


def masks(
    peer, monkeypatch, results: Path, weights: Path, scans: Path, *, gaussian: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net's mask by ``results`` and medcl's by ``weights``; ``gaussian``: nnU-Net's is set to MONAI's."""
    module = peer("nnunetv2.inference.predict_from_raw_data")
    predictor = module.nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, use_mirroring=True
    )
    predictor.initialize_from_trained_model_folder(str(results), (0,))
    out = results.parent / "masks"
    out.mkdir(exist_ok=True)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "half", torch.float32)
        if gaussian:
            patched.setattr(module, "compute_gaussian", monai_gaussian)
        predictor.predict_from_files_sequential(str(scans), str(out))
    theirs = np.asarray(nibabel.load(out / "case.nii.gz").dataobj)
    ours = Predictor([weights], skip_empty=False).predict([scans / "case_0000.nii.gz"]).labels
    assert len(np.unique(ours)) > 1
    return theirs, ours


def trainer_of(peer, plans: dict[str, Any], dataset: dict[str, Any], folder: Path) -> Any:
    """nnU-Net's own trainer of ``plans``, its network initialised."""
    place = folder / "nnUNet_preprocessed" / plans["dataset_name"] / "medcl_3d"
    place.mkdir(parents=True, exist_ok=True)
    (place / "case.b2nd").touch()  # by the names in there it chooses how to read a data set
    module = peer("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    given = {**copy.deepcopy(plans), "continue_training": False}
    trainer = module.nnUNetTrainer(given, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.initialize()
    return trainer


@pytest.mark.parametrize("name", ENCODERS)
def test_an_export_predicts_and_fine_tunes_in_nnunet(nnunet, monkeypatch, scans, tmp_path, name: str) -> None:
    run = save_run(tmp_path / "seg", ENCODERS[name])
    export(run, "nnunet", tmp_path / "results")
    theirs, ours = masks(nnunet, monkeypatch, tmp_path / "results", run, scans, gaussian=True)
    assert np.mean(theirs != ours) <= 1e-4
    plans, dataset = (json.loads((tmp_path / "results" / f"{one}.json").read_text()) for one in ("plans", "dataset"))
    network = trainer_of(nnunet, plans, dataset, tmp_path).network
    file = tmp_path / "results" / "fold_0" / "checkpoint_final.pth"
    nnunet("nnunetv2.run.load_pretrained_weights").load_pretrained_weights(network, str(file))
    given = torch.load(file, weights_only=True)["network_weights"]
    taken = {name: one for name, one in network.state_dict().items() if ".seg_layers." not in name}
    assert all(torch.equal(one, given[name]) for name, one in taken.items())


@pytest.mark.parametrize("volume", SCANS)
def test_an_export_of_nnunets_convention_predicts_alike(nnunet, monkeypatch, tmp_path, volume: str) -> None:
    run = save_run(tmp_path / "seg", ENCODERS["base"], "nnunet")
    export(run, "nnunet", tmp_path / "results")
    scans = save_scan(tmp_path / "scans", *SCANS[volume])
    theirs, ours = masks(nnunet, monkeypatch, tmp_path / "results", run, scans)
    assert np.mean(theirs != ours) <= 1e-4


@pytest.mark.parametrize("volume", SCANS)
@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1)], ids=str)
@pytest.mark.parametrize("kind", ["residual", "plain"])
def test_an_nnunet_model_imports(
    nnunet, monkeypatch, tmp_path, kind: str, forward: tuple[int, ...], volume: str
) -> None:
    """Made with nnU-Net's own planner format, trainer and checkpoint, random weights; also with transposed axes."""
    scans = save_scan(tmp_path / "scans", *SCANS[volume])
    export(save_run(tmp_path / "seg", ENCODERS[kind], "nnunet"), "nnunet", tmp_path / "given")
    plans, dataset = (json.loads((tmp_path / "given" / f"{one}.json").read_text()) for one in ("plans", "dataset"))
    plans |= {"transpose_forward": list(forward), "transpose_backward": [forward.index(axis) for axis in range(3)]}
    configuration = plans["configurations"]["3d_fullres"]
    arguments = configuration["architecture"]["arch_kwargs"]
    configuration |= {one: [configuration[one][axis] for axis in forward] for one in ("patch_size", "spacing")}
    for one in ("strides", "kernel_sizes"):
        arguments[one] = [[sides[axis] for axis in forward] for sides in arguments[one]]
    torch.manual_seed(1)
    trainer = trainer_of(nnunet, plans, dataset, tmp_path)
    randomised(trainer.network)
    trainer.inference_allowed_mirroring_axes = None
    trainer._best_ema = np.float64(0.7)
    results = tmp_path / "results"
    (results / "fold_0").mkdir(parents=True)
    trainer.save_checkpoint(str(results / "fold_0" / "checkpoint_final.pth"))
    for one, content in (("plans", plans), ("dataset", dataset)):
        (results / f"{one}.json").write_text(json.dumps(content))
    report = import_nnunet(results, tmp_path / "weights").report
    assert (report.adapted, report.random, report.unused) == ((), (), ())
    theirs, ours = masks(nnunet, monkeypatch, results, tmp_path / "weights", scans)
    assert np.mean(theirs != ours) <= 1e-4
