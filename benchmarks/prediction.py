"""The whole command: `medcl predict` beside nnU-Net's and a MONAI bundle, with the same weights on the same files.

    .venv-peers/bin/python benchmarks/prediction.py [--rounds 3] [--work runs/prediction] [--small 20]

A small residual U-Net of nnU-Net's layout (8 to 64 channels) with 20 classes is trained here for half an hour on drawn volumes of 19 organs, since masks of a
network that knows nothing are decided by rounding. `medcl export` writes nnU-Net's results folder and a MONAI bundle; `medcl import` takes the results folder back, by
nnU-Net's convention. Predicted are one CT of 512 x 512 x 200, resampled to 1.5 mm, and a folder of small volumes, without mirroring; "auto" is bf16 where the processor has instructions for it, all others work in float32.
Every command is a process of its own, the programs take turns; "freed memory kept" is the peer with the settings of glibc's allocator that medcl makes for itself. Shown: median seconds of the clock, the largest sum of the proportional set sizes of the process and its
children, and the mean Dice over the classes beside the mask of the program that is named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from measuring import tree_mib

ORGANS, PATCH, SPACING = 19, 64, 1.5
DENSITIES = np.linspace(-450, 450, 20)[:ORGANS]  # none is that of the body, 0
CT = ((512, 512, 200), (0.8, 0.8, 1.5))
SMALL = ((96, 96, 64), (1.5, 1.5, 1.5))
KEPT, EACH = ", freed memory kept", ", a command a volume"
PROGRAMS = {
    "nnU-Net": None,
    f"nnU-Net{KEPT}": "nnU-Net",
    "medcl, nnU-Net's convention": "nnU-Net",
    "medcl, nnU-Net's convention, auto": "nnU-Net",
    "MONAI bundle": None,
    f"MONAI bundle{KEPT}": "MONAI bundle",
    "medcl": "MONAI bundle",
    f"medcl{EACH}": "MONAI bundle",
    "medcl --precision auto": "MONAI bundle",
}
"""What is measured, and whose masks its masks are compared with."""
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_ARENA_MAX": "1"}
"""glibc's settings of medcl's own process."""


def write_volume(
    shape: tuple[int, ...], spacing: tuple[float, ...], seed: int, image: Path, label: Path | None
) -> None:
    """A body of water in air with 19 ellipsoids of different densities, in noise, slab by slab."""
    draw = np.random.default_rng(seed)
    extent = np.array(shape) * spacing
    centres = np.array([(a, b, c) for a in (0.32, 0.5, 0.68) for b in (0.35, 0.5, 0.65) for c in (0.2, 0.5, 0.8)])[
        :ORGANS
    ]
    centres = (centres + draw.normal(0, 0.01, centres.shape)) * extent
    radii = draw.uniform(0.06, 0.085, centres.shape) * extent
    values, labels = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    x, y = (
        np.arange(n)[:, None] * s if not axis else np.arange(n)[None] * s
        for axis, (n, s) in enumerate(zip(shape[:2], spacing[:2], strict=True))
    )
    body = ((x / extent[0] - 0.5) / 0.42) ** 2 + ((y / extent[1] - 0.5) / 0.38) ** 2 < 1
    for z in range(shape[2]):
        plane = np.where(body, 0.0, -1000.0)
        for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), 1):
            inside = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 + (
                (z * spacing[2] - centre[2]) / radius[2]
            ) ** 2 < 1
            plane[inside] = DENSITIES[number - 1]
            labels[..., z][inside] = number
        values[..., z] = plane + draw.normal(0, 6, plane.shape)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1])
    image.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), image)
    if label is not None:
        label.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(labels, affine), label)


def train(work: Path, steps: int) -> None:
    """The run, nnU-Net's results folder, the weights taken back from it, and the bundle."""
    for case in range(6):
        write_volume(*SMALL, case, work / f"train/images/case_{case}.nii.gz", work / f"train/labels/case_{case}.nii.gz")
    network = (
        "{name: nnunet, kind: residual, features: [8, 16, 32, 64], blocks: [1, 2, 2, 2], decoder_convs: [1, 1, 1],"
        " kernels: [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]], strides: [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]}"
    )
    recipe = f"{{spacing: [{SPACING}, {SPACING}, {SPACING}], crop: none, intensity: ct, window: [-500, 500], patch: [{PATCH}, {PATCH}, {PATCH}]}}"
    medcl(
        "finetune", "configs/finetune/segment.yaml", f"data.path={work / 'train/images'}", f"data.labels={work / 'train/labels'}",
        f"encoder={network}", f"recipe={recipe}", f"steps={steps}", "batch=2", f"out={work / 'run'}", "views.spatial=null", "views.intensity={}",
    )  # fmt: skip
    medcl("export", work / "run", "--to", "nnunet", "--out", work / "results")
    medcl("export", work / "run", "--to", "bundle", "--out", work / "bundle")
    resample_as_usual(results_of(work) / "plans.json")
    medcl("import", results_of(work), "--out", work / "imported")


def resample_as_usual(plans: Path) -> None:
    """Let nnU-Net resample as it does by default; the export says linear, as medcl has trained, and the import knows the default only."""
    content = json.loads(plans.read_text())
    for configuration in content["configurations"].values():
        for kind, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
            configuration[f"resampling_fn_{kind}_kwargs"].update(order=order, order_z=0, force_separate_z=None)
    plans.write_text(json.dumps(content, indent=1))


