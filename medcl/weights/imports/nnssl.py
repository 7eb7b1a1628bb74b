"""Checkpoints of nnssl (OpenMind): self-supervised residual encoders with the plan for fine-tuning them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcl.config.data import RecipeConfig
from medcl.config.encoder import NnunetConfig
from medcl.errors import WeightsError
from medcl.preparation.recipe import channel_names
from medcl.weights.axes import order_of, reordered, turned
from medcl.weights.imports.config import ImportConfig
from medcl.weights.imports.imported import Imported, input_channels
from medcl.weights.imports.names import FAMILIES
from medcl.weights.imports.nnunet_plans import network_of
from medcl.weights.imports.recipes import volume_recipe
from medcl.weights.imports.state import tensors_in
from medcl.weights.imports.volume import keep_volume

PLAN = "nnssl_adaptation_plan"
_CITE = "Wald et al., An OpenMind for 3D medical vision self-supervised learning, ICCV 2025"
# The preset that its plans call ResEncL; NoSkipResEncL has the same encoder.
_RESENC_L: dict[str, Any] = {
    "n_stages": 6,
    "features_per_stage": (32, 64, 128, 256, 320, 320),
    "kernel_sizes": 3,
    "strides": ((1, 1, 1), *((2, 2, 2),) * 5),
    "n_blocks_per_stage": (1, 3, 4, 6, 6, 6),
    "n_conv_per_stage_decoder": 1,
    "class": "ResidualEncoderUNet",
    "conv_bias": True,
    "norm_op": "InstanceNorm",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "LeakyReLU",
}
_PRESETS = ("ResEncL", "NoSkipResEncL")


def import_nnssl(file: Path, content: Mapping[str, Any], config: ImportConfig, out: Path) -> Imported:
    """Write the checkpoint ``content`` of ``file`` into ``out``: its encoder, and of its decoder what fits.

    The plan says the network and how scans were prepared; what ``config.recipe`` sets goes before it. Raises WeightsError for a
    transformer, a damaged plan, or tensors of another network than the plan's.
    """
    try:
        plan = content[PLAN]
        order = order_of(plan.get("pretrain_plan", {}).get("transpose_forward", (0, 1, 2)), 3)
        encoder = _network(plan["architecture_plans"], order, file)
        told = _told(plan, order, config.recipe)
        weights = content["network_weights"]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        raise WeightsError(
            f"{file}: its {PLAN} is damaged ({type(error).__name__}: {error}); download it anew"
        ) from None
    state, _ = tensors_in({"network_weights": weights}, file)
    family = FAMILIES["nnunet"]
    if (renamed := family.renamed(turned(state, order))) is None:
        raise WeightsError(f"{file}: holds no residual encoder, although its {PLAN} says so; download it anew")
    channels = channel_names(config.channels, input_channels(renamed.state, family.stems))
    recipe, unsaid = volume_recipe(told, channels, 3)
    return keep_volume(renamed, encoder, recipe, out, origin="nnssl", notes=unsaid, citations=(_CITE, *_cited(content)))


def _network(plans: Mapping[str, Any], order: Sequence[int], file: Path) -> NnunetConfig:
    name, given = str(plans["arch_class_name"]).rpartition(".")[2], plans.get("arch_kwargs") or {}
    if name in _PRESETS:
        given = {**_RESENC_L, **given}
    elif name == "ResidualEncoderUNet":
        given = {**given, "class": name}
    else:
        raise WeightsError(
            f"{file}: is of {name}, which medcl does not have; of nnssl's networks the residual encoders ({', '.join(_PRESETS)}) can be imported"
        )
    return network_of(given, order, 3, file)


def _told(plan: Mapping[str, Any], order: Sequence[int], config: RecipeConfig) -> RecipeConfig:
    """What the plan and before it ``config`` say of the recipe: nnssl prepares scans as nnU-Net does."""
    configuration = next(iter(plan["pretrain_plan"]["configurations"].values()))
    values: dict[str, Any] = {
        "patch": reordered(plan.get("recommended_downstream_patchsize") or configuration["patch_size"], order)
    }
    if configuration.get("spacing") is not None:
        values["spacing"] = reordered(configuration["spacing"], order)
    if set(configuration.get("normalization_schemes", ())) == {"ZScoreNormalization"}:
        values |= {"convention": "nnunet", "intensity": "mr"}
    values |= config.model_dump(include=config.model_fields_set)
    return RecipeConfig(**values)


def _cited(content: Mapping[str, Any]) -> tuple[str, ...]:
    """What the authors of a checkpoint ask to be cited."""
    cited = content.get("citations")
    return tuple(str(one) for one in cited) if isinstance(cited, list | tuple) else ()
