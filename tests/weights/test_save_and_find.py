"""Weights files: there and back, wherever they are named, and one clear line for every way they can be wrong."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from medcl.errors import WeightsError
from medcl.files import write_json
from medcl.weights.read import find_weights, read_tensors


def only_line(error: pytest.ExceptionInfo[WeightsError]) -> str:
    (line,) = error.value.problems
    assert "\n" not in line
    return line


def test_there_and_back(pretrained, recipe) -> None:
    folder, encoder = pretrained
    found = find_weights(folder)
    assert found.recipe == recipe
    assert found.card.records == ("case_1", "case_2")
    assert found.card.training["objective"]["temperature"] == 0.1
    own = encoder.state_dict()
    assert found.state.keys() == own.keys()
    assert all(torch.equal(found.state[name], own[name]) for name in own)
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml", "weights.safetensors"]


def test_found_by_run_folder_by_weights_folder_and_by_file(pretrained, tmp_path: Path) -> None:
    folder, _ = pretrained
    run = tmp_path / "run"
    shutil.copytree(folder, run / "weights")
    write_json(run / "run.json", {"status": "finished"})
    for path in (run, run / "weights", run / "weights" / "weights.safetensors", str(folder)):
        assert find_weights(path).card.stage == "pretrained"


def test_a_segmenter_writes_the_same_names_as_an_encoder(pretrained, finetuned) -> None:
    names = find_weights(finetuned[0]).state.keys()
    assert names == find_weights(pretrained[0]).state.keys() | {"head.weight", "head.bias"}


def test_a_run_without_weights_says_its_status(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"status": "interrupted"})
    with pytest.raises(WeightsError, match=r"no weights \(its status: interrupted\).*--resume"):
        find_weights(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_weights_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="name a run folder"):
        find_weights(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_one_line(pretrained, keep: int) -> None:
    file = pretrained[0] / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError) as error:
        find_weights(pretrained[0])
    assert only_line(error).startswith(f"{file}: is damaged or not a safetensors file")


def test_a_changed_file_is_noticed(pretrained) -> None:
    file = pretrained[0] / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        find_weights(pretrained[0])
    assert "not the file that recipe.yaml beside it describes" in only_line(error)


def test_a_missing_recipe_is_one_line(pretrained) -> None:
    (pretrained[0] / "recipe.yaml").unlink()
    with pytest.raises(WeightsError) as error:
        find_weights(pretrained[0])
    assert "recipe.yaml: is missing" in only_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sheet: sheet.update(version=2), "version 2 is not known to this medcl.*update medcl"),
        (lambda sheet: sheet.pop("card"), "no card in it"),
        (lambda sheet: sheet["card"].update(in_channels=0), "card.in_channels: .*greater than 0"),
        (lambda sheet: sheet["card"].update(novelty=1), "card.novelty: "),
        (lambda sheet: sheet["recipe"].pop("spacing"), "recipe.spacing: "),
    ],
)
def test_a_wrong_recipe_names_the_key(pretrained, change, message: str) -> None:
    sheet = pretrained[0] / "recipe.yaml"
    values = yaml.safe_load(sheet.read_text())
    change(values)
    sheet.write_text(yaml.safe_dump(values))
    with pytest.raises(WeightsError, match=message):
        find_weights(pretrained[0])


@pytest.mark.parametrize("text", ["{", "just words", "\x00\x01"])
def test_a_recipe_that_is_none_is_one_line(pretrained, text: str) -> None:
    (pretrained[0] / "recipe.yaml").write_text(text)
    with pytest.raises(WeightsError) as error:
        find_weights(pretrained[0])
    assert "recipe.yaml" in only_line(error)


class Hostile:
    """Unpickling it would make a file; reading weights must not."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path, by: str) -> None:
    file, witness = tmp_path / "model.pt", tmp_path / "witness"
    content = {"state_dict": {"w": torch.zeros(2)}, "extra": Hostile(witness)}
    if by == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(WeightsError) as error:
        read_tensors(file)
    assert str(file) in only_line(error)
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04nothing"])
def test_a_checkpoint_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_tensors(file)
    assert str(file) in only_line(error)


@pytest.mark.parametrize("key", [None, "state_dict", "network_weights"])
def test_a_plain_checkpoint_is_read(tmp_path: Path, key: str | None) -> None:
    state = {"a": torch.arange(3.0)}
    torch.save({key: state, "epoch": 4} if key else state, tmp_path / "model.pt")
    assert torch.equal(read_tensors(tmp_path / "model.pt")["a"], state["a"])


def test_a_checkpoint_without_tensors_and_a_strange_suffix(tmp_path: Path) -> None:
    torch.save({"epoch": 4}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="no named tensors"):
        read_tensors(tmp_path / "model.pt")
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    with pytest.raises(WeightsError, match="not a weights file"):
        read_tensors(tmp_path / "scan.nii.gz")


def test_a_failed_save_leaves_the_old_weights(pretrained, recipe, monkeypatch) -> None:
    folder, encoder = pretrained
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medcl.weights.save.save_file", full_disk)
    from medcl.errors import DataError
    from medcl.weights.save import save_weights

    with pytest.raises(DataError, match="No space left"):
        save_weights(folder, encoder, find_weights(folder).card, recipe)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_lone_safetensors_file_reads_as_tensors(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "alone.safetensors")
    assert list(read_tensors(tmp_path / "alone.safetensors")) == ["x"]
