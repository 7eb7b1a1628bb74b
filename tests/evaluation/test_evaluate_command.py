"""`medcl evaluate` and `medcl compare` as a user calls them, on real masks."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.errors import ConfigError, DataError
from medcl.evaluation.scores import Evaluation
from medcl.modalities.volume import read_label, write_mask

run = CliRunner()


@pytest.fixture(scope="module")
def predictions(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of masks made from eight real labels: moved by a voxel, and by two with one structure missed."""
    root = tmp_path_factory.mktemp("predictions")
    for index, path in enumerate(sorted((hippocampus / "labelsTr").glob("*.nii.gz"))[:8]):
        labels, _ = read_label(path)
        write_mask(root / "near" / path.name, np.roll(labels, 1, axis=0), path)
        far = np.roll(labels, 2, axis=0)
        write_mask(root / "far" / path.name, np.where(far == 2, 0, far) if index == 0 else far, path)
    return root


def test_evaluate_then_compare(predictions: Path, hippocampus: Path, tmp_path: Path) -> None:
    for name in ("near", "far"):
        done = run.invoke(
            app, ["evaluate", str(predictions / name), str(hippocampus), "--out", str(tmp_path / f"{name}.json")]
        )
        assert done.exit_code == 0, done.output
        assert "Anterior" in done.output
        assert "192 cases of the truth have no prediction" in done.output
    assert "1 missed" in done.output
    near, far = (Evaluation.read(tmp_path / f"{name}.json") for name in ("near", "far"))
    assert len(near.cases) == 8
    assert near.labels == {1: "Anterior", 2: "Posterior"}
    assert (near.values("dice") > far.values("dice")).all()
    assert np.allclose(near.values("hd95_mm"), 1.0)
    compared = run.invoke(
        app, ["compare", str(tmp_path / "far.json"), str(tmp_path / "near.csv"), "--out", str(tmp_path / "c.json")]
    )
    assert compared.exit_code == 0, compared.output
    assert "near minus far, 8 shared cases" in compared.output
    assert (tmp_path / "c.json").is_file()


def test_labels_choose_and_name_classes(predictions: Path, hippocampus: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(predictions / "near"), str(hippocampus / "labelsTr"), "--labels", "2=tail"]
    done = run.invoke(app, [*arguments, "--out", str(tmp_path / "e.json")])
    assert done.exit_code == 0, done.output
    assert Evaluation.read(tmp_path / "e.json").labels == {2: "tail"}


def test_mistakes_are_readable(predictions: Path, hippocampus: Path, tmp_path: Path) -> None:
    near = str(predictions / "near")
    wrong_labels = run.invoke(app, ["evaluate", near, str(hippocampus), "--labels", "1,2"])
    assert isinstance(wrong_labels.exception, ConfigError)
    wrong_out = run.invoke(app, ["evaluate", near, str(hippocampus), "--out", str(tmp_path / "x.txt")])
    assert isinstance(wrong_out.exception, ConfigError)
    assert isinstance(run.invoke(app, ["evaluate", near, str(tmp_path)]).exception, DataError)
    assert isinstance(run.invoke(app, ["compare", near]).exception, ConfigError)
    assert isinstance(run.invoke(app, ["compare", "a.json", "a.json"]).exception, ConfigError)
