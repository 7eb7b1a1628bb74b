"""Faults that need a process of their own: killed while writing, a full disk, folders closed to it, two of them at once."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from bad_input import Medcl, write_scan

from medcl.runs import RunFolder

# Children are forked from a server that has imported everything, so that a kill costs no import of torch.
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["medcl.cli.main", "medcl.cli.predict", "medcl.workflow.predict"])
_BAD = ("bad_0", "bad_1", "bad_2", "bad_3", "bad_4")
_GOOD = tuple(f"scan_{number:02d}" for number in range(25))


@dataclass(frozen=True)
class _Way:
    """How a forked child runs: ``die_at``: it kills itself before (or ``after``) it moves that file into place.   ``told``: where its
    standard error goes.   ``confined``: file modes hold for it even where it is root."""

    die_at: int = 0
    after: bool = False
    told: str = os.devnull
    confined: bool = False


def _run(arguments: list[str], way: _Way) -> None:
    from medcl.cli.main import main

    moved = 0
    replace = os.replace

    def counting(source: object, target: object) -> None:
        nonlocal moved
        moved += 1
        if moved == way.die_at and not way.after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)  # type: ignore[arg-type]
        if moved == way.die_at and way.after:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counting  # type: ignore[assignment]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(way.told, os.O_WRONLY | os.O_CREAT, 0o644), 2)
    if way.confined:
        _give_up_capabilities()
    torch.set_num_threads(1)
    sys.argv = ["medcl", *arguments]
    main()


def _give_up_capabilities() -> None:
    """After capset(2) with nothing in its sets, root is kept out of files like anyone else."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, own_process = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, own_process)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _fork(*arguments: object, **way: Any) -> BaseProcess:
    process = _FORKS.Process(target=_run, args=([str(each) for each in arguments], _Way(**way)))
    process.start()
    return process


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-five sound scans and five that are not."""
    folder = tmp_path_factory.mktemp("thirty")
    for number, name in enumerate(_GOOD):
        write_scan(folder / f"{name}.nii.gz", seed=number)
    bad = {name: write_scan(folder / f"{name}.nii.gz", seed=99) for name in _BAD}
    bad["bad_0"].write_bytes(b"")
    bad["bad_1"].write_bytes(bad["bad_1"].read_bytes()[:900])
    bad["bad_2"].write_bytes(b"no scan at all" * 50)
    write_scan(bad["bad_3"], (6, 7, 5, 3))
    nibabel.save(nibabel.Nifti1Image(np.full((6, 7, 5), np.nan, np.float32), np.eye(4)), bad["bad_4"])
    return folder


@pytest.fixture(scope="module")
def reference(thirty: Path, fine_tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The masks that nobody interrupted."""
    out = tmp_path_factory.mktemp("reference") / "masks"
    process = _fork("predict", fine_tuned, thirty, "--out", out, "--device", "cpu")
    process.join(120)
    assert process.exitcode == 1
    return {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}


def test_thirty_scans_with_five_bad_ones(thirty: Path, fine_tuned: Path, tmp_path: Path, medcl: Medcl) -> None:
    out = tmp_path / "masks"
    done = medcl("predict", fine_tuned, thirty, "--out", out, "--device", "cpu")
    assert done.code == 1
    assert any(line.startswith("25 masks written") for line in done.lines)
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{name}.nii.gz" for name in _GOOD}
    for name in _BAD:
        assert sum(str(thirty / f"{name}.nii.gz") in line for line in done.lines) == 1
    assert f"5 of the scans could not be predicted: {', '.join(_BAD)}" in done.lines
    facts = RunFolder(out).read_facts()
    assert list(facts["failed"]) == list(_BAD)


def _masks(out: Path) -> dict[str, tuple[bytes, int]]:
    """What a shell, or medcl, sees as masks: what was being written when it was killed has a hidden name."""
    seen = (path for path in out.glob("*.nii.gz") if not path.name.startswith("."))
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in seen}


def _check_whole(
    out: Path, reference: dict[str, bytes], before: dict[str, tuple[bytes, int]]
) -> dict[str, tuple[bytes, int]]:
    """Every mask is the uninterrupted one, and those that were there were not made again."""
    found = _masks(out)
    assert all(reference[name] == content for name, (content, _) in found.items())
    assert before.items() <= found.items()
    return found


