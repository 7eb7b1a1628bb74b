"""From a fingerprint to a recipe."""

from __future__ import annotations

import logging

import nibabel
import numpy as np
import pytest

from medcl.config.data import RecipeConfig
from medcl.errors import ConfigError, DataError
from medcl.preparation.fingerprint import BodyIntensity, Fingerprint, RecordPrint, fingerprint
from medcl.preparation.recipe import CTIntensity, MRIntensity, Recipe, ZScoreIntensity, derive_recipe
from medcl.records.manifest import Manifest
from medcl.records.record import Record


def cohort(*grids, modality=None, share=1.0, minimum=0.0, channels=1) -> Fingerprint:
    """Records of (shape, spacing)."""
    records = tuple(
        RecordPrint(
            shape=shape,
            spacing=spacing,
            orientation="RAS",
            modality=modality,
            channels=channels,
            body_extent=tuple(np.multiply(shape, spacing) * share ** (1 / 3)),
        )
        for shape, spacing in grids
    )
    return Fingerprint(
        records=records, body=BodyIntensity(low=-950.04, high=310.0, mean=12.5, std=200, minimum=minimum)
    )


def test_spacing_is_the_median_of_each_axis():
    found = cohort(((100, 100, 60), (1.0, 1.0, 1.5)), ((90, 90, 50), (0.9, 0.9, 2.0)), ((80, 80, 40), (1.2, 1.2, 1.8)))
    assert derive_recipe(found, RecipeConfig()).spacing == (1.0, 1.0, 1.8)


def test_a_strongly_anisotropic_axis_keeps_its_thin_slices():
    found = cohort(*(((256, 256, 20), (0.7, 0.7, float(z))) for z in (3, 6, 6, 7, 7, 8)))
    spacing = derive_recipe(found, RecipeConfig()).spacing
    assert spacing[:2] == (0.7, 0.7)
    assert spacing[2] == np.percentile((3, 6, 6, 7, 7, 8), 10)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((35, 50, 36), (32, 48, 32)),
        ((256, 256, 160), (96, 96, 96)),
        ((64, 70, 90), (64, 64, 80)),
        ((5, 9, 200), (8, 8, 96)),
    ],
)
def test_patch_follows_the_median_shape(shape, patch):
    assert derive_recipe(cohort((shape, (1.0, 1.0, 1.0))), RecipeConfig()).patch == patch


def test_crop_where_it_saves_and_then_the_patch_fits_the_body():
    found = cohort(((80, 80, 80), (1.0, 1.0, 1.0)), share=0.125)
    recipe = derive_recipe(found, RecipeConfig())
    assert (recipe.crop, recipe.patch) == ("foreground", (40, 40, 40))
    assert derive_recipe(found, RecipeConfig(crop="none")).patch == (80, 80, 80)
    assert derive_recipe(cohort(((80, 80, 80), (1.0, 1.0, 1.0)), share=0.9), RecipeConfig()).crop == "none"


def test_ct_is_told_by_files_or_channel_names():
    grid = ((50, 50, 50), (1.0, 1.0, 1.0))
    expected = CTIntensity(window=(-950.0, 310.0), mean=12.5, std=200)
    assert derive_recipe(cohort(grid, modality="CT"), RecipeConfig()).intensity == expected
    assert derive_recipe(cohort(grid), RecipeConfig(), ("CT",)).intensity == expected
    assert derive_recipe(cohort(grid), RecipeConfig(intensity="ct")).intensity == expected
    assert derive_recipe(cohort(grid, modality="MR"), RecipeConfig()).intensity == MRIntensity()
    assert derive_recipe(cohort(grid), RecipeConfig(), ("T1",)).intensity == MRIntensity()
    window = derive_recipe(cohort(grid), RecipeConfig(intensity="ct", window=(-100, 200))).intensity
    assert window == CTIntensity(window=(-100, 200), mean=12.5, std=200)


def test_undeclared_values_like_hounsfield_units_are_pointed_out(caplog):
    with caplog.at_level(logging.WARNING):
        derive_recipe(cohort(((50, 50, 50), (1.0, 1.0, 1.0)), minimum=-1024), RecipeConfig())
    assert "set recipe.intensity=ct" in caplog.text


def test_mixed_modalities_need_a_choice():
    grid = ((50, 50, 50), (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match=r"recipe.intensity=ct"):
        derive_recipe(cohort(grid, channels=2), RecipeConfig(), ("CT", "PET"))
    records = cohort(grid, modality="CT").records + cohort(grid, modality="MR").records
    mixed = cohort(grid).model_copy(update={"records": records})
    with pytest.raises(DataError, match="CT, MR"):
        derive_recipe(mixed, RecipeConfig())
    assert derive_recipe(mixed, RecipeConfig(intensity="mr")).intensity.name == "mr"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (RecipeConfig(window=(0, 1)), r"recipe\.window"),
        (RecipeConfig(intensity="ct", percentiles=(1, 99)), r"recipe\.percentiles"),
        (RecipeConfig(intensity="ct", n4=True), r"recipe\.n4"),
    ],
)
def test_settings_of_the_other_rule_are_refused(config, key):
    with pytest.raises(ConfigError, match=key):
        derive_recipe(cohort(((50, 50, 50), (1.0, 1.0, 1.0))), config)


