"""`medcl suggest` on real files: what it names, what it never names, and that it reads no label."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.data import DataConfig
from medcl.config.encoder import ResidualEncoderConfig
from medcl.config.finetune import FinetuneConfig
from medcl.config.load import load_config, validate
from medcl.config.suggest import SuggestConfig
from medcl.encoders.build import build_encoder
from medcl.errors import ConfigError, DataError
from medcl.evaluation.descriptors import encoder_descriptor, image_descriptor, principal, standardised
from medcl.files import write_json
from medcl.records.layouts import open_data
from medcl.records.splits import split
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights
from medcl.workflow.prepare import store_for
from medcl.workflow.suggest import suggest

RULES = ("k_medoids", "typiclust", "coreset", "random")
HELD = {"test": 2, "validation": 1}


def config(path: Path, **changes: object) -> SuggestConfig:
    data = {"path": path, **HELD, **changes.pop("data", {})}  # type: ignore[dict-item]
    return validate(SuggestConfig, {"data": data, **changes})


@pytest.fixture(scope="module")
def weights(small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with its recipe, as a pretraining leaves it."""
    folder = tmp_path_factory.mktemp("weights")
    manifest = open_data(small_cohort)
    data = DataConfig(path=small_cohort)
    recipe = store_for(data, config(small_cohort).recipe, folder / "store", manifest.ids).recipe
    torch.manual_seed(0)
    network = build_encoder(ResidualEncoderConfig(size="tiny"), len(recipe.channels), recipe.patch)
    card = WeightsCard(encoder=ResidualEncoderConfig(size="tiny"), in_channels=len(recipe.channels), stage="pretrained")
    save_weights(folder, network, card, recipe)
    return folder


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("pretrained", [False, True])
def test_names_training_records_only(small_cohort: Path, weights: Path, rule: str, pretrained: bool) -> None:
    manifest = open_data(small_cohort)
    training = split(manifest, **HELD).train
    asked = config(
        small_cohort, count=3, rule=rule, weights=weights if pretrained else None, already=list(training[:2])
    )
    found = suggest(asked)
    assert found == suggest(asked)
    assert len(set(found.ids)) == 3
    assert set(found.ids) <= set(training[2:])
    assert found.pool == len(training) - 2
    assert 3 <= sum(record.stands_for for record in found.records) <= found.pool
    assert 0 <= found.better_than <= 100


def test_no_label_is_read(small_cohort: Path, tmp_path: Path) -> None:
    """Labels that are noise, and labels that are not there, change nothing."""
    expected = suggest(config(small_cohort))
    noise, gone = tmp_path / "noise", tmp_path / "gone"
    for folder in (noise, gone):
        shutil.copytree(small_cohort, folder)
    for file in (noise / "labelsTr").iterdir():
        file.write_bytes(b"no volume")
    shutil.rmtree(gone / "labelsTr")
    for folder in (noise, gone):
        found = suggest(config(folder))
        assert (found.records, found.coverage, found.better_than) == (
            expected.records,
            expected.coverage,
            expected.better_than,
        )


def test_the_whole_pool_is_stood_for(small_cohort: Path) -> None:
    found = suggest(config(small_cohort))
    assert sum(record.stands_for for record in found.records) == found.pool == 7
    total = sum(record.stands_for * record.distance for record in found.records)
    assert total / found.pool == pytest.approx(found.coverage)
    assert found.better_than > 90  # the optimum; other choices can only tie


def test_prepared_volumes_are_taken_from_the_store(small_cohort: Path, tmp_path: Path) -> None:
    expected = suggest(config(small_cohort))
    data = DataConfig(path=small_cohort)
    store_for(data, config(small_cohort).recipe, tmp_path / "store", split(open_data(small_cohort), **HELD).train)
    found = suggest(config(small_cohort, data={"store": tmp_path / "store"}))
    assert found.records == expected.records


def test_the_command_that_follows_is_a_finetuning(small_cohort: Path, weights: Path) -> None:
    labelled = split(open_data(small_cohort), **HELD).train[0]
    found = suggest(config(small_cohort, weights=weights, already=[labelled]))
    words = shlex.split(found.command)
    assert words[:2] == ["medcl", "finetune"]
    told = load_config(FinetuneConfig, None, words[3:])
    assert told.data.records == (labelled, *found.ids)
    assert (told.data.test, told.data.validation, told.init) == (2, 1, weights)
    plain = suggest(config(small_cohort, recipe={"spacing": [2, 2, 2], "crop": "none"}))
    told = load_config(FinetuneConfig, None, shlex.split(plain.command)[3:])
    assert (told.recipe.spacing, told.recipe.crop, told.init) == ((2, 2, 2), "none", None)