def medcl(*arguments: object) -> None:
    """Run a command of medcl's; SystemExit with what it said where it fails."""
    ran = subprocess.run([program("medcl"), *map(str, arguments)], capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"medcl {arguments[0]}: {ran.stdout}{ran.stderr}")


def program(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))


def results_of(work: Path) -> Path:
    """The folder of the trained model inside the export."""
    return next(path.parent for path in (work / "results").rglob("plans.json"))


def command_of(name: str, work: Path, scans: Path, out: Path) -> list[str]:
    """What is typed."""
    match name.removesuffix(KEPT):
        case "nnU-Net":
            options = ["-f", "0", "--disable_tta", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar"]
            command = program("nnUNetv2_predict_from_modelfolder")
            return [command, "-i", str(scans), "-o", str(out), "-m", str(results_of(work)), *options]
        case "MONAI bundle":
            options = [
                "--config_file",
                "configs/inference.json",
                "--dataset_dir",
                str(scans.resolve()),
                "--output_dir",
                str(out.resolve()),
            ]
            return [sys.executable, "-m", "monai.bundle", "run", *options]
        case _:
            weights = work / ("imported" if "convention" in name else "run")
            precision = "auto" if "auto" in name else "32"
            return [program("medcl"), "predict", str(weights), str(scans), "--out", str(out), "--precision", precision]


@dataclass(frozen=True)
class Measured:
    """One call of a program: seconds of the clock, MiB at the peak, masks by case."""

    seconds: float
    peak: float
    masks: Mapping[str, Path]


def measure(name: str, work: Path, scans: Path) -> Measured:
    """Run one program over a folder of volumes. SystemExit where it fails or leaves masks out."""
    out = work / "masks" / name.replace(" ", "_").replace("'", "").replace(",", "")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environment = {**os.environ, "nnUNet_compile": "F"} | (MALLOC if name.endswith(KEPT) else {}) | {
        key: str(work) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }  # fmt: skip
    begun, peak = time.perf_counter(), 0.0
    for given in sorted(scans.iterdir()) if name.endswith(EACH) else [scans]:
        with open(work / "log.txt", "w") as log:
            ran = subprocess.Popen(
                command_of(name, work, given, out), stdout=log, stderr=log, env=environment,
                cwd=work / "bundle" if "bundle" in name else None,
            )  # fmt: skip
            while ran.poll() is None:
                peak = max(peak, tree_mib(ran.pid))
                time.sleep(0.1)
        if ran.returncode:
            raise SystemExit(f"{name}: ended with {ran.returncode}; see {work / 'log.txt'}")
    seconds = time.perf_counter() - begun
    masks = {path.name.removesuffix(".nii.gz").removesuffix("_0000"): path for path in sorted(out.rglob("*.nii.gz"))}
    if len(masks) < len(list(scans.iterdir())):
        raise SystemExit(f"{name}: masks are missing; see {work / 'log.txt'}")
    return Measured(seconds, peak, masks)


def dice(one: Mapping[str, Path], other: Mapping[str, Path]) -> float:
    """The mean over cases and classes that either has."""
    found = []
    for case, path in one.items():
        a, b = (np.asarray(nibabel.load(name).dataobj).astype(np.uint8) for name in (path, other[case]))
        for value in np.union1d(np.unique(a), np.unique(b)):
            if value:
                found.append(2 * ((a == value) & (b == value)).sum() / ((a == value).sum() + (b == value).sum()))
    return float(np.mean(found))


def compare(work: Path, scans: Path, rounds: int) -> Iterator[str]:
    """Rows of the table of one folder."""
    several = len(list(scans.iterdir())) > 1
    rows: dict[str, list[Measured]] = {name: [] for name in PROGRAMS if several or not name.endswith(EACH)}
    for _ in range(rounds):
        for name, found in rows.items():
            found.append(measure(name, work, scans))
    middle = {
        name: (statistics.median(m.seconds for m in found), statistics.median(m.peak for m in found))
        for name, found in rows.items()
    }
    for name, (seconds, peak) in middle.items():
        beside = PROGRAMS[name]
        shares = ["", "", "", ""]
        if beside is not None:
            shares = [
                beside,
                f"{seconds / middle[beside][0]:.2f}",
                f"{peak / middle[beside][1]:.2f}",
                f"{dice(rows[name][-1].masks, rows[beside][-1].masks):.5f}",
            ]
        yield f"| {name} | {seconds:.1f} | {peak:.0f} | {' | '.join(shares)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200, help="of the training")
    parser.add_argument("--ct", type=int, nargs=3, default=CT[0], metavar="N", help="its voxels")
    parser.add_argument("--small", type=int, default=20, help="small volumes in one folder")
    parser.add_argument("--work", type=Path, default=Path("runs/prediction"), help="kept, and gone on from")
    given = parser.parse_args()
    work = given.work.resolve()
    if not (work / "imported").is_dir():
        train(work, given.steps)
    folders = {
        f"one CT of {' x '.join(map(str, given.ct))}": work / "one",
        f"{given.small} volumes of 96 x 96 x 64": work / "many",
    }
    if not (work / "one").is_dir():
        write_volume(tuple(given.ct), CT[1], 100, work / "one/ct_0000.nii.gz", None)
        for case in range(given.small):
            write_volume(*SMALL, 200 + case, work / f"many/case_{case:02d}_0000.nii.gz", None)
    for title, scans in folders.items():
        print(
            f"\n{title}\n\n| program | s | peak MiB | beside | s, ratio | peak, ratio | Dice with its masks |\n{'| --- ' * 7}|"
        )
        for row in compare(work, scans, given.rounds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
