"""In how many voxels nnU-Net's mask of an exported network differs from medcl's own, with nnU-Net as it ships.

    .venv-peers/bin/python benchmarks/nnunet_masks.py

Networks with random weights (so that scores are nearly equal in many places), windows of 16 x 32 x 24, volumes of smooth noise at the recipe's spacing
unless said otherwise; recipes of both conventions: medcl's own, and nnU-Net's, which imported networks have. `medcl export --to nnunet` writes the results folder; nnU-Net's predictor reads it, mirrors nothing and runs on the CPU. medcl
shows windows of air, too, as nnU-Net does. `tests/peers/test_nnunet_weights.py` shows that by nnU-Net's convention nothing differs once nnU-Net adds in 32
bits.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy import ndimage

PATCH, SPACING = (16, 32, 24), (1.5, 1.0, 1.25)
VOLUMES = {
    "one window": (PATCH, SPACING),
    "6 windows at half-window steps": ((32, 48, 24), SPACING),
    "half windows do not divide it": ((29, 45, 31), SPACING),
    "another spacing": ((32, 48, 24), (1.0, 1.4, 2.0)),
    "smaller than the window": ((12, 24, 20), SPACING),
}
LAYOUT = {
    "features": (8, 12, 16, 16),
    "blocks": (1, 3, 2, 2),
    "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 1, 3)),
    "strides": ((1, 1, 1), (2, 2, 2), (1, 2, 2), (2, 2, 1)),
    "decoder_convs": (1, 2, 1),
}


def write_volume(folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Path:
    """Smooth noise in HU, alone in ``folder`` under the name that nnU-Net asks for."""
    folder.mkdir(parents=True)
    values = 400 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.0) + 50
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([*spacing, 1])), folder / "case_0000.nii.gz")
    return folder


def write_runs(folder: Path, convention: str) -> dict[str, Path]:
    """Weights of three networks by name."""
    from medcl.config.encoder import NnunetConfig, ResidualEncoderConfig
    from medcl.encoders.build import build_encoder
    from medcl.encoders.segmenter import Segmenter
    from medcl.preparation.recipe import CTIntensity, Recipe
    from medcl.weights.card import WeightsCard
    from medcl.weights.save import save_weights

    recipe = Recipe(
        convention=convention,
        spacing=SPACING,
        intensity=CTIntensity(window=(-300, 400), mean=30, std=120),
        patch=PATCH,
        channels=("CT",),
        labels={0: "background", 1: "left", 2: "right"},
    )
    encoders = {
        "base": ResidualEncoderConfig(size="base"),
        "residual": NnunetConfig(kind="residual", **LAYOUT),
        "plain": NnunetConfig(kind="plain", **LAYOUT),
    }
    for name, encoder in encoders.items():
        torch.manual_seed(0)
        segmenter = Segmenter(build_encoder(encoder, 1, PATCH), 3)
        with torch.no_grad():
            for parameter in segmenter.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        save_weights(
            folder / name, segmenter, WeightsCard(encoder=encoder, in_channels=1, classes=3, stage="finetuned"), recipe
        )
    return {name: folder / name for name in encoders}


def nnunet_mask(results: Path, scans: Path, out: Path) -> np.ndarray:
    """nnU-Net's own mask of the one scan."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, use_mirroring=False
    )
    predictor.initialize_from_trained_model_folder(str(results), (0,))
    out.mkdir(parents=True)
    predictor.predict_from_files_sequential(str(scans), str(out))
    return np.asarray(nibabel.load(out / "case.nii.gz").dataobj)


def main() -> None:
    """Print the table."""
    from medcl.inference.predictor import Predictor
    from medcl.weights.exports.write import export

    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for convention in ("medcl", "nnunet"):
            place = root / convention
            runs = write_runs(place / "runs", convention)
            for run in runs:
                export(runs[run], "nnunet", place / "results" / run)
            for volume, (shape, spacing) in VOLUMES.items():
                scans = write_volume(place / "scans" / volume, shape, spacing)
                shares = []
                for run, weights in runs.items():
                    theirs = nnunet_mask(place / "results" / run, scans, place / "masks" / volume / run)
                    ours = Predictor([weights], skip_empty=False).predict([scans / "case_0000.nii.gz"]).labels
                    shares.append(f"{100 * np.mean(theirs != ours):.2f} %")
                rows.append(f"| {convention} | {volume} | {' | '.join(shares)} |")
    print(f"| recipe.convention | volume | {' | '.join(runs)} |\n|{' --- |' * (2 + len(runs))}")
    print("\n".join(rows))


if __name__ == "__main__":
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, tempfile.gettempdir())
    os.environ.setdefault("nnUNet_compile", "F")
    main()
