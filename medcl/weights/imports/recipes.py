"""The recipe of weights whose file tells none: what the user says, and defaults that are told."""

from __future__ import annotations

from collections.abc import Sequence

from medcl.config.data import RecipeConfig
from medcl.errors import ConfigError
from medcl.preparation.recipe import (
    CTIntensity,
    IntensityRule,
    MinMaxIntensity,
    Recipe,
    check_convention,
    measured_rule,
)

_SIDE = {2: 224, 3: 96}
_RADIOGRAPH_MARGIN = 8 / 7
"""The shorter side of a radiograph over that of its view: 256 pixels for 224, the ratio of most published evaluations."""


def volume_recipe(told: RecipeConfig, channels: tuple[str, ...], dims: int) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe for volumes that ``told`` and defaults make, and a note on what nobody told."""
    check_convention(told)
    recipe = Recipe(
        convention=told.convention,
        spacing=told.spacing or (None, None, None),
        crop=told.crop or "none",
        intensity=_intensity(told),
        n4=told.n4,
        patch=told.patch or (_SIDE[3], _SIDE[3], _SIDE[3] if dims == 3 else 1),
        channels=channels,
    )
    guessed = {
        "spacing": "each scan's own",
        "intensity": "mr (z-score)",
        "patch": "x".join(map(str, recipe.patch)),
    }
    unsaid = [f"{name}: {value}" for name, value in guessed.items() if getattr(told, name) is None]
    return recipe, _unsaid(unsaid)


def radiograph_recipe(told: RecipeConfig) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe for radiographs of one channel, and a note on what nobody told. Raises ConfigError for what they have no use for."""
    if other := sorted(told.model_fields_set - {"patch"}):
        raise ConfigError(
            f"recipe.{other[0]}: does not apply to radiographs, which networks of dims=2 read; set recipe.patch alone"
        )
    patch = (*told.patch[:2], 1) if told.patch else (_SIDE[2], _SIDE[2], 1)
    recipe = Recipe(
        modality="radiograph",
        spacing=(None, None, None),
        shorter=round(min(patch[:2]) * _RADIOGRAPH_MARGIN),
        intensity=MinMaxIntensity(),
        patch=patch,
        channels=("radiograph",),
    )
    return recipe, _unsaid([] if told.patch else [f"patch: {patch[0]}x{patch[1]}"])


def _unsaid(values: Sequence[str]) -> tuple[str, ...]:
    if not values:
        return ()
    return (f"the file does not say how scans were prepared, so this was assumed (set recipe.*): {'; '.join(values)}",)


def _intensity(told: RecipeConfig) -> IntensityRule:
    if told.window is not None:
        low, high = told.window
        return CTIntensity(window=told.window, mean=low, std=high - low)
    return measured_rule(told, told.intensity or "mr")
