"""nnU-Net's plans as a configuration of the network and a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medcl.config.encoder import NnunetConfig
from medcl.errors import WeightsError
from medcl.preparation.recipe import CTIntensity, IntensityRule, MinMaxIntensity, Recipe, ZScoreIntensity
from medcl.weights.axes import order_of, reordered

# A window that clips nothing and a unit of 1 leave values as they are.
_EVERYTHING = 1e9
USUAL_RESAMPLING = "resample_data_or_seg_to_shape"
_KINDS = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}


@dataclass(frozen=True)
class Planned:
    """What plans say: the network, the recipe, for each axis of medcl which of nnU-Net's it is, and what cannot be said in a recipe."""

    encoder: NnunetConfig
    recipe: Recipe
    order: tuple[int, ...]
    notes: tuple[str, ...]


def read_plans(plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str, where: object) -> Planned:
    """The configuration ``name`` of ``plans``. Raises WeightsError, naming ``where``, for what medcl has no counterpart of."""
    configuration = _configuration(plans, name, where)
    architecture = _architecture(configuration, where)
    patch = configuration["patch_size"]
    dims = len(patch)
    try:
        order = order_of(plans["transpose_forward"], dims)
    except ValueError:
        raise WeightsError(f"{where}: its slices do not lie along z, and medcl cuts no others") from None
    encoder = network_of(architecture, order, dims, where)
    spacing, window = reordered(configuration["spacing"][-dims:], order), reordered(patch, order)
    rule = _intensity(plans, configuration, where)
    stored = plans.get("image_reader_writer") != "NibabelIOWithReorient"
    recipe = Recipe(
        convention="nnunet",
        orientation="stored" if stored else "RAS",
        spacing=(*spacing, None)[:3],
        intensity=rule,
        patch=(*window, 1)[:3],
        channels=tuple(map(str, (dataset.get("channel_names") or dataset["modality"]).values())),
        labels=_labels(dataset, where),
    )
    notes = []
    if stored:
        notes.append(
            "the network sees scans in the order in which they are stored, as nnU-Net read them: scans stored in another order than "
            "those of its training come out worse, and left may be taken for right"
        )
    notes.extend(_other_resampling(configuration))
    return Planned(encoder, recipe, order, tuple(notes))


def _configuration(plans: Mapping[str, Any], name: str, where: object) -> dict[str, Any]:
    """With what it inherits."""
    found: dict[str, Any] = {}
    wanted: str | None = name
    while wanted is not None:
        if wanted not in plans["configurations"]:
            raise WeightsError(f"{where}: has no configuration {wanted} ({', '.join(plans['configurations'])})")
        one = plans["configurations"][wanted]
        found, wanted = {**one, **found}, one.get("inherits_from") if one.get("inherits_from") != wanted else None
    if found.get("previous_stage"):
        raise WeightsError(
            f"{where}: {name} is the second stage of a cascade, which medcl does not run; import a first stage"
        )
    return found