def _check_finished(out: Path, reference: dict[str, bytes], thirty: Path, fine_tuned: Path, medcl: Medcl) -> None:
    before = _masks(out)
    done = medcl("predict", fine_tuned, thirty, "--out", out, "--device", "cpu", "--skip-existing")
    assert done.code == 1
    assert any(line.startswith(f"{25 - len(before)} masks written") for line in done.lines), done.lines
    assert _check_whole(out, reference, before).keys() == reference.keys()
    rows = (out / "quality.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == set(_GOOD)
    assert not list(out.rglob(".part-*"))


def test_killed_at_random_moments_it_goes_on(
    thirty: Path, fine_tuned: Path, reference: dict[str, bytes], tmp_path: Path, medcl: Medcl
) -> None:
    out = tmp_path / "masks"
    rng = random.Random(0)
    found: dict[str, tuple[bytes, int]] = {}
    for _ in range(6):
        process = _fork("predict", fine_tuned, thirty, "--out", out, "--device", "cpu", "--skip-existing")
        time.sleep(rng.uniform(0.2, 1.2))
        process.kill()
        process.join(30)
        found = _check_whole(out, reference, found)
    _check_finished(out, reference, thirty, fine_tuned, medcl)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_file_it_writes_it_goes_on(
    after: bool, thirty: Path, fine_tuned: Path, reference: dict[str, bytes], tmp_path: Path, medcl: Medcl
) -> None:
    """The run's two files, then a mask and its row of quality.csv for each scan: dying at the first seven passes every kind."""
    out = tmp_path / "masks"
    found: dict[str, tuple[bytes, int]] = {}
    for die_at in range(1, 8):
        process = _fork(
            "predict",
            fine_tuned,
            thirty,
            "--out",
            out,
            "--device",
            "cpu",
            "--skip-existing",
            die_at=die_at,
            after=after,
        )
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        found = _check_whole(out, reference, found)
    assert found
    _check_finished(out, reference, thirty, fine_tuned, medcl)


def test_two_processes_on_one_folder(
    thirty: Path, fine_tuned: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """The second is told to wait, or comes when the first is done; either way nothing is mixed."""
    out = tmp_path / "masks"
    both = [_fork("predict", fine_tuned, thirty, "--out", out, "--device", "cpu") for _ in range(2)]
    for process in both:
        process.join(120)
    assert sorted(process.exitcode for process in both) in ([1, 1], [1, 2])
    assert {name: content for name, (content, _) in _masks(out).items()} == reference
    assert RunFolder(out).is_finished()


def test_a_folder_in_use_is_named(fine_tuned: Path, tmp_path: Path, medcl: Medcl) -> None:
    out = tmp_path / "masks"
    with RunFolder(out).started("predict", {}):
        done = medcl("predict", fine_tuned, write_scan(tmp_path / "a.nii.gz"), "--out", out, "--device", "cpu")
    assert done.code == 2
    assert done.lines == (f"{out}: another medcl process is writing here; wait for it or choose another out=",)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own in the folder ``disk``, of the size that it is called with."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def of_size(size: str) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "medcl-test", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted = True
        return place

    yield of_size
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount here")
def test_a_full_disk(full_disk: Callable[[str], Path], fine_tuned: Path, tmp_path: Path, medcl: Medcl) -> None:
    scans = [write_scan(tmp_path / "scans" / f"{name}.nii.gz", (48, 48, 40), seed=n) for n, name in enumerate("ab")]
    disk = full_disk("20k")
    arguments = (
        "predict",
        fine_tuned,
        tmp_path / "scans",
        "--out",
        disk / "masks",
        "--device",
        "cpu",
        "--skip-existing",
    )
    done = medcl(*arguments)
    assert done.code in (1, 2)
    assert any("could not be written (No space left on device)" in line for line in done.lines), done.lines
    assert not any("Traceback" in line for line in done.lines)
    for mask in (disk / "masks").glob("*.nii.gz"):
        assert nibabel.load(mask).get_fdata().shape == (48, 48, 40)
    assert not list(disk.rglob(".part-*"))
    full_disk("8m")
    assert medcl(*arguments).code == 0
    assert {path.name for path in (disk / "masks").glob("*.nii.gz")} == {path.name for path in scans}


def test_a_limit_on_the_size_of_files(fine_tuned: Path, tmp_path: Path, medcl: Medcl) -> None:
    """Where nothing can be mounted: a mask larger than a file may be, which a disk full in its middle looks like."""
    scan = write_scan(tmp_path / "scan.nii.gz", (48, 48, 40))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        done = medcl("predict", fine_tuned, scan, "--out", tmp_path / "masks", "--device", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code in (1, 2)
    assert any("could not be written (File too large)" in line for line in done.lines)
    assert {path.name for path in (tmp_path / "masks").iterdir()} <= {".lock", "config.yaml", "run.json", "quality.csv"}


@pytest.fixture
def unchangeable(tmp_path: Path) -> Iterator[Path]:
    """A folder in which not even root may write."""
    folder = tmp_path / "unchangeable"
    folder.mkdir()
    done = shutil.which("chattr") and subprocess.run(["chattr", "+i", str(folder)], capture_output=True, text=True)
    if not done or done.returncode:
        pytest.skip("this file system knows no unchangeable folders (chattr +i)")
    yield folder
    subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_read_only_folder(unchangeable: Path, fine_tuned: Path, tmp_path: Path, medcl: Medcl) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    for out in (unchangeable, unchangeable / "masks"):
        done = medcl("predict", fine_tuned, scan, "--out", out, "--device", "cpu")
        assert done.code == 2
        assert done.lines == (f"{out}: cannot write here (Operation not permitted); choose another output folder",)
    done = medcl("evaluate", scan, scan, "--out", unchangeable / "scores.json")
    assert done.code == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are of Linux")
def test_without_permissions(fine_tuned: Path, tmp_path: Path) -> None:
    """A scan that may not be read is named and the others are predicted; a folder that may not be written is named."""
    scans, closed = tmp_path / "scans", tmp_path / "closed"
    for number in range(2):
        write_scan(scans / f"scan_{number}.nii.gz", seed=number)
    (scans / "scan_0.nii.gz").chmod(0)
    closed.mkdir()
    closed.chmod(0o555)
    outs = (tmp_path / "masks", closed / "masks")
    codes, told = [], []
    for number, out in enumerate(outs):
        lines = tmp_path / f"told_{number}"
        process = _fork("predict", fine_tuned, scans, "--out", out, "--device", "cpu", told=str(lines), confined=True)
        process.join(60)
        codes.append(process.exitcode)
        told.append(lines.read_text())
    assert codes == [1, 2], told
    assert f"error: {scans / 'scan_0.nii.gz'}: cannot be read (Permission denied)" in told[0]
    assert [path.name for path in outs[0].glob("*.nii.gz")] == ["scan_1.nii.gz"]
    assert f"error: {outs[1]}: cannot write here (Permission denied); choose another output folder" in told[1]
