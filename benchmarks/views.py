"""Two augmented views per volume: medcl's sampler beside MONAI's dictionary transforms and TorchIO, on one thread.

    python benchmarks/views.py [--repeats N] [--quick]

A batch is 8 volumes of 160^3 and two views of each: random crop, rotation, scale, flips, gamma, blur, noise, with
the same probabilities and ranges everywhere. Reported: median CPU time of a batch over interleaved repeats, the ratio
to medcl, and the peak memory that a batch adds in a process of its own. Peers hold their volumes in memory; medcl
reads a memory map. MONAI crops, rotates and scales in its one fused resampling (RandAffined with translation), as
medcl does. TorchIO cannot: it cuts what the view may see, resamples that and crops the view. The row "TorchIO, cut"
crops first and rotates within the crop: cheaper, but what was outside the crop is lost from the view's corners (see
the means), so it is shown and not counted as equivalent.
A peer that is not installed is named and left out (make peers installs them).
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from medcl.config.views import Augmentation, IntensityConfig, SpatialConfig, ViewsConfig
from medcl.views.geometry import cell_index, world_of
from medcl.views.sampler import ViewSampler

VOLUME, VOLUMES, SLOTS = (160, 160, 160), 8, 2
ROTATION, SCALE, FLIP = 15.0, 0.1, 0.5
GAMMA, BLUR, NOISE = (0.7, 1.5), (0.5, 1.0), 0.1
Batch = Callable[[int], list[Tensor]]


class MappedVolumes:
    """Volumes of a folder behind the face of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = tuple(sorted(path.stem for path in folder.glob("*.npy")))

    def open(self, record_id: str) -> Any:
        data = np.load(self.folder / f"{record_id}.npy", mmap_mode="r")
        box = np.array([np.zeros(3), data.shape[1:]]) - 0.5
        return SimpleNamespace(id=record_id, data=data, label=None, affine=np.eye(4), box=box, foreground={})


def medcl_batch(folder: Path, patch: tuple[int, int, int], chance: float) -> Batch:
    def some(low: float, high: float) -> Augmentation:
        return Augmentation(probability=chance, range=(low, high))

    spatial = SpatialConfig(rotation=(ROTATION,) * 3, scale=(1 - SCALE, 1 + SCALE), flip=(FLIP,) * 3)
    intensity = IntensityConfig(gamma=some(*GAMMA), blur=some(*BLUR), noise=some(0, NOISE))
    store = MappedVolumes(folder)
    config = ViewsConfig(slots=SLOTS, spatial=spatial, intensity=intensity)
    sampler = ViewSampler(store, store.ids, config, patch=patch, batch=VOLUMES, seed=0)  # type: ignore[arg-type]
    return lambda step: [view.data for view in sampler.render(sampler.plan(step), "cpu")]


def monai_batch(folder: Path, patch: tuple[int, int, int], chance: float) -> Batch:
    from monai import transforms
    from monai.data import MetaTensor

    keys = "image"
    room = [(size - side) / 2 for size, side in zip(VOLUME, patch, strict=True)]
    augment = transforms.Compose(
        [
            transforms.RandAffined(
                keys,
                prob=1.0,
                rotate_range=(math.radians(ROTATION),) * 3,
                scale_range=(SCALE,) * 3,
                translate_range=room,
                spatial_size=patch,
                padding_mode="border",
                mode="bilinear",
            ),
            *[transforms.RandFlipd(keys, prob=FLIP, spatial_axis=axis) for axis in range(3)],
            transforms.RandGaussianSmoothd(keys, sigma_x=BLUR, sigma_y=BLUR, sigma_z=BLUR, prob=chance),
            transforms.RandAdjustContrastd(keys, prob=chance, gamma=GAMMA),
            transforms.RandGaussianNoised(keys, prob=chance, std=NOISE),
        ]
    )
    augment.set_random_state(0)
    volumes = [{keys: MetaTensor(torch.from_numpy(np.load(path)))} for path in sorted(folder.glob("*.npy"))]

    def batch(step: int) -> list[Tensor]:
        return [torch.stack([augment(volume)[keys].as_tensor() for volume in volumes]) for _ in range(SLOTS)]

    return batch


def torchio_batch(folder: Path, patch: tuple[int, int, int], chance: float) -> Batch:
    return _torchio_batch(folder, patch, chance, region_seen(patch))


def torchio_cut_batch(folder: Path, patch: tuple[int, int, int], chance: float) -> Batch:
    return _torchio_batch(folder, patch, chance, patch)


def region_seen(patch: tuple[int, int, int]) -> tuple[int, ...]:
    """Sides of the box that holds a crop under any rotation and scale of the benchmark, or of the volume."""
    turns = [
        Rotation.from_euler("xyz", signs, degrees=True) for signs in itertools.product((-ROTATION, ROTATION), repeat=3)
    ]
    reach = np.max([np.abs(turn.as_matrix()) @ np.asarray(patch) for turn in turns], axis=0) / (1 - SCALE)
    return tuple(int(side) for side in np.minimum(np.ceil(reach), VOLUME))