def test_the_command_line(small_cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "next.json"
    words = ["suggest", str(small_cohort), "--count", "2", "--rule", "coreset", "--out", str(out), "data.test=2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert len(written["suggested"]) == 2
    assert written["rule"] == "coreset"
    assert all(name in done.output for name in written["suggested"])
    assert written["command"] in done.output
    printed = CliRunner().invoke(app, ["suggest", str(small_cohort), "--print-config"])
    assert yaml.safe_load(printed.output)["rule"] == "k_medoids"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 8}, "count: 8 records are asked for, but only 7 training records have no label yet"),
        ({"already": ["case_99"]}, "already: 'case_99' is no record of"),
        ({"rule": "best"}, "rule: "),
        ({"data": {"labelled": 2}}, "data.labelled says which records have a label"),
        ({"already": ["case_00", "case_00"]}, "already names a record twice"),
    ],
)
def test_bad_requests_are_one_line(small_cohort: Path, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        suggest(config(small_cohort, **changes))
    assert len(error.value.problems) == 1
    assert problem in error.value.problems[0]


def test_held_out_records_are_not_labelled_ones(small_cohort: Path) -> None:
    held = split(open_data(small_cohort), **HELD).test[0]
    with pytest.raises(ConfigError, match=f"'{held}' is held out"):
        suggest(config(small_cohort, already=[held]))


def test_weights_of_other_channels_are_refused(small_cohort: Path, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(small_cohort, folder)
    content = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", {**content, "modality": {"0": "T1", "1": "T2"}})
    with pytest.raises(ConfigError, match=r"trained on 1 channels \(MRI\), the volumes have 2"):
        suggest(config(folder, weights=weights))


def test_a_bad_volume_is_named(small_cohort: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(small_cohort, folder)
    bad = split(open_data(folder), **HELD).train[0]
    file = folder / "imagesTr" / f"{bad}.nii.gz"
    data = np.asarray(nib.load(file).dataobj).copy()
    data[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(data, np.eye(4)), file)
    with pytest.raises(DataError, match=rf"{bad}.*NaN"):
        suggest(config(folder, out=tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


def test_descriptor_of_voxels_looks_into_the_body_box() -> None:
    """A ramp in x is one in the descriptor; what lies around the box, brightness and contrast do not matter."""
    volume = np.zeros((1, 30, 20, 24), np.float32)
    volume[0, 5:25] = np.linspace(0, 1, 20)[:, None, None]
    box = np.array([[4.5, -0.5, -0.5], [24.5, 19.5, 23.5]])
    found = image_descriptor(volume, box, cells=4).reshape(4, 4, 4)
    np.testing.assert_allclose(found[:, 0, 0], found[:, 3, 2], atol=1e-6)
    steps = np.diff(found[:, 0, 0])
    np.testing.assert_allclose(steps[1], steps[1].mean(), rtol=1e-5)
    assert steps.min() > 0
    assert found.mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(image_descriptor(7 * volume + 3, box, cells=4).reshape(4, 4, 4), found, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 32, 48), (9, 10, 11)])
def test_descriptor_of_an_encoder_has_one_size(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(ResidualEncoderConfig(size="tiny"), 1, (32, 32, 32)).eval()
    volume = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    box = np.array([[-0.5] * 3, np.array(shape) - 0.5])
    found = encoder_descriptor(encoder, volume, box)
    assert found.shape == (8 * encoder.channels[-1],)
    assert np.isfinite(found).all()
    with torch.no_grad():
        if shape[0] == 40:
            whole = encoder.encode(torch.from_numpy(volume)[None])[-1][0]
            pooled = torch.nn.functional.adaptive_avg_pool3d(whole, 2).flatten().double().numpy()
            np.testing.assert_allclose(found, pooled, rtol=1e-5, atol=1e-6)


def test_principal_axes_keep_distances() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 40)) + 5
    kept = principal(rows, 32)
    assert kept.shape == (12, 12)
    for one, other in ((0, 1), (3, 9)):
        assert np.linalg.norm(kept[one] - kept[other]) == pytest.approx(np.linalg.norm(rows[one] - rows[other]))
    few = principal(rows, 3)
    np.testing.assert_allclose(few, kept[:, :3])
    scaled = standardised(np.c_[rows, np.ones(12)])
    np.testing.assert_allclose(scaled[:, :-1].std(0), 1)
    assert (scaled[:, -1] == 0).all()
