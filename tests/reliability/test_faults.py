"""The table of faults: what is wrong, which command meets it, how it ends, what it says, and what it leaves behind.

``docs/how-to/bad_input.md`` tells users the same. A row's message is a regular expression of one line; ``{}`` in it stands for the file or
folder at fault. Faults that need a process of their own (killed, a full disk, two at once) are in ``test_processes.py``; those of a data set
as a whole are planted in ``tests/workflow/test_inspection.py``.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from bad_input import Medcl, write_scan

_OF_A_RUN = {".lock", "config.yaml", "run.json", "page.html", "quality.csv"}


@dataclass(frozen=True)
class Case:
    """What a fault is made with: an empty folder, a fine-tuned run, and the folder to write into."""

    root: Path
    run: Path
    out: Path

    def scan(self, name: str = "scan.nii.gz", *args: object, **kwargs: object) -> Path:
        return write_scan(self.root / name, *args, **kwargs)  # type: ignore[arg-type]

    def predict(self, scan: Path, *options: object) -> tuple[Path, list[object]]:
        """What is at fault, and the command that meets it."""
        return scan, ["predict", self.run, scan, "--out", self.out, "--device", "cpu", *options]

    def inspect(self, data: Path, at_fault: Path | None = None) -> tuple[Path, list[object]]:
        return at_fault or data, ["inspect", data, "--check", "--out", self.out]

    def prepare(self, data: Path, at_fault: Path | None = None) -> tuple[Path, list[object]]:
        return at_fault or data, ["prepare", data, "--out", self.out]

    def finetune(self, at_fault: Path, *overrides: str) -> tuple[Path, list[object]]:
        config = Path(__file__).resolve().parents[2] / "configs" / "finetune" / "segment.yaml"
        return at_fault, ["finetune", config, f"out={self.out}", "trainer.device=cpu", "steps=1", *overrides]


@dataclass(frozen=True)
class Fault:
    """A row. ``writes``: files in the output folder beside those of every run."""

    name: str
    make: Callable[[Case], tuple[Path, list[object]]]
    code: int
    message: str
    writes: tuple[str, ...] = ()


def _rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def _inside(path: Path, change: Callable[[bytearray], None]) -> Path:
    """A ``.nii.gz`` whose content is changed, with a sound checksum."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    change(raw)
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


def _dimensions(x: int, y: int, z: int) -> Callable[[bytearray], None]:
    def change(raw: bytearray) -> None:
        raw[40:48] = np.array([3, x, y, z], "<i2").tobytes()

    return change


def _no_affine(raw: bytearray) -> None:
    raw[252:256] = np.array([0, 1], "<i2").tobytes()
    raw[280:328] = bytes(48)


