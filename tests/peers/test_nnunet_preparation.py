"""Recipes of ``convention: nnunet`` beside nnU-Net's own preprocessor and its way back."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from medcl.encoders.residual_unet import Layout
from medcl.modalities.volume import read_volume
from medcl.preparation.apply import prepare
from medcl.preparation.recipe import CTIntensity, IntensityRule, MinMaxIntensity, Recipe, ZScoreIntensity
from medcl.preparation.restore import Slab, restore
from medcl.weights.exports.nnunet_plans import plans_of

LAYOUT = Layout((4, 8), (1, 1), ((1, 1, 1), (2, 2, 2)))
GRIDS = {
    "finer and coarser": ((21, 18, 15), (1.0, 1.7, 2.0), (1.5, 1.0, 1.25)),
    "its own spacing": ((21, 18, 15), (1.5, 1.0, 1.25), (1.5, 1.0, 1.25)),
    "thick slices": ((24, 20, 9), (0.8, 0.8, 5.0), (1.0, 0.9, 4.0)),
    "thick slices wanted": ((24, 20, 14), (0.8, 0.8, 2.0), (0.7, 0.7, 3.5)),
    "thick in one direction only": ((24, 20, 14), (0.8, 0.8, 2.4), (0.7, 0.7, 2.4)),
    "sagittal": ((8, 20, 24), (4.0, 0.8, 1.0), (3.0, 1.0, 1.0)),
    "thin in one axis": ((30, 12, 13), (0.3, 1.2, 1.2), (0.6, 1.0, 1.0)),
}
RULES: dict[str, IntensityRule] = {
    "ct": CTIntensity(window=(-300, 400), mean=30, std=120),
    "zscore": ZScoreIntensity(),
    "nonzero": ZScoreIntensity(nonzero=True),
    "minmax": MinMaxIntensity(percentiles=(0, 100)),
}


def recipe_of(spacing: tuple[float, ...], rule: IntensityRule, orientation: str = "RAS") -> Recipe:
    return Recipe(
        convention="nnunet",
        orientation=orientation,
        spacing=spacing,
        intensity=rule,
        patch=(8, 16, 16),
        channels=("T1",),
        labels={0: "background", 1: "left", 2: "right"},
    )


def scan(tmp_path, shape: tuple[int, ...], spacing: tuple[float, ...], seed: int = 0):
    """A ball of smooth noise with a hole of zeros in it and zeros around it; its first axis is stored flipped."""
    rng = np.random.default_rng(seed)
    values = 400 * ndimage.gaussian_filter(rng.normal(size=shape), 0.8) + 50
    at = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    radius = np.sqrt((at**2).sum(0))
    values[(radius > 0.95) | (radius < 0.2)] = 0
    file = tmp_path / "case_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([-spacing[0], *spacing[1:], 1])), file)
    return file


def theirs(peer, recipe: Recipe, file):
    """nnU-Net's prepared voxels (C, z, y, x), its properties and its managers."""
    plans = plans_of(recipe, LAYOUT, recipe.patch, plain=True)
    dataset = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "left": 1, "right": 2},
        "file_ending": ".nii.gz",
    }
    manager = peer("nnunetv2.utilities.plans_handling.plans_handler").PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    preprocessor = peer("nnunetv2.preprocessing.preprocessors.default_preprocessor").DefaultPreprocessor(verbose=False)
    data, _, properties = preprocessor.run_case([str(file)], None, manager, configuration, dataset)
    return SimpleNamespace(
        data=np.asarray(data),
        properties=properties,
        plans=manager,
        configuration=configuration,
        labels=manager.get_label_manager(dataset),
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", GRIDS)
def test_prepared_voxels(peer, tmp_path, name: str, rule: str) -> None:
    shape, own, wanted = GRIDS[name]
    file = scan(tmp_path, shape, own)
    recipe = recipe_of(wanted, RULES[rule])
    reference = theirs(peer, recipe, file).data
    found = prepare(read_volume([file]), recipe).data
    assert found.shape == tuple(np.array(reference.shape)[[0, 3, 2, 1]])
    np.testing.assert_allclose(found, reference.transpose(0, 3, 2, 1), atol=2e-5 * np.abs(reference).max())


@pytest.mark.parametrize("orientation", ["RAS", "stored"])
@pytest.mark.parametrize("name", GRIDS)
def test_scores_come_home(peer, tmp_path, name: str, orientation: str) -> None:
    shape, own, wanted = GRIDS[name]
    file = scan(tmp_path, shape, own)
    recipe = recipe_of(wanted, RULES["ct"], orientation)
    reference = theirs(peer, recipe, file)
    volume = read_volume([file])
    prepared = prepare(volume, recipe)
    logits = np.random.default_rng(1).normal(size=(3, *prepared.data.shape[1:])).astype(np.float32) * 4
    module = peer("nnunetv2.inference.export_prediction")
    mask, probabilities = module.convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.transpose(0, 3, 2, 1).copy(),
        reference.plans,
        reference.configuration,
        reference.labels,
        reference.properties,
        return_probabilities=True,
        num_threads_torch=1,
    )
    scores = np.exp(logits - logits.max(0))
    scores /= scores.sum(0)
    halves = [slice(0, 5), slice(5, None)]
    axis = int(np.argmax(prepared.data.shape[1:]))
    slabs, start = [], 0
    for part in halves:
        piece = scores[(slice(None), *(part if at == axis else slice(None) for at in range(3)))].copy()
        slabs.append(Slab(axis, start, piece))
        start += piece.shape[axis + 1]
    found = restore(slabs, prepared, scores=True)
    writer = peer(
        "nnunetv2.imageio.nibabel_reader_writer" if orientation == "RAS" else "nnunetv2.imageio.simpleitk_reader_writer"
    )
    name = "NibabelIOWithReorient" if orientation == "RAS" else "SimpleITKIO"
    getattr(writer, name)().write_seg(mask, str(tmp_path / "mask.nii.gz"), reference.properties)
    stored = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj)
    sure = np.sort(found.scores, 0)
    ties = sure[-1] - sure[-2] < 1e-4
    assert ties.mean() < 0.01
    assert (found.labels[~ties] == stored[~ties]).all()
    if orientation == "stored":
        np.testing.assert_allclose(found.scores, probabilities.transpose(0, 3, 2, 1), atol=1e-4)
