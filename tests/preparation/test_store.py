"""The store: built once, exactly what changed, whatever kills it, and verifiable to the byte."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medcl.errors import DataError
from medcl.modalities.volume import read_volume
from medcl.preparation.apply import prepare
from medcl.preparation.build import build_store
from medcl.preparation.recipe import Recipe
from medcl.preparation.store import Store
from medcl.records.manifest import Manifest
from medcl.records.record import Record

SHAPE = (18, 20, 16)
RECIPE = Recipe(spacing=(1, 1, 1), patch=(16, 16, 16), channels=("MRI",), labels={0: "background", 1: "a", 2: "b"})


def write_scan(folder: Path, number: int, seed: int | None = None) -> Record:
    rng = np.random.default_rng(number if seed is None else seed)
    affine = np.diag([-1.0, -1.0, 1.2, 1.0])
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 4:9, 2:9], label[9:14, 9:14, 9:14] = 1, 2
    image = rng.normal(100, 20, SHAPE).astype(np.float32) + label * 30
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"image{number}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, affine), folder / f"label{number}.nii.gz")
    return Record(
        f"r{number}", f"s{number}", (folder / f"image{number}.nii.gz",), label=folder / f"label{number}.nii.gz"
    )


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    return Manifest(tuple(write_scan(tmp_path / "scans", number) for number in range(4)))


def written(folder: Path) -> dict[str, float]:
    """Time of writing of every array file."""
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if "arrays" in path.parts and path.is_file()
    }


def test_entries_hold_what_prepare_gives(tmp_path, manifest):
    calls = []
    store = build_store(manifest, RECIPE, tmp_path / "store", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert store.ids == ("r0", "r1", "r2", "r3")
    for opened in (store, Store(tmp_path / "store"), pickle.loads(pickle.dumps(store))):
        assert opened.recipe == RECIPE
        entry = opened.open("r2")
        record = manifest.by_id("r2")
        expected = prepare(read_volume(record.volume), RECIPE, np.asarray(nibabel.load(record.label).dataobj))
        assert isinstance(entry.data, np.memmap)
        np.testing.assert_array_equal(entry.data, expected.data)
        np.testing.assert_array_equal(entry.label, expected.label)
        np.testing.assert_array_equal(entry.affine, expected.affine)
        np.testing.assert_array_equal(entry.box, expected.box)
        np.testing.assert_array_equal(entry.source.affine, expected.source.affine)
        assert entry.source.shape == SHAPE
        assert entry.classes == (0, 1, 2)
        assert (entry.data.dtype, entry.label.dtype) == (np.float32, np.uint8)


def test_foreground_places_are_of_their_class(tmp_path, manifest):
    entry = build_store(manifest.select(["r0"]), RECIPE, tmp_path / "store").open("r0")
    assert set(entry.foreground) == {1, 2}
    for value, places in entry.foreground.items():
        assert places.shape == (min(2000, (entry.label == value).sum()), 3)
        assert (entry.label[tuple(places.T)] == value).all()
        assert len(np.unique(places, axis=0)) == len(places)


def test_foreground_sample_is_bounded_and_fixed(tmp_path):
    folder = tmp_path / "scans"
    record = write_scan(folder, 0)
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([-1.0, -1.0, 1.2, 1.0])), record.label)
    places = [build_store(Manifest((record,)), RECIPE, tmp_path / name).open("r0").foreground[1] for name in "ab"]
    assert places[0].shape == (2000, 3)
    np.testing.assert_array_equal(places[0], places[1])


def test_unlabelled_records_have_no_label(tmp_path, manifest):
    bare = Record("bare", "s", manifest.records[0].volume)
    entry = build_store(Manifest((bare,)), RECIPE, tmp_path / "store").open("bare")
    assert entry.label is None
    assert entry.classes == ()
    assert entry.foreground == {}


def test_a_second_build_does_nothing(tmp_path, manifest):
    build_store(manifest, RECIPE, tmp_path / "store")
    before = written(tmp_path / "store")
    store = build_store(manifest, RECIPE, tmp_path / "store")
    assert written(tmp_path / "store") == before
    assert store.ids == manifest.ids
    os.utime(manifest.records[0].volume[0])  # touched, but the bytes are the same
    build_store(manifest, RECIPE, tmp_path / "store")
    assert written(tmp_path / "store") == before


def test_only_what_changed_is_built(tmp_path, manifest):
    first = build_store(manifest, RECIPE, tmp_path / "store")
    old = np.array(first.open("r1").data)
    before = written(tmp_path / "store")
    write_scan(tmp_path / "scans", 1, seed=77)
    store = build_store(manifest, RECIPE, tmp_path / "store")
    after = written(tmp_path / "store")
    assert before.items() <= after.items()
    assert len({Path(path).parent for path in after.keys() - before.keys()}) == 1
    assert not np.array_equal(store.open("r1").data, old)
    np.testing.assert_array_equal(first.open("r1").data, old)  # a running training keeps what it opened


def test_another_patch_changes_no_array_another_spacing_all(tmp_path, manifest):
    build_store(manifest, RECIPE, tmp_path / "store")
    before = written(tmp_path / "store")
    patch = RECIPE.model_copy(update={"patch": (8, 8, 8)})
    assert build_store(manifest, patch, tmp_path / "store").recipe.patch == (8, 8, 8)
    assert written(tmp_path / "store") == before
    coarse = RECIPE.model_copy(update={"spacing": (2.0, 2.0, 2.0)})
    assert build_store(manifest, coarse, tmp_path / "store").open("r0").data.shape == (1, 9, 10, 10)
    assert len(written(tmp_path / "store")) == 2 * len(before)
    assert Store(tmp_path / "store").recipe == coarse


def test_later_records_join_the_store(tmp_path, manifest):
    build_store(manifest.select(["r0", "r1"]), RECIPE, tmp_path / "store")
    store = build_store(manifest.select(["r3"]), RECIPE, tmp_path / "store")
    assert set(store.ids) == {"r0", "r1", "r3"}
    with pytest.raises(DataError, match="no record 'r2'"):
        store.open("r2")


def test_processes_give_the_same_store(tmp_path, manifest):
    one = build_store(manifest, RECIPE, tmp_path / "one")
    two = build_store(manifest, RECIPE, tmp_path / "two", workers=2)
    assert (tmp_path / "one" / "index.json").read_text() == (tmp_path / "two" / "index.json").read_text()
    for record_id in one.ids:
        np.testing.assert_array_equal(one.open(record_id).data, two.open(record_id).data)
    assert two.verify() == []


def test_bad_records_are_reported_together_and_the_good_kept(tmp_path, manifest):
    broken, shifted = manifest.records[1], manifest.records[2]
    broken.volume[0].write_bytes(broken.volume[0].read_bytes()[:300])
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)), shifted.label)
    missing = Record("gone", "s", (tmp_path / "gone.nii.gz",))
    everything = Manifest((*manifest.records, missing))
    with pytest.raises(DataError) as caught:
        build_store(everything, RECIPE, tmp_path / "store")
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    for name in ("image1.nii.gz", "label2.nii.gz", "gone.nii.gz"):
        assert name in text
    assert set(Store(tmp_path / "store").ids) == {"r0", "r3"}
    assert Store(tmp_path / "store").verify() == []


def test_labels_that_nobody_named_are_numbered(tmp_path, manifest):
    nameless = RECIPE.model_copy(update={"labels": {}})
    store = build_store(manifest, nameless, tmp_path / "store")
    assert store.recipe.labels == {0: "background", 1: "label 1", 2: "label 2"}
    assert Store(tmp_path / "store").recipe.labels == store.recipe.labels


KILLED = """
import sys, time
from pathlib import Path
import medcl.preparation.build as build
from medcl.preparation.recipe import Recipe
from medcl.records.manifest import Manifest

