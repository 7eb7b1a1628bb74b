"""A recipe and a layout as nnU-Net's plans, whose axes are z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medcl.encoders.residual_unet import Layout, Side
from medcl.preparation.recipe import CTIntensity, MinMaxIntensity, Recipe, ZScoreIntensity

_KINDS = "dynamic_network_architectures.architectures.unet."


def plans_of(recipe: Recipe, layout: Layout, window: Sequence[int], *, plain: bool) -> dict[str, Any]:
    """The content of ``plans.json``. nnU-Net then reads scans in the recipe's orientation."""
    dims = layout.dims
    spacing = [1.0 if side is None else side for side in recipe.spacing]
    theirs = recipe.convention == "nnunet"
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None if theirs else False}
    resampling: dict[str, Any] = {}
    for what in ("data", "seg", "probabilities"):
        own = {"is_seg": what == "seg"} | ({"order": 3} if theirs and what == "data" else {})
        resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{what}_kwargs"] = linear | own
    masked = isinstance(recipe.intensity, ZScoreIntensity) and recipe.intensity.nonzero
    configuration = {
        "data_identifier": f"medcl_{dims}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": _turned(window[:dims]),
        "median_image_size_in_voxels": _turned(window[:dims]),
        "spacing": _turned(spacing[:dims]),
        "normalization_schemes": [_scheme(recipe)] * len(recipe.channels),
        "use_mask_for_norm": [masked] * len(recipe.channels),
        **resampling,
        "batch_dice": False,
        "architecture": _architecture(layout, plain=plain),
    }
    return {
        "dataset_name": "Dataset000_medcl",
        "plans_name": "medclPlans",
        "original_median_spacing_after_transp": _turned(spacing),
        "original_median_shape_after_transp": _turned(window),
        "image_reader_writer": "NibabelIOWithReorient" if recipe.orientation == "RAS" else "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres" if dims == 3 else "2d": configuration},
        "experiment_planner_used": "ExperimentPlanner" if plain else "ResEncUNetPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): _intensity(recipe) for index in range(len(recipe.channels))
        },
    }


def _scheme(recipe: Recipe) -> str:
    if isinstance(recipe.intensity, CTIntensity):
        return "CTNormalization"
    return "RescaleTo01Normalization" if isinstance(recipe.intensity, MinMaxIntensity) else "ZScoreNormalization"


def _intensity(recipe: Recipe) -> dict[str, float]:
    """What nnU-Net knows of the voxels of structures; only its CT normalisation uses it."""
    rule = recipe.intensity
    low, high, mean, std = (
        (*rule.window, rule.mean, rule.std) if isinstance(rule, CTIntensity) else (0.0, 1.0, 0.0, 1.0)
    )
    return {
        "min": low,
        "max": high,
        "median": mean,
        "mean": mean,
        "std": std,
        "percentile_00_5": low,
        "percentile_99_5": high,
    }


def _architecture(layout: Layout, *, plain: bool) -> dict[str, Any]:
    dims, stages = layout.dims, len(layout.features)
    convs = layout.decoder_convs
    return {
        "network_class_name": _KINDS + ("PlainConvUNet" if plain else "ResidualEncoderUNet"),
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(layout.features),
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [_kernel(side, dims) for side in layout.sides],
            "strides": [_turned(stride) for stride in layout.strides],
            "n_conv_per_stage" if plain else "n_blocks_per_stage": list(layout.blocks),
            "n_conv_per_stage_decoder": [convs] * (stages - 1) if isinstance(convs, int) else list(convs),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _kernel(side: Side, dims: int) -> list[int]:
    return [side] * dims if isinstance(side, int) else _turned(side)


def _turned(values: Sequence[Any]) -> list[Any]:
    return list(reversed(values))