def test_settings_override():
    asked = RecipeConfig(spacing=(2, 2, 2), patch=(24, 24, 24), percentiles=(1, 99), n4=True, crop="foreground")
    recipe = derive_recipe(cohort(((50, 50, 50), (1.0, 1.0, 1.0))), asked, ("T1",), {0: "air", 1: "organ"})
    assert recipe == Recipe(
        spacing=(2, 2, 2),
        patch=(24, 24, 24),
        intensity=MRIntensity(percentiles=(1, 99)),
        n4=True,
        crop="foreground",
        channels=("T1",),
        labels={0: "air", 1: "organ"},
    )


def test_yaml_and_digests():
    recipe = derive_recipe(cohort(((50, 50, 50), (1.0, 1.0, 1.0))), RecipeConfig(), ("T1",), {0: "air", 1: "organ"})
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    other_patch = recipe.model_copy(update={"patch": (8, 8, 8)})
    other_spacing = recipe.model_copy(update={"spacing": (2.0, 1.0, 1.0)})
    assert other_patch.digest != recipe.digest
    assert other_patch.voxel_digest == recipe.voxel_digest
    assert other_spacing.voxel_digest != recipe.voxel_digest
    with pytest.raises(ConfigError, match="not a recipe"):
        Recipe.from_yaml("spacing: [1, 1, 1]")


def records(folder, *arrays, affine=None) -> Manifest:
    made = []
    for number, array in enumerate(arrays):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), folder / f"{number}.nii.gz")
        made.append(Record(f"r{number}", f"s{number}", (folder / f"{number}.nii.gz",), attributes={"Modality": "mr"}))
    return Manifest(tuple(made))


def test_fingerprint_is_in_ras_order(tmp_path):
    affine = np.array([[0, 0, -2.0, 0], [-1.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    noise = np.random.default_rng(0).normal(100, 10, (8, 9, 10)).astype(np.float32)
    found = fingerprint(records(tmp_path, noise, affine=affine))
    (one,) = found.records
    assert one.shape == (10, 8, 9)
    assert one.spacing == (2.0, 1.0, 3.0)
    assert one.modality == "MR"
    assert found.body.low < 100 < found.body.high
    assert fingerprint(records(tmp_path, noise, affine=affine)) == found


def test_fingerprint_leaves_out_what_cannot_be_read(tmp_path, caplog):
    noise = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    manifest = records(tmp_path, noise, noise, noise * np.nan)
    (tmp_path / "1.nii.gz").write_bytes(b"broken")
    assert len(fingerprint(manifest).records) == 1
    assert "1.nii.gz" in caplog.text
    assert "NaN" in caplog.text
    with pytest.raises(DataError, match=r"1\.nii\.gz"):
        fingerprint(manifest.select(["r1"]))


def test_hippocampus_recipe(hippocampus):
    from medcl.records.layouts import open_data

    manifest = open_data(hippocampus)
    found = fingerprint(manifest.select(manifest.ids[:20]))
    recipe = derive_recipe(found, RecipeConfig(), manifest.channel_names, manifest.label_names)
    assert recipe.spacing == (1.0, 1.0, 1.0)
    assert recipe.patch == (32, 48, 32)
    assert recipe.intensity == MRIntensity()
    assert recipe.crop == "none"
    assert sorted(recipe.labels) == [0, 1, 2]


def test_a_recipe_of_nnunets_convention():
    found = cohort(((100, 100, 60), (1.0, 1.0, 1.5)), share=0.3)
    recipe = derive_recipe(found, RecipeConfig(convention="nnunet"))
    assert (recipe.convention, recipe.crop, recipe.intensity) == ("nnunet", "none", ZScoreIntensity())
    ct = derive_recipe(cohort(((100, 100, 60), (1.0, 1.0, 1.5)), modality="CT"), RecipeConfig(convention="nnunet"))
    assert isinstance(ct.intensity, CTIntensity)
    with pytest.raises(ConfigError, match=r"no recipe\.crop"):
        derive_recipe(found, RecipeConfig(convention="nnunet", crop="foreground"))
    with pytest.raises(ConfigError, match=r"nnunet knows no recipe\.percentiles"):
        derive_recipe(found, RecipeConfig(convention="nnunet", percentiles=(1, 99)))