real, count = build._write_into, 0
def slow(part, prepared, seed):
    global count
    count += 1
    if count == 3:
        (part / "data.npy").write_bytes(b"half a file")
        print("now", flush=True)
        time.sleep(60)
    real(part, prepared, seed)
build._write_into = slow
recipe = Recipe.from_yaml(Path(sys.argv[2]).read_text())
build.build_store(Manifest.read(sys.argv[1]), recipe, sys.argv[3])
"""


def test_a_killed_build_goes_on_where_it_was(tmp_path, manifest):
    manifest.write(tmp_path / "manifest.jsonl")
    (tmp_path / "recipe.yaml").write_text(RECIPE.to_yaml())
    arguments = [str(tmp_path / name) for name in ("manifest.jsonl", "recipe.yaml", "store")]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    finished = {path: at for path, at in written(tmp_path / "store").items() if ".part-" not in path}
    assert len({Path(path).parent for path in finished}) == 2
    with pytest.raises(DataError, match="not a store"):
        Store(tmp_path / "store")
    store = build_store(manifest, RECIPE, tmp_path / "store")
    assert store.ids == manifest.ids
    assert finished.items() <= written(tmp_path / "store").items()
    assert not list((tmp_path / "store").rglob(".part-*"))
    assert store.verify() == []


def damage_byte(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("data.npy", damage_byte, "differs from what was written"),
        ("label.npy", lambda path: path.unlink(), "is missing"),
        ("foreground.npz", lambda path: path.write_bytes(b"short"), "has 5 bytes instead of"),
        ("entry.json", damage_byte, "differs"),
    ],
)
def test_verify_finds_every_damage_and_a_new_build_repairs(tmp_path, manifest, name, damage, message):
    store = build_store(manifest, RECIPE, tmp_path / "store")
    assert store.verify() == []
    folder = store.open("r1").folder
    damage(folder / name)
    (problem,) = store.verify()
    assert message in problem
    assert str(folder / name) in problem
    assert "r1" in problem
    for path in folder.iterdir():  # what the message says
        path.unlink()
    folder.rmdir()
    assert build_store(manifest, RECIPE, tmp_path / "store").verify() == []


def test_missing_files_are_made_again_without_being_asked(tmp_path, manifest):
    store = build_store(manifest, RECIPE, tmp_path / "store")
    (store.open("r1").folder / "data.npy").unlink()
    with pytest.raises(DataError, match="'r1' is damaged"):
        store.open("r1")
    assert build_store(manifest, RECIPE, tmp_path / "store").verify() == []


def test_records_with_the_same_bytes_share_arrays(tmp_path, manifest):
    record = manifest.records[0]
    twin = Record("twin", "other", record.volume, label=record.label)
    store = build_store(Manifest((record, twin)), RECIPE, tmp_path / "store", workers=2)
    assert store.open("twin").folder == store.open("r0").folder
    assert store.verify() == []


def test_no_names_of_files_are_stored(tmp_path):
    record = write_scan(tmp_path / "Doe_Jane_1970", 0)
    build_store(Manifest((record,)), RECIPE, tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        assert not path.is_file() or b"Doe_Jane" not in path.read_bytes()


def test_a_crop_reads_only_itself(tmp_path):
    """Resident memory grows by about the crop, not by the volume (a fresh process, so that nothing was read before)."""
    big = np.lib.format.open_memmap(tmp_path / "data.npy", mode="w+", dtype=np.float32, shape=(1, 256, 256, 128))
    big[:] = 1
    big.flush()
    code = (
        "import sys, numpy as np, psutil; p = psutil.Process(); a = np.load(sys.argv[1], mmap_mode='r');"
        "before = p.memory_info().rss; c = a[:, 10:42, 10:42, 10:42].sum(); print(p.memory_info().rss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data.npy")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 0.25 * big.nbytes


def test_two_builders_take_turns(tmp_path, manifest):
    code = (
        "import sys; from pathlib import Path; from medcl.preparation.build import build_store;"
        "from medcl.preparation.recipe import Recipe; from medcl.records.manifest import Manifest;"
        "build_store(Manifest.read(sys.argv[1]), Recipe.from_yaml(Path(sys.argv[2]).read_text()), sys.argv[3])"
    )
    manifest.write(tmp_path / "manifest.jsonl")
    (tmp_path / "recipe.yaml").write_text(RECIPE.to_yaml())
    arguments = [str(tmp_path / name) for name in ("manifest.jsonl", "recipe.yaml", "store")]
    both = [subprocess.Popen([sys.executable, "-c", code, *arguments]) for _ in range(2)]
    deadline = time.monotonic() + 60
    assert [process.wait(deadline - time.monotonic()) for process in both] == [0, 0]
    assert Store(tmp_path / "store").ids == manifest.ids
    assert Store(tmp_path / "store").verify() == []
