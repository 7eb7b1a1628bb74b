"""``configs/inference.json`` of a MONAI bundle: a recipe in MONAI's transforms.

MONAI has no transform that keeps the extent of a volume while resampling it to a spacing, low-passes what it shrinks, or finds the body.
These three are short expressions of the configuration; everything else is a transform of MONAI, and `Invertd` runs it backwards.
"""

from __future__ import annotations

from typing import Any

from medcl.preparation.recipe import CTIntensity, MinMaxIntensity, MRIntensity, Recipe
from medcl.weights.exports.model import Model
from medcl.weights.exports.program import PROGRAM

# As medcl.preparation.axes: spacings this near are one; the extent is kept, and both grids have the same centre.
_GRID = {
    "steps": "$lambda x: [1.0 if w is None or abs(w / s - 1) < 1e-3 else w / s "
    "for w, s in zip(@spacing, np.linalg.norm(x.affine.numpy()[:3, :3], axis=0).tolist())]",
    "counts": "$lambda x: [n if t == 1 else max(1, round(n / t)) for n, t in zip(x.shape[1:], @steps(x))]",
    "starts": "$lambda x: [(n - 1) / 2 - t * (m - 1) / 2 for n, t, m in zip(x.shape[1:], @steps(x), @counts(x))]",
    "scaled": "$lambda x: np.matmul(x.affine.numpy(), np.vstack([np.column_stack([np.diag(@steps(x)), @starts(x)]), [0, 0, 0, 1]]))",
    "grid": "$lambda x: MetaTensor(torch.zeros((1, *@counts(x))), affine=torch.as_tensor(@scaled(x)))",
    "smoothed": "$lambda x: x.copy_(torch.as_tensor(ndimage.gaussian_filter("
    "x.numpy(), [0, *[max(t - 1, 0) / 2 for t in @steps(x)]], mode='nearest')))",
}

# As medcl.preparation.body: the largest component of what lies above the tenth percentile of a channel.
_BODY = {
    "largest": "$lambda found: found[0] == np.bincount(found[0].ravel())[1:].argmax() + 1 if found[1] else found[0] == 0",
    "body": "$lambda x: @largest(ndimage.label(np.any([c > np.percentile(c, 10) for c in x.numpy()], axis=0)))",
}

# As medcl.preparation.intensity: percentiles, mean and deviation of the voxels of the body.
_ZSCORE = {
    "kept": "$lambda v, inside: [v, np.clip(inside, *np.percentile(inside, @percentiles).tolist())]",
    "scored": "$lambda v, c: (np.clip(v, float(c.min()), float(c.max())) - float(c.mean(dtype=np.float64)))"
    " / (float(c.std(dtype=np.float64)) or 1.0)",
    "normalised": "$lambda x: x.copy_(torch.as_tensor(np.stack("
    "[@scored(*@kept(c, c[b])) for b in [@body(x)] for c in x.numpy()])))",
}


def inference_config(model: Model) -> dict[str, Any]:
    """The configuration that ``python -m monai.bundle run`` reads; its recipe was checked by the caller."""
    recipe = model.recipe
    zscore: dict[str, Any] = {}
    if isinstance(recipe.intensity, MRIntensity):
        zscore = {"percentiles": list(recipe.intensity.percentiles), **_ZSCORE}
    return {
        "imports": [
            "$import glob",
            "$import os",
            "$import numpy as np",
            "$import torch",
            "$import torch.export.passes",
            "$from scipy import ndimage",
            "$from monai.data import MetaTensor",
        ],
        "bundle_root": ".",
        "dataset_dir": "scans",
        "output_dir": "masks",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii')) + glob.glob(os.path.join(@dataset_dir, '*.nii.gz')))",
        "network_def": "$torch.export.passes.move_to_device_pass("
        f"torch.export.load(os.path.join(@bundle_root, 'models', '{PROGRAM}')), str(@device)).module()",
        "classes": model.classes,
        "spacing": list(recipe.spacing),
        **_GRID,
        **(_BODY if zscore or recipe.crop == "foreground" else {}),
        **zscore,
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(recipe)},
        "inferer": _inferer(model.window),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(recipe)},
        "infer": "$torch.no_grad()(lambda d: {**d, 'pred': @inferer(d['image'][None].to(@device), @network_def)[0].cpu(), "
        "'covered': torch.ones_like(d['image'][:1])})",
        "segment": "$lambda file: @postprocessing(@infer(@preprocessing({'image': file}))) and file",
        "run": ["$[@segment(file) for file in @datalist]"],
    }


