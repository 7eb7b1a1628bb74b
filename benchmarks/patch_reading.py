"""Reading random 96^3 patches, one thread: medcl's store beside MONAI's datasets and plain `.nii.gz`.

Synthetic 256 x 256 x 160 volumes (int16, 1 mm) are prepared once by each library: reorientation, resampling, z-score.
Then every variant, in a process of its own with one thread, delivers random patches of random volumes as float32
tensors of shape (1, 96, 96, 96). Writing the caches is not counted and all files are in the page cache. MONAI's
datasets run the transforms that a user writes, the random crop among them; `.nii.gz` is the prepared volume read
with nibabel and cropped. The median time of a patch is shown, the ratio to medcl, and the peak memory of the process,
which includes torch in every case.

    python benchmarks/patch_reading.py [--volumes 4] [--patches 40]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

SHAPE, PATCH = (256, 256, 160), (96, 96, 96)
VARIANTS = {
    "store": "medcl store",
    "cache": "MONAI CacheDataset",
    "persistent": "MONAI PersistentDataset",
    "nifti": ".nii.gz, nibabel",
}


def make_scans(folder: Path, count: int) -> list[Path]:
    """Smooth noise: compresses about as well as a real scan."""
    from scipy.ndimage import gaussian_filter

    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        smooth = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), 4)
        voxels = 400 + 200 * smooth / smooth.std() + rng.normal(0, 12, SHAPE)
        paths.append(folder / f"scan{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0])), paths[-1])
    return paths


def prepare(folder: Path, paths: list[Path]) -> None:
    """The store, and the prepared volumes as `.nii.gz`."""
    from medcl.preparation.build import build_store
    from medcl.preparation.recipe import Recipe
    from medcl.records.manifest import Manifest
    from medcl.records.record import Record

    records = tuple(Record(path.name, path.name, (path,)) for path in paths)
    recipe = Recipe(spacing=(1, 1, 1), patch=PATCH, channels=("MRI",))
    store = build_store(Manifest(records), recipe, folder / "store")
    (folder / "prepared").mkdir()
    for name in store.ids:
        entry = store.open(name)
        nibabel.save(nibabel.Nifti1Image(np.array(entry.data[0]), entry.affine), folder / "prepared" / name)


def reader(variant: str, folder: Path) -> Callable[[int, np.random.Generator], Any]:
    """A function that delivers a random patch of volume number ``i``, its caches filled."""
    import torch

    def corner(rng: np.random.Generator) -> list[slice]:
        starts = [int(rng.integers(size - side + 1)) for size, side in zip(SHAPE, PATCH, strict=True)]
        return [slice(start, start + side) for start, side in zip(starts, PATCH, strict=True)]

    if variant == "store":
        from medcl.preparation.store import Store

        store = Store(folder / "store")
        return lambda i, rng: torch.from_numpy(np.array(store.open(store.ids[i]).data[:, *corner(rng)]))
    if variant == "nifti":
        paths = sorted((folder / "prepared").glob("*.nii.gz"))
        return lambda i, rng: torch.from_numpy(
            np.array(np.asanyarray(nibabel.load(paths[i]).dataobj, np.float32)[None][:, *corner(rng)])
        )
    dataset = monai_dataset(variant, folder)
    for i in range(len(dataset)):
        dataset[i]  # fills the cache
    return lambda i, rng: dataset[i]["image"]


def monai_dataset(variant: str, folder: Path) -> Any:
    """The dataset of that name with the usual transforms; all but the crop are cached."""
    from monai.data import CacheDataset, PersistentDataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        RandSpatialCropd,
        Spacingd,
    )

    transforms = Compose(
        [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            Spacingd(keys="image", pixdim=(1.0, 1.0, 1.0)),
            NormalizeIntensityd(keys="image"),
            RandSpatialCropd(keys="image", roi_size=PATCH, random_size=False),
        ]
    )
    data = [{"image": str(path)} for path in sorted(folder.glob("scan*.nii.gz"))]
    if variant == "cache":
        return CacheDataset(data, transforms, num_workers=1, progress=False)
    return PersistentDataset(data, transforms, cache_dir=folder / "persistent")


def measure(variant: str, folder: Path, volumes: int, patches: int) -> dict[str, float]:
    """Median milliseconds of a patch and peak memory in MiB, in this process."""
    import torch

    torch.set_num_threads(1)
    read = reader(variant, folder)
    rng = np.random.default_rng(0)
    times = []
    for number in range(patches + volumes):
        begun = time.perf_counter()
        patch = read(number % volumes, rng)
        times.append(1000 * (time.perf_counter() - begun))
        assert tuple(patch.shape) == (1, *PATCH)
        assert patch.dtype == torch.float32
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": statistics.median(times[volumes:]), "peak": peak}  # the first round warms up


def main() -> None:
    """Make the data, measure every variant in its own process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--patches", type=int, default=40)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, arguments.folder, arguments.volumes, arguments.patches)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, make_scans(folder, arguments.volumes))
        results = {variant: _in_a_process(variant, folder, arguments) for variant in VARIANTS}
    show(results)


def _in_a_process(variant: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--variant", variant, "--folder", str(folder)]
    command += ["--volumes", str(arguments.volumes), "--patches", str(arguments.patches)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # Once to write what it caches on disk, which may need much more memory than reading it; once to measure.
    for _ in range(2 if variant == "persistent" else 1):
        done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{variant} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(results: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    shape = " x ".join(map(str, SHAPE))
    table = Table(title=f"a random 96^3 patch of {shape}, one thread")
    for column in ("", "ms a patch", "ratio to medcl", "peak memory MiB"):
        table.add_column(column, justify="right" if column else "left")
    for variant, result in results.items():
        ratio = result["ms"] / results["store"]["ms"]
        table.add_row(VARIANTS[variant], f"{result['ms']:.2f}", f"{ratio:.1f}", f"{result['peak']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