def _torchio_batch(folder: Path, patch: tuple[int, int, int], chance: float, region: tuple[int, ...]) -> Batch:
    import SimpleITK
    import torchio

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    augment = torchio.Compose(
        [
            torchio.RandomAffine(scales=SCALE, degrees=ROTATION, default_pad_value="minimum"),
            torchio.CropOrPad(patch),
            torchio.RandomFlip(axes=(0, 1, 2), flip_probability=FLIP),
            torchio.RandomBlur(std=BLUR, p=chance),
            torchio.RandomGamma(log_gamma=(math.log(GAMMA[0]), math.log(GAMMA[1])), p=chance),
            torchio.RandomNoise(std=(0, NOISE), p=chance),
        ]
    )
    subjects = [
        torchio.Subject(image=torchio.ScalarImage(tensor=torch.from_numpy(np.load(path))))
        for path in sorted(folder.glob("*.npy"))
    ]
    sampler = torchio.UniformSampler(region)
    torch.manual_seed(0)

    def batch(step: int) -> list[Tensor]:
        return [
            torch.stack([augment(next(sampler(subject, 1)))["image"].data for subject in subjects])
            for _ in range(SLOTS)
        ]

    return batch


MAKERS = {"medcl": medcl_batch, "MONAI": monai_batch, "TorchIO": torchio_batch, "TorchIO, cut": torchio_cut_batch}


def make_volumes(folder: Path) -> None:
    """Smooth random anatomy between 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for number in range(VOLUMES):
        coarse = torch.rand(1, 1, 20, 20, 20, generator=generator)
        volume = torch.nn.functional.interpolate(coarse, size=VOLUME, mode="trilinear")[0]
        np.save(folder / f"{number}.npy", volume.numpy())


def cpu_time(batch: Batch, step: int) -> float:
    begun = time.process_time()
    batch(step)
    return time.process_time() - begun


def added_memory(name: str, folder: Path, patch: tuple[int, int, int], chance: float) -> float:
    """MiB that two batches add to the peak of a fresh process, volumes already open."""
    sides = [str(side) for side in patch]
    command = [sys.executable, __file__, "--peak-of", name, "--volumes", str(folder), "--chance", str(chance)]
    found = subprocess.run([*command, "--patch", *sides], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def print_peak(name: str, folder: Path, patch: tuple[int, int, int], chance: float) -> None:
    batch = MAKERS[name](folder, patch, chance)
    before = peak_memory()
    batch(0)
    batch(1)
    print(peak_memory() - before)


def peak_memory() -> float:
    """Peak resident memory of this process in MiB (not getrusage's, which a child inherits from its parent)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def coordinate_error(folder: Path) -> float:
    """Largest error in mm of the world coordinates read through medcl's views, away from borders."""
    place = np.stack(np.meshgrid(*[np.arange(64.0)] * 3, indexing="ij")).astype(np.float32)
    np.save(folder / "coordinates.npy", place)
    store = MappedVolumes(folder)
    config = ViewsConfig(spatial=SpatialConfig(rotation=(ROTATION,) * 3, flip=(FLIP,) * 3), intensity=None)
    sampler = ViewSampler(store, store.ids, config, patch=(32, 32, 32), batch=4, seed=0)  # type: ignore[arg-type]
    worst = 0.0
    for view in sampler.render(sampler.plan(0), "cpu"):
        claimed = world_of(view.affine, cell_index((32, 32, 32), [1, 1, 1]))
        inside = ((claimed >= 0) & (claimed <= 63)).all(-1)
        worst = max(worst, float((view.data.flatten(2).mT - claimed).norm(dim=-1)[inside].max()))
    return worst


def compare(folder: Path, patch: tuple[int, int, int], chance: float, repeats: int) -> None:
    side = "x".join(map(str, patch))
    print(f"\n{VOLUMES} volumes x {SLOTS} views of {side}, blur, gamma and noise each with probability {chance}")
    batches: dict[str, Batch] = {}
    for name, make in MAKERS.items():
        try:
            batches[name] = make(folder, patch, chance)
        except ModuleNotFoundError as error:
            print(f"  {name}: left out, {error.name} is not installed here")
    views = {name: torch.cat(batch(0)) for name, batch in batches.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in batches}
    for repeat in range(repeats):
        for name, batch in batches.items():
            times[name].append(cpu_time(batch, repeat + 1))
    own = statistics.median(times["medcl"])
    print(f"  {'':12} {'CPU ms':>8} {'ns/voxel':>9} {'ratio':>6} {'added MiB':>10}   mean and SD of the views")
    for name in batches:
        median = statistics.median(times[name])
        voxels = views[name].numel()
        memory = added_memory(name, folder, patch, chance)
        figures = f"{views[name].mean():.3f} {views[name].std():.3f}"
        print(
            f"  {name:12} {median * 1e3:8.0f} {median / voxels * 1e9:9.0f} {median / own:6.2f} {memory:10.0f}   {figures}"
        )
    equivalent = [statistics.median(times[name]) for name in ("MONAI", "TorchIO") if name in times]
    if equivalent:
        print(f"  the faster equivalent takes {min(equivalent) / own:.1f} times medcl's time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small views only")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--volumes", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--chance", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--patch", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if given.peak_of:
        print_peak(given.peak_of, given.volumes, tuple(given.patch), given.chance)
        return
    print(f"torch {torch.__version__}, 1 thread, median of {given.repeats} interleaved repeats")
    print(
        f"rotation +-{ROTATION} deg, scale 1 +- {SCALE}, flips {FLIP}, gamma {GAMMA}, blur {BLUR}, noise up to {NOISE}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_volumes(folder)
        for patch in [(32, 48, 32)] if given.quick else [(32, 48, 32), (96, 96, 96)]:
            for chance in (0.3, 1.0):
                compare(folder, patch, chance, given.repeats)
    with tempfile.TemporaryDirectory() as name:
        print(f"\nmedcl's views read back their world coordinates within {coordinate_error(Path(name)):.1e} mm")


if __name__ == "__main__":
    main()