def _voxels(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def _with(voxels: np.ndarray, **places: float) -> np.ndarray:
    voxels = voxels.copy()
    for number, value in enumerate(places.values()):
        voxels.flat[number] = value
    return voxels


_NOISE = np.random.default_rng(0).normal(100, 20, (12, 14, 10)).astype(np.float32)


def _link_to_itself(case: Case) -> Path:
    path = case.root / "loop.nii.gz"
    path.symlink_to(path)
    return path


def _folder_in_itself(case: Case) -> Path:
    """Two links to the folder they lie in: 2 ** 40 ways lead to its one scan."""
    case.scan("scans/a.nii.gz")
    for name in ("again", "more"):
        (case.root / "scans" / name).symlink_to(case.root / "scans")
    return case.root / "scans" / "**" / "*.nii.gz"


def _pipe(case: Case) -> Path:
    os.mkfifo(case.root / "pipe.nii.gz")
    return case.root / "pipe.nii.gz"


def _zip_that_climbs(case: Case) -> Path:
    with zipfile.ZipFile(case.root / "scans.zip", "w") as archive:
        archive.writestr("../../climbed.nii.gz", b"x")
    return case.root / "scans.zip"


def _tar_that_climbs(case: Case) -> Path:
    with tarfile.open(case.root / "scans.tar.gz", "w:gz") as archive:
        archive.add(case.scan(), arcname="../../climbed.nii.gz")
    return case.root / "scans.tar.gz"


def _table_that_climbs(case: Case) -> Path:
    rows = [{"id": "../../climbed", "volume": str(case.scan())}]
    (case.root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return case.root / "rows.jsonl"


class _Hostile:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)


def _hostile_checkpoint(case: Case) -> tuple[Path, list[object]]:
    weights = case.root / "hostile" / "model.ckpt"
    weights.parent.mkdir()
    torch.save({"state_dict": {"a": torch.ones(1)}, "more": _Hostile(case.root / "executed")}, weights)
    shutil.copy(case.run / "weights" / "recipe.yaml", weights.parent)
    data = _labelled(case, (_NOISE > 100).astype(np.uint8))
    return case.finetune(weights, f"data.path={data}", "data.labelled=1", f"init={weights}")


def _hostile_safetensors(case: Case) -> tuple[Path, list[object]]:
    weights = case.root / "hostile" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(pickle.dumps(_Hostile(case.root / "executed")))
    shutil.copy(case.run / "weights" / "recipe.yaml", weights.parent)
    return weights, ["predict", weights.parent, case.scan(), "--out", case.out, "--device", "cpu"]


def _sheet(case: Case, text: Callable[[str], str]) -> tuple[Path, list[object]]:
    """A run whose ``recipe.yaml`` is another one."""
    run = case.root / "changed"
    shutil.copytree(case.run, run)
    sheet = run / "weights" / "recipe.yaml"
    sheet.write_text(text(sheet.read_text()))
    return sheet, ["predict", run, case.scan(), "--out", case.out, "--device", "cpu"]


def _yaml(case: Case, text: str) -> tuple[Path, list[object]]:
    path = case.root / "config.yaml"
    path.write_text(text)
    return path, ["finetune", path]


def _doubling() -> str:
    """Thirty lines that stand for a billion values."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))]
    return "\n".join(lines)


def _labelled(case: Case, label: np.ndarray, image: np.ndarray | None = None) -> Path:
    """A data set of two cases whose labels are ``label``."""
    for kind in ("imagesTr", "labelsTr"):
        (case.root / "data" / kind).mkdir(parents=True)
    for name in ("a", "b"):
        _voxels(case.root / f"data/imagesTr/{name}.nii.gz", _NOISE if image is None else image)
        _voxels(case.root / f"data/labelsTr/{name}.nii.gz", label)
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front"},
        "training": [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("a", "b")],
    }
    (case.root / "data" / "dataset.json").write_text(json.dumps(content))
    return case.root / "data"


def _empty_label(case: Case) -> Path:
    data = _labelled(case, (_NOISE > 100).astype(np.uint8))
    (data / "labelsTr" / "a.nii.gz").write_bytes(b"")
    return data


def _four_axes(case: Case) -> Path:
    return _voxels(case.root / "scan.nii.gz", np.stack([_NOISE] * 3, -1))


def _two_channels(case: Case) -> Path:
    rows = [{"id": "pair", "volume": [str(case.scan("one.nii.gz")), str(case.scan("two.nii.gz"))]}]
    (case.root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return case.root / "rows.jsonl"


def _there_already(case: Case, name: str, content: bytes) -> None:
    case.out.mkdir()
    (case.out / name).write_bytes(content)


def _damaged_output(name: str, content: bytes, *options: object) -> Callable[[Case], tuple[Path, list[object]]]:
    def make(case: Case) -> tuple[Path, list[object]]:
        _there_already(case, name, content)
        return case.out / name, case.predict(case.scan(), *options)[1]

    return make


def _output_is_a_file(case: Case) -> tuple[Path, list[object]]:
    case.out.write_text("mine")
    return case.out, case.predict(case.scan())[1]


def _nowhere(case: Case, *command: object) -> tuple[Path, list[object]]:
    """In /proc not even root makes a file."""
    place = Path("/proc/medcl/page.html" if command[0] == "view" else "/proc/medcl")
    return place, [*command, "--out", place]


def _name_that_is_no_text(case: Case) -> Path:
    path = os.fsencode(case.root) + b"/bad\xff.nii.gz"
    shutil.move(case.scan(), path)
    return Path(os.fsdecode(path))


def _odd_affine(affine: np.ndarray) -> Callable[[Case], Path]:
    return lambda case: _voxels(case.root / "scan.nii.gz", _NOISE, affine)


def _sheared() -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = 0.6
    return affine


def _spacing_without_orientation(case: Case) -> Path:
    image = nibabel.Nifti1Image(_NOISE, None)
    image.header["pixdim"][1:4] = -2
    nibabel.save(image, case.root / "scan.nii.gz")
    return case.root / "scan.nii.gz"


def _header(name: str, text: str, data: bytes = b"\0" * 64) -> Callable[[Case], Path]:
    def make(case: Case) -> Path:
        (case.root / name).write_bytes(text.encode() + data)
        return case.root / name

    return make


_MHA = "ObjectType = Image\nNDims = {}\nDimSize = {}\nElementType = MET_SHORT\nElementSpacing = {}\nElementDataFile = LOCAL\n"
_NRRD = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {}\nspace directions: {}\nencoding: raw\nendian: little\nspace origin: (0,0,0)\n\n"
_UNIT = "(1,0,0) (0,1,0) (0,0,1)"


def _scan(make: Callable[[Case], Path], *options: object) -> Callable[[Case], tuple[Path, list[object]]]:
    return lambda case: case.predict(make(case), *options)


def _cut_in_half(path: Path) -> Path:
    return _rewritten(path, lambda raw: raw[: len(raw) // 2])


FAULTS = [
    # Files that are damaged.
    Fault("empty file", _scan(lambda c: _rewritten(c.scan(), lambda raw: b"")), 1, r"{}: is empty \(0 bytes\); copy it anew"),
    Fault("cut .nii.gz", _scan(lambda c: _cut_in_half(c.scan())), 1, r"{}: truncated or damaged"),
    Fault("cut .nii", _scan(lambda c: _cut_in_half(c.scan("scan.nii"))), 1, r"{}: truncated or damaged; .* cannot hold them"),
    Fault("a changed byte", _scan(lambda c: _rewritten(c.scan(), lambda raw: raw[:-6] + bytes([raw[-6] ^ 1]) + raw[-5:])), 1, r"{}: truncated or damaged"),
    Fault("words as a scan", _scan(lambda c: _rewritten(c.scan(), lambda raw: b"hello " * 99)), 1, r"{}: not a readable NIfTI file"),
    Fault("a header that asks for 64 TB", _scan(lambda c: _inside(c.scan(), _dimensions(32767, 32767, 16000))), 1, r"{}: truncated or damaged; its header tells of \d+ bytes of voxels"),
    Fault("negative sizes", _scan(lambda c: _inside(c.scan(), _dimensions(12, -14, 10))), 1, r"{}: damaged; its header tells of 12 x -14 x 10 voxels"),
    Fault("gigabytes behind the voxels", _scan(lambda c: _rewritten(c.scan(), lambda raw: gzip.compress(gzip.decompress(raw) + bytes(80 << 20), 1))), 1, r"{}: truncated or damaged, .*far behind its last voxel"),
    Fault("MetaImage of absurd size", _scan(_header("scan.mha", _MHA.format(3, "9999 9999 9999", "1 1 1"))), 1, r"{}: truncated or damaged; its header tells of 999700029999 voxels"),
    Fault("MetaImage of negative size", _scan(_header("scan.mha", _MHA.format(3, "-1 14 10", "1 1 1"))), 1, r"{}: damaged; its header gives 'dimsize' as '-1 14 10'"),
    Fault("NRRD of no size", _scan(_header("scan.nrrd", _NRRD.format("4 0 4", _UNIT))), 1, r"{}: damaged; its header gives 'sizes' as '4 0 4'"),
    Fault("MetaImage of absurdly many axes", _scan(_header("scan.mha", _MHA.format("9" * 19, "4 4 4", "1 1 1"))), 1, r"{}: damaged; its header gives 9999999999999999999 axes"),
    Fault("MetaImage without extent", _scan(_header("scan.mha", _MHA.format(3, "4 4 2", "1 0 1"))), 1, r"{}: (not a readable metaimage file|its affine is singular)"),
    Fault("NRRD with an endless number", _scan(_header("scan.nrrd", _NRRD.format("4 4 2", _UNIT.replace("1)", "9" * 500 + ")")))), 1, r"{}: damaged; its header gives 'space directions' as a word of more than 64 letters"),
    Fault("NRRD with a flat grid", _scan(_header("scan.nrrd", _NRRD.format("4 4 2", "(1,0,0) (0,1,0) (0,0,0)"))), 1, r"{}: (not a readable nrrd file|its affine is singular)"),
    # Volumes that a network cannot take.
    Fault("4D", _scan(_four_axes), 1, r"{}: has 4 axes \(12, 14, 10, 3\) where a volume has 3; .* split it into one file a channel"),
    Fault("2D", _scan(lambda c: _voxels(c.root / "scan.nii.gz", _NOISE[..., 0])), 1, r"{}: a 2D image of \(12, 14\) pixels"),
    Fault("NaN and Inf", _scan(lambda c: _voxels(c.root / "scan.nii.gz", _with(_NOISE, a=np.nan, b=np.inf))), 1, r"{}: 2 voxels are NaN or infinite; replace them in the file"),
    Fault("affine of zeros", _scan(lambda c: _inside(c.scan(), _no_affine)), 1, r"{}: its affine is singular or not finite; set a valid sform or qform"),
    Fault("voxels of half a metre", _scan(_odd_affine(np.diag([500.0, 500, 500, 1]))), 1, r"{}: its header says that a voxel is 500 x 500 x 500 mm; .* Correct its spacing"),
    Fault("negative spacing and no orientation", _scan(_spacing_without_orientation), 1, r"{}: does not say how it is oriented .* Set the sform code"),
    Fault("wrong number of channels", lambda c: (c.root / "one.nii.gz", c.predict(_two_channels(c))[1]), 1, r"{}: 2 channels, the recipe has 1 \(MRI\)"),
    # Odd volumes that it can take.
    Fault("a single slice", _scan(lambda c: c.scan("scan.nii.gz", (12, 14, 1))), 0, r"1 masks written", ("scan.nii.gz",)),
    Fault("a single voxel", _scan(lambda c: c.scan("scan.nii.gz", (1, 1, 1))), 0, r"1 masks written", ("scan.nii.gz",)),
    Fault("all voxels equal", _scan(lambda c: _voxels(c.root / "scan.nii.gz", _NOISE * 0 + 7)), 0, r"1 masks written", ("scan.nii.gz",)),
    Fault("axes that run backwards", _scan(_odd_affine(np.diag([-1.0, 1, -2, 1]))), 0, r"1 masks written", ("scan.nii.gz",)),
    Fault("sheared affine", _scan(_odd_affine(_sheared())), 0, r"1 masks written", ("scan.nii.gz",)),
    Fault("unicode and spaces", _scan(lambda c: c.scan("Ümlaut und 日本/mit leer zeichen é.nii.gz")), 0, r"1 masks written", ("mit leer zeichen é.nii.gz",)),
    # Paths that lead elsewhere.
    Fault("a name that is no text", _scan(_name_that_is_no_text), 2, r"{}: its name is not readable text, .*; rename it"),
    Fault("folder with such a name", lambda c: (_name_that_is_no_text(c), c.predict(c.root)[1]), 2, r"{}: record id .* cannot name an output file; .*; rename the file"),
    Fault("a link to itself", _scan(_link_to_itself), 1, r"{}: no such file"),
    Fault("a folder that holds itself", lambda c: (c.root, ["inspect", _folder_in_itself(c), "--out", c.out]), 0, r"1 records of 1 subjects", ("manifest.jsonl",)),
    Fault("a pipe", _scan(_pipe), 1, r"{}: is a folder or a device, not a file"),
    Fault("a device as configuration", lambda c: (Path("/dev/zero"), ["finetune", "/dev/zero"]), 2, r"{}: (is a folder or a device, not a file|.*no such file)"),
    Fault("zip that climbs out", _scan(_zip_that_climbs), 2, r"{}: not a data set; expected a volume"),
    Fault("tar that climbs out", lambda c: c.inspect(_tar_that_climbs(c)), 2, r"{}: not a data set; expected a volume"),
    Fault("table that climbs out", _scan(_table_that_climbs), 2, r"{}:1: record id '../../climbed' cannot name an output file"),
    # Labels.
    Fault("empty mask, inspected", lambda c: c.inspect(d := _empty_label(c), d / "labelsTr" / "a.nii.gz"), 1, r"{}: unreadable: is empty \(0 bytes\)", ("manifest.jsonl", "findings.jsonl")),
    Fault("empty mask, prepared", lambda c: c.prepare(d := _empty_label(c), d / "labelsTr" / "a.nii.gz"), 2, r"{}: is empty \(0 bytes\)", (".building", "index.json", "recipe.yaml", "arrays")),
    Fault("empty mask, scored", lambda c: ((d := _empty_label(c) / "labelsTr") / "a.nii.gz", ["evaluate", d, d, "--out", c.out / "scores.json"]), 2, r"{}: is empty \(0 bytes\)"),
    Fault("label values out of range", lambda c: c.prepare(d := _labelled(c, (_NOISE > 100).astype(np.int16) * 9), d / "imagesTr" / "a.nii.gz"), 2, r"{}: its label holds \[9\], which is not among the declared labels \(0 background, 1 front\)", (".building", "index.json", "recipe.yaml", "arrays")),
    Fault("label of fractions", lambda c: c.prepare(d := _labelled(c, _NOISE / 7), d / "labelsTr" / "a.nii.gz"), 2, r"{}: \d+ voxels are not whole numbers", (".building", "index.json", "recipe.yaml", "arrays")),
    Fault("NaN in training", lambda c: c.finetune(d := _labelled(c, (_NOISE > 100).astype(np.uint8), _with(_NOISE, a=np.nan)) / "imagesTr" / "a.nii.gz", f"data.path={d.parent.parent}", "data.labelled=2"), 2, r"{}: 1 voxels are NaN or infinite; replace them"),
    # What is there already.
    Fault("empty mask in the output", _damaged_output("scan.nii.gz", b"", "--skip-existing"), 0, r"1 masks written", ("scan.nii.gz",)),
    Fault("damaged config.yaml in the output", _damaged_output("config.yaml", b"{"), 2, r"{}:1: not valid YAML"),
    Fault("leftovers of a killed run", _damaged_output(".part-abc.nii.gz", b"half"), 0, r"1 masks written", ("scan.nii.gz",)),
    Fault("damaged quality.csv in the output", _damaged_output("quality.csv", b"id,label\nx,1\n"), 2, r"{}: damaged \(a row without name, .*\), so that nothing can be added to it; remove it"),
    Fault("output is a file", _output_is_a_file, 2, r"{}: cannot write here \(File exists\); choose another output folder"),
    *(Fault(f"{name} into a read-only place", lambda c, name=name: _nowhere(c, name, *_inputs(name, c)), 2, r"{}.*: cannot write here \(.*\); choose another output folder")
      for name in ("predict", "inspect", "prepare", "view")),
    # Weights and configurations that mean harm.
    Fault("checkpoint that runs code", _hostile_checkpoint, 2, r"{}: holds more than weights and would run code when opened, so it is not read"),
    Fault("pickle under another name", _hostile_safetensors, 2, r"{}: is damaged or not a safetensors file"),
    Fault("recipe.yaml that runs code", lambda c: _sheet(c, lambda text: text + "x: !!python/object/apply:os.system ['touch executed']\n"), 2, r"{}:\d+: not valid YAML .*; take it anew from the run"),
    Fault("recipe.yaml that grows", lambda c: _sheet(c, lambda text: text + _doubling()), 2, r"{}:\d+: YAML aliases are not allowed"),
    Fault("recipe.yaml a hundred thousand deep", lambda c: _sheet(c, lambda text: text + "x: " + "[" * 100_000), 2, r"{}: nested too deeply; take it anew from the run"),
    Fault("YAML that runs code", lambda c: _yaml(c, "out: !!python/object/apply:os.system ['touch executed']\n"), 2, r"{}:1: not valid YAML"),
    Fault("YAML that grows", lambda c: _yaml(c, _doubling()), 2, r"{}:2: YAML aliases are not allowed; write the value out"),
    Fault("YAML a hundred thousand deep", lambda c: _yaml(c, "a: " + "[" * 100_000), 2, r"{}: nested too deeply"),
    Fault("YAML of two megabytes", lambda c: _yaml(c, "a: " + "x" * (2 << 20)), 2, r"{}: larger than 1 MiB"),
    Fault("YAML with a list as a key", lambda c: _yaml(c, "? [a, b]\n: 1\n"), 2, r"{}:1: a list or mapping cannot be a key"),
    Fault("YAML with a date that is none", lambda c: _yaml(c, "out: 2001-99-99\n"), 2, r"{}: not valid YAML \(month must be"),
]  # fmt: skip


def _inputs(command: str, case: Case) -> list[object]:
    scan = case.scan("scans/a.nii.gz")
    return {"predict": [case.run, scan, "--device", "cpu"], "view": [scan]}.get(command, [scan.parent])


@pytest.fixture
def case(tmp_path: Path, fine_tuned: Path) -> Case:
    (tmp_path / "in").mkdir()
    return Case(tmp_path / "in", fine_tuned, tmp_path / "out")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, case: Case, medcl: Medcl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case.root)
    monkeypatch.setenv("COLUMNS", "200")
    at_fault, arguments = fault.make(case)
    before = {path for path in case.root.parent.rglob("*") if case.out not in path.parents and path != case.out}
    done = medcl(*arguments)
    assert done.code == fault.code, done.lines
    name = re.escape(os.fsencode(at_fault).decode("utf-8", "backslashreplace"))
    pattern = re.compile(fault.message.replace("{}", name))
    lines = [line.encode("utf-8", "backslashreplace").decode() for line in done.lines]
    found = [line for line in lines if pattern.search(line.replace("\\udcff", "\\xff"))]
    assert found, lines
    assert not any("Traceback" in line or "unexpected; see --debug" in line for line in lines)
    if case.out.is_dir():
        written = {path.name for path in case.out.iterdir()}
        assert written <= _OF_A_RUN | set(fault.writes), written
        assert set(fault.writes) <= written
        assert not list(case.out.rglob(".part-*"))
    after = {path for path in case.root.parent.rglob("*") if case.out not in path.parents and path != case.out}
    assert after == before, "something was written outside the output folder"
    assert not (case.root / "executed").exists()