def _architecture(configuration: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Class and arguments; those of plans before nnU-Net 2.5 are spelt out."""
    if "architecture" in configuration:
        found = configuration["architecture"]
        return {"class": found["network_class_name"].rpartition(".")[2], **found["arch_kwargs"]}
    kind, stages = configuration.get("UNet_class_name"), len(configuration["n_conv_per_stage_encoder"])
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    counts = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "class": kind,
        "n_stages": stages,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        counts: configuration["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": "InstanceNorm",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
    }


def network_of(found: Mapping[str, Any], order: Sequence[int], dims: int, where: object) -> NnunetConfig:
    """The network of the class and the arguments ``found``, its axes in ``order``. Raises WeightsError where medcl cannot build it."""
    if found["class"] not in _KINDS:
        raise WeightsError(f"{where}: network {found['class']} is not known here; {' and '.join(_KINDS)} are")
    norm = found.get("norm_op_kwargs") or {}
    odd = {
        "norm_op": "InstanceNorm" not in str(found.get("norm_op"))
        or norm.get("eps", 1e-5) != 1e-5
        or not norm.get("affine"),
        "nonlin": "LeakyReLU" not in str(found.get("nonlin")) or bool(found.get("nonlin_first")),
        "conv_bias": not found.get("conv_bias"),
        "block": "Bottleneck" in str(found.get("block")),
        "stem_channels": found.get("stem_channels") not in (None, _each(found["features_per_stage"], 1)[0]),
    }
    if any(odd.values()):
        unknown = ", ".join(name for name, strange in odd.items() if strange)
        raise WeightsError(
            f"{where}: the network has another {unknown} than nnU-Net's own plans; medcl cannot build it"
        )
    stages = found["n_stages"]
    kind = _KINDS[found["class"]]
    blocks = found["n_conv_per_stage" if kind == "plain" else "n_blocks_per_stage"]
    axes = {
        name: tuple(reordered(_each(one, dims), order) for one in _each(found[given], stages))
        for name, given in (("kernels", "kernel_sizes"), ("strides", "strides"))
    }
    return NnunetConfig(
        kind=kind,
        features=_each(found["features_per_stage"], stages),
        blocks=_each(blocks, stages),
        decoder_convs=_each(found["n_conv_per_stage_decoder"], stages - 1),
        dims=dims,
        **axes,
    )


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _intensity(plans: Mapping[str, Any], configuration: Mapping[str, Any], where: object) -> IntensityRule:
    schemes = set(configuration["normalization_schemes"])
    masked = set(map(bool, configuration.get("use_mask_for_norm") or [False]))
    if len(schemes) > 1 or len(masked) > 1:
        raise WeightsError(
            f"{where}: channels are normalised in several ways ({', '.join(sorted(schemes))}); a recipe has one"
        )
    (scheme,) = schemes
    if scheme == "CTNormalization":
        return _ct(plans, where)
    if scheme == "RescaleTo01Normalization":
        return MinMaxIntensity(percentiles=(0, 100))
    if scheme == "NoNormalization":
        return CTIntensity(window=(-_EVERYTHING, _EVERYTHING), mean=0, std=1)
    if scheme == "ZScoreNormalization":
        return ZScoreIntensity(nonzero=masked.pop())
    raise WeightsError(f"{where}: normalisation {scheme} has no counterpart in a recipe")


def _other_resampling(configuration: Mapping[str, Any]) -> list[str]:
    """A note where scans are not resampled as nnU-Net's own planner has it."""
    usual = {"data": {"order": 3, "order_z": 0, "force_separate_z": None}, "probabilities": {"order": 1, "order_z": 0}}
    for what, wanted in usual.items():
        name = configuration.get(f"resampling_fn_{what}", USUAL_RESAMPLING)
        given = configuration.get(f"resampling_fn_{what}_kwargs", wanted)
        if name != USUAL_RESAMPLING or any(given.get(key) != value for key, value in wanted.items()):
            return [
                f"{name} with {given} resamples {what} of other spacings than the network's in another way than medcl "
                "(splines for scans, linear for scores)"
            ]
    return []


def _ct(plans: Mapping[str, Any], where: object) -> CTIntensity:
    key = "foreground_intensity_properties_per_channel"
    told = plans.get(key) or plans["foreground_intensity_properties_by_modality"]
    found = {
        (one["percentile_00_5"], one["percentile_99_5"], one["mean"], one["std"])
        for one in list(told.values())[: len(told)]
    }
    if len(found) > 1:
        raise WeightsError(f"{where}: each CT channel has a window of its own; a recipe has one")
    low, high, mean, std = found.pop()
    return CTIntensity(window=(low, high), mean=mean, std=std)


def _labels(dataset: Mapping[str, Any], where: object) -> dict[int, str]:
    told = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if any(isinstance(value, list | tuple) for value in told.values()):
        raise WeightsError(f"{where}: segments regions that overlap; medcl's masks have one label a voxel")
    labels = {int(value): str(name) for name, value in told.items()}
    if sorted(labels) != list(range(len(labels))):
        raise WeightsError(f"{where}: labels are {sorted(labels)}; medcl needs 0, 1, 2 ... without gaps")
    return labels