def _preprocessing(recipe: Recipe) -> list[dict[str, Any]]:
    image = {"keys": "image"}
    transforms: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", **image, "reader": "NibabelReader", "ensure_channel_first": True},
        {"_target_": "Orientationd", **image, "axcodes": "RAS", "labels": None},
    ]
    if any(side is not None for side in recipe.spacing):
        transforms += [
            {"_target_": "CopyItemsd", **image, "names": "grid"},
            {"_target_": "Lambdad", "keys": "grid", "func": "@grid"},
            {"_target_": "Lambdad", **image, "func": "@smoothed"},
            {
                "_target_": "ResampleToMatchd",
                **image,
                "key_dst": "grid",
                "mode": "bilinear",
                "padding_mode": "border",
                "align_corners": False,
                "dtype": "$np.float64",
            },
        ]
    if recipe.crop == "foreground":
        as_mask = "$lambda x: MetaTensor(torch.as_tensor(@body(x)[None]), affine=x.affine)"
        transforms += [
            {"_target_": "CopyItemsd", **image, "names": "inside"},
            {"_target_": "Lambdad", "keys": "inside", "func": as_mask},
        ]
    transforms.append(_intensity(recipe))
    if recipe.crop == "foreground":
        transforms.append({"_target_": "CropForegroundd", **image, "source_key": "inside", "allow_smaller": True})
    return transforms


def _intensity(recipe: Recipe) -> dict[str, Any]:
    rule = recipe.intensity
    if isinstance(rule, CTIntensity):
        low, high = rule.window
        bounds = {
            "a_min": low,
            "a_max": high,
            "b_min": (low - rule.mean) / rule.std,
            "b_max": (high - rule.mean) / rule.std,
        }
        return {"_target_": "ScaleIntensityRanged", "keys": "image", **bounds, "clip": True}
    if isinstance(rule, MinMaxIntensity):
        lower, upper = rule.percentiles
        bounds = {"lower": lower, "upper": upper, "b_min": 0.0, "b_max": 1.0}
        return {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", **bounds, "channel_wise": True}
    return {"_target_": "Lambdad", "keys": "image", "func": "@normalised"}


def _inferer(window: tuple[int, ...]) -> dict[str, Any]:
    """Windows as of medcl.inference.blending; a network of two dimensions sees slices along z."""
    shared = {
        "roi_size": list(window),
        "sw_batch_size": 1,
        "overlap": 0.5,
        "mode": "gaussian",
        "padding_mode": "replicate",
    }
    if len(window) == 2:
        return {"_target_": "SliceInferer", **shared, "spatial_dim": 2}
    return {"_target_": "SlidingWindowInferer", **shared}


def _postprocessing(recipe: Recipe) -> list[dict[str, Any]]:
    """Probabilities on the scan's own grid, then the likeliest class. Where the crop does not reach, they are 0: background."""
    back = {"_target_": "Invertd", "orig_keys": "image", "transform": "@preprocessing", "to_tensor": True}
    transforms: list[dict[str, Any]] = [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {**back, "keys": "pred", "nearest_interp": False},
    ]
    if recipe.crop == "foreground":
        transforms += [
            {**back, "keys": "covered", "nearest_interp": True},
            {"_target_": "Lambda", "func": "$lambda d: {**d, 'pred': d['pred'] * d['covered']}"},
        ]
    saved = {"output_dir": "@output_dir", "output_postfix": "", "separate_folder": False, "resample": False}
    kind = "$np.uint8 if len(@classes) <= 256 else np.uint16"
    return [
        *transforms,
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "SaveImaged", "keys": "pred", **saved, "output_dtype": kind, "print_log": False},
    ]
