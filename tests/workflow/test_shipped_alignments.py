"""Every alignment that comes with medcl trains, with networks of the smallest size, and its weights are read again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from resuming import check_killed_and_resumed

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import AlignConfig
from medcl.config.load import validate
from medcl.config.shipped import find_config, shipped_configs
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.weights.alignment import find_alignment
from medcl.workflow.align import align

PRESETS = sorted(path.stem for path in shipped_configs() if path.parent.name == "align")
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"width": 8, "layers": 1, "heads": 2},
    "resnet": {"depth": 10, "width": 2},
    "ecg_vit": {"width": 8, "layers": 1, "heads": 2, "stem": 4},
    "ecg_resnet": {"depth": 10, "width": 2},
    "bert": {"layers": 1, "width": 8, "heads": 2, "vocabulary_size": 200, "max_length": 64},
    "labs_mlp": {"hidden": [8]},
}
OBJECTIVES = {"momentum_alignment": {"queue": 16}, "gram": {"min_group": 2}, "symile": {"min_group": 2}}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """Eight records with everything, of which one lacks its report's findings."""
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    found = []
    for number, header in enumerate(sorted((shared / "data" / "ecg-12lead" / "records").glob("*.hea"))[:8]):
        Image.fromarray(rng.integers(0, 255, (34, 32), dtype=np.uint8)).save(folder / f"{number}.png")
        volume = rng.normal(size=(64, 32, 32)).astype(np.float32)
        nibabel.Nifti1Image(volume, np.eye(4)).to_filename(folder / f"{number}.nii.gz")
        sections = {
            "FINDINGS": f"Heart of size {number}. Lungs are clear.",
            "IMPRESSION": f"Number {number} is normal.",
        }
        sections = {name: text for name, text in sections.items() if number or name == "IMPRESSION"}
        found.append(
            Record(
                id=f"r{number}",
                subject=f"s{number}",
                volume=(folder / f"{number}.nii.gz",),
                radiograph=(folder / f"{number}.png",),
                ecg=header,
                report="\n" + "".join(f" {name}: {text}\n\n" for name, text in sections.items()),
                labs={"crp": float(number), "ldh": 2.0},
                targets={"Edema": float(number % 2), "Fracture": float(number == 3)},
            )
        )
    Manifest(tuple(found)).write(folder / "records.jsonl")
    return folder / "records.jsonl"


def mini(name: str, steps: int = 2) -> dict[str, Any]:
    """A preset with the smallest networks, none of them pretrained, and ``steps`` a stage; without ``data`` and ``out``."""
    values = yaml.safe_load(find_config(f"configs/align/{name}.yaml").read_text())
    for modality, section in values["modalities"].items():
        if section["encoder"]["name"] == "pretrained_text":
            section["encoder"] = {"name": "bert", "pooling": section["encoder"].get("pooling", "mean")}
        if section["encoder"]["name"] == "swin_unetr":  # levels of the same strides, at a tenth of the time
            section["encoder"] = {"name": "resnet", "dims": 3}
        section["encoder"].update(ENCODERS[section["encoder"]["name"]])
        if "head" in section:
            section["head"].pop("hidden", None)
        if modality == "radiograph":
            section.update(shorter=32, patch=[32, 32])
        if modality == "volume":
            section["recipe"] = {"patch": [64, 32, 32]}
        if modality == "ecg":
            section["seconds"] = 2
    for stage in values["stages"]:
        stage.update(steps=steps, batch=6)
        for term in stage["terms"]:
            term["objective"].update(OBJECTIVES.get(term["objective"]["name"], {}))
    values.update(joint=8, fusion={"layers": 1, "heads": 2})
    values.pop("sources", None)  # the records are of one
    if "classes" in values:
        values["classes"] = ["Edema", "Fracture"]
    values["trainer"] = {"device": "cpu", "threads": 1, "log_every": 1, "precision": "32"}
    return dict(values)


@pytest.mark.parametrize("name", PRESETS)
def test_it_trains_and_is_read_again(name: str, cohort: Path, tmp_path: Path) -> None:
    data = {"path": cohort, "store": cohort.parent / "store", "test": 1}
    found = validate(AlignConfig, {**mini(name), "data": data, "out": tmp_path / "run"})
    run = align(found, progress=False)
    rows = run.read_metrics()
    assert len(rows) == 2 * len(found.stages)
    losses = [value for row in rows for key, value in row.items() if key.endswith("loss")]
    assert np.isfinite(losses).all()
    assert max(losses) > 0
    network = find_alignment(run.path).network()
    assert (network.language is not None, network.matching is not None) == (
        found.word_parts.language,
        found.word_parts.matching,
    )
    if network.tokenizer is not None:
        assert network("report", network.tokenizer(["Lungs are clear."])).isfinite().all()
    assert torch.isfinite(torch.cat([part.flatten() for part in network.state_dict().values()]).double()).all()


PROMPTS = "version: 1\nclasses: {Edema: {prompts: [Edema is seen], negatives: [Lungs are clear]}}\n"


@pytest.mark.study
@pytest.mark.parametrize("name", PRESETS)
def test_killed_resumed_and_used_in_other_processes(name: str, cohort: Path, tmp_path: Path) -> None:
    values = mini(name, steps=-(-30 // len(mini(name)["stages"])))
    check_killed_and_resumed("align", values, [], 17, cohort, tmp_path)
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    modalities, weights = values["modalities"], str(tmp_path / "broken")

    def use(command: str, *options: str) -> tuple[int, str]:
        line = [command, str(cohort), "--weights", weights, *options, "--out", str(tmp_path / f"{command}.json")]
        done = subprocess.run([sys.executable, "-m", "medcl.cli.main", *line], capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    assert use("retrieve", "part=all") == (0, "")
    directions = json.loads((tmp_path / "retrieve.json").read_text())["directions"]
    assert len(directions) >= 2
    code, said = use("zeroshot", "--prompts", str(tmp_path / "prompts.yaml"), "part=all")
    assert (code == 0) == ("report" in modalities), said
    code, said = use("probe", "--targets", "Edema")
    assert code == 0, said
