"""Two-view contrastive pretraining: medcl beside the equivalent loop of MONAI parts, and a soak of the whole command.

    python benchmarks/pretraining.py [--steps 40] [--rounds 3] [--threads 1] [--soak 200]

40 volumes of 160^3 (int16 NIfTI, made here) are prepared once by each library; that is not counted. Then both train the same
network (medcl's `tiny` encoder and a projection head) with AdamW at the same batch and crop, each variant in a process of its own,
turn by turn: two views of every volume by crop, rotation, scale, contrast, blur and noise, with the same probabilities and ranges.
medcl: the whole `medcl pretrain`, with its memory-mapped store, its view sampler and `nt_xent`, in float32 and in bf16 (a setting).
MONAI: dictionary transforms on a PersistentDataset, `ContrastiveLoss`, a plain loop, with no worker and with two, in float32 as such
loops are, and under bf16 autocast as well. A CPU without bf16 instructions runs the float32
variants alone. `medcl / it` compares the fastest medcl variant.

Shown: steps a second (median over the rounds), the share of the time in which the network waits for its views, the peak of the
proportional set size of all processes (shared pages are counted once), how much of it is more than after the imports, and the mean loss of
the last steps. Both losses are the mean over 2N views of minus log softmax; log(2N - 1) where nothing is told apart.

The soak runs `medcl pretrain` on the 40 volumes, then on 10 of them: median and largest resident size in every 20th part of its steps
(the largest depends on which moment of a step is looked at, 50 times a second).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Meter, print_trainings, summarised

SHAPE, VOLUMES = (160, 160, 160), 40
SETTINGS = {"32x48x32": ((32, 48, 32), 8), "64x64x64": ((64, 64, 64), 4)}  # crop and volumes of a batch
ROTATION, SCALE, CHANCE = 15.0, 0.1, 0.4
CONTRAST, BLUR, NOISE = (0.7, 1.3), (0.3, 1.0), 0.1
TEMPERATURE, RATE = 0.1, 1e-3
VARIANTS = {
    "medcl, float32": ("medcl", "32", 0),
    "medcl, bf16": ("medcl", "bf16", 0),
    "MONAI, float32": ("monai", "32", 0),
    "MONAI, float32, 2 workers": ("monai", "32", 2),
    "MONAI, bf16": ("monai", "bf16", 0),
    "MONAI, bf16, 2 workers": ("monai", "bf16", 2),
}
WINDOW = 5  # steps of a logged row; the first row is not counted, for what is allocated once is allocated then


@dataclass(frozen=True)
class Job:
    """What every variant is asked to do."""

    folder: Path
    setting: str
    steps: int
    threads: int
    precision: str = "32"
    workers: int = 0

    @property
    def crop(self) -> tuple[int, ...]:
        return SETTINGS[self.setting][0]

    @property
    def batch(self) -> int:
        return SETTINGS[self.setting][1]


def make_scans(folder: Path) -> None:
    """Smooth noise with fine noise on top, int16, 1 mm."""
    import nibabel
    from scipy.ndimage import zoom

    (folder / "scans").mkdir()
    for number in range(VOLUMES):
        rng = np.random.default_rng(number)
        smooth = zoom(rng.normal(size=(12, 12, 12)), np.array(SHAPE) / 12, order=1)
        voxels = 400 + 150 * smooth + rng.normal(0, 12, SHAPE)
        image = nibabel.Nifti1Image(voxels.astype(np.int16), np.eye(4))
        nibabel.save(image, folder / "scans" / f"scan{number:02}.nii.gz")


def medcl_config(job: Job, out: Path, scans: str = "scans") -> Any:
    """The configuration of the pretraining, as a user writes it."""
    import medcl.objectives  # noqa: F401  (announces the objectives)
    from medcl.config.load import validate
    from medcl.config.pretrain import PretrainConfig

    def some(low: float, high: float) -> dict[str, Any]:
        return {"probability": CHANCE, "range": [low, high]}

    return validate(
        PretrainConfig,
        {
            "out": out,
            "data": {"path": job.folder / scans, "store": job.folder / f"store-{job.setting}-{scans}"},
            "recipe": {"spacing": [1, 1, 1], "crop": "none", "intensity": "mr", "patch": list(job.crop)},
            "objective": {"name": "nt_xent", "temperature": TEMPERATURE},
            "stages": [
                {
                    "name": "global",
                    "steps": job.steps,
                    "batch": job.batch,
                    "views": {
                        "spatial": {"rotation": [ROTATION] * 3, "scale": [1 - SCALE, 1 + SCALE]},
                        "intensity": {"contrast": some(*CONTRAST), "blur": some(*BLUR), "noise": some(0, NOISE)},
                    },
                    "terms": [{"at": "pooled", "head": {"name": "projection"}}],
                    "optimiser": {"lr": RATE, "schedule": "constant", "warmup": 0, "clip": None},
                }
            ],
            "trainer": {
                "threads": job.threads,
                "precision": job.precision,
                "log_every": WINDOW,
                "checkpoint_every": 10**6,
                "device": "cpu",
            },
        },
    )


def train_medcl(job: Job) -> list[dict[str, float]]:
    """Every few steps of a real pretraining: steps a second, share of waiting, loss."""
    from medcl.workflow.pretrain import pretrain

    with tempfile.TemporaryDirectory() as name:
        run = pretrain(medcl_config(job, Path(name) / "run"), progress=False)
        rows = run.read_metrics()
    return [{"rate": row["steps_per_second"], "wait": row["data_wait"], "loss": row["loss"]} for row in rows]


def persistent_dataset(folder: Path, crop: tuple[int, ...]) -> Any:
    """The prepared volumes, and two random views of each."""
    from monai import transforms
    from monai.data import PersistentDataset

    # Both views lie about one place: what any of them may see is cut first, then each turns and scales its own crop of it.
    reach = [math.radians(ROTATION) * (sum(crop) - side) + side for side in crop]
    region = [min(math.ceil(side / (1 - SCALE)), whole) for side, whole in zip(reach, SHAPE, strict=True)]

    def view(key: str) -> list[Any]:
        return [
            transforms.RandAffined(
                key,
                prob=1.0,
                rotate_range=(math.radians(ROTATION),) * 3,
                scale_range=(SCALE,) * 3,
                spatial_size=crop,
                padding_mode="border",
                mode="bilinear",
            ),
            transforms.RandGaussianSmoothd(key, sigma_x=BLUR, sigma_y=BLUR, sigma_z=BLUR, prob=CHANCE),
            transforms.RandScaleIntensityd(key, factors=(CONTRAST[0] - 1, CONTRAST[1] - 1), prob=CHANCE),
            transforms.RandGaussianNoised(key, prob=CHANCE, std=NOISE),
        ]

    steps = [
        transforms.LoadImaged("image"),
        transforms.EnsureChannelFirstd("image"),
        transforms.Orientationd("image", "RAS", labels=None),
        transforms.Spacingd("image", (1, 1, 1)),
        transforms.NormalizeIntensityd("image"),
        transforms.RandSpatialCropd("image", region, random_size=False),  # from here on nothing is kept
        transforms.CopyItemsd("image", names="other"),
        *view("image"),
        *view("other"),
        transforms.ToTensord(("image", "other"), track_meta=False),
    ]
    files = [{"image": str(path)} for path in sorted((folder / "scans").iterdir())]
    return PersistentDataset(files, transforms.Compose(steps), cache_dir=folder / "persistent")


def train_monai(job: Job) -> list[dict[str, float]]:
    """The equivalent loop."""
    import torch
    from monai.data import DataLoader
    from monai.losses import ContrastiveLoss
    from monai.utils import set_determinism
    from torch.nn.functional import normalize

    from medcl.config.encoder import ResidualEncoderConfig
    from medcl.encoders.build import build_encoder
    from medcl.encoders.heads import ProjectionHead

    set_determinism(0)
    encoder = build_encoder(ResidualEncoderConfig(), 1, job.crop)
    encoder.decoder.requires_grad_(False)
    head = ProjectionHead(encoder.channels[-1], 256, 128)
    optimiser = torch.optim.AdamW([*encoder.encoder.parameters(), *head.parameters()], RATE)
    objective = ContrastiveLoss(temperature=TEMPERATURE)
    loader = DataLoader(
        persistent_dataset(job.folder, job.crop),
        batch_size=job.batch,
        shuffle=True,
        drop_last=True,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
    )

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()
    next(batches)  # starts the workers
    rows = []
    for _ in range(job.steps // WINDOW):
        begun, waited = time.perf_counter(), 0.0
        for _ in range(WINDOW):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
                codes = head(encoder.encode(torch.cat([batch["image"], batch["other"]]))[-1])
            loss = objective(*normalize(codes.float()).chunk(2))
            loss.backward()
            optimiser.step()
        elapsed = time.perf_counter() - begun
        rows.append({"rate": WINDOW / elapsed, "wait": waited / elapsed, "loss": float(loss)})
    return rows


def measure(variant: str, job: Job) -> dict[str, float]:
    """One variant in this process."""
    import lightning  # noqa: F401
    import torch

    import medcl.workflow.pretrain  # noqa: F401  (both sides import all there is before the first reading)

    torch.set_num_threads(job.threads)
    meter = Meter()
    before = meter.now()
    meter.start()
    kind, precision, workers = VARIANTS[variant]
    train = {"medcl": train_medcl, "monai": train_monai}[kind]
    counted = train(replace(job, precision=precision, workers=workers))[1:]
    return summarised(counted, meter, before)


def soak(job: Job, scans: str) -> list[list[float]]:
    """Resident sizes in MiB of `medcl pretrain`, looked at 50 times a second, by the 20th part of its steps."""
    import psutil

    with tempfile.TemporaryDirectory() as name:
        config = medcl_config(job, Path(name) / "run", scans)
        path = Path(name) / "config.json"
        path.write_text(config.model_dump_json())  # JSON is YAML
        command = [sys.executable, "-m", "medcl.cli.main", "pretrain", str(path)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process, metrics = psutil.Process(child.pid), Path(name) / "run" / "metrics.jsonl"
        sizes: list[list[float]] = [[] for _ in range(20)]
        while child.poll() is None:
            rows = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
            part = rows * WINDOW * 20 // job.steps
            if rows and part < 20:
                sizes[part].append(process.memory_info().rss / 2**20)
            time.sleep(0.02)
        if child.returncode:
            raise SystemExit(f"the soak ended with {child.returncode}")
    return [part for part in sizes if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--soak", type=int, default=200, help="steps of each soak; 0: none")
    parser.add_argument("--soak-only", action="store_true", help="no comparison")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--setting", choices=SETTINGS, help="one alone; default: all")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    if given.variant:
        print(json.dumps(measure(given.variant, Job(given.folder, given.setting, given.steps, given.threads))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scans(folder)
        (folder / "few").mkdir()
        for path in sorted((folder / "scans").iterdir())[:10]:
            (folder / "few" / path.name).symlink_to(path)
        for setting in () if given.soak_only else [given.setting] if given.setting else SETTINGS:
            compare(folder, setting, given)
        if given.soak:
            print(f"\nmedcl pretrain, {given.soak} steps: resident size in MiB in every 20th part of them")
            for scans, count in (("scans", VOLUMES), ("few", 10)):
                sizes = soak(Job(folder, "32x48x32", given.soak, given.threads, "auto"), scans)
                for name, of in (("median", statistics.median), ("largest", max)):
                    found = [of(part) for part in sizes]
                    late = found[len(found) // 4 :]
                    print(f"  {count} volumes, {name}: {' '.join(f'{size:.0f}' for size in found)}")
                    print(f"    after the first quarter: {100 * (max(late) / late[0] - 1):+.1f} % at most")


def possible_variants() -> list[str]:
    """Without those in bf16 where the machine has no instructions for it."""
    from medcl.training.precision import resolve_precision

    native = resolve_precision("auto", gpu=False) == "bf16"
    return [name for name, (_, precision, _) in VARIANTS.items() if native or precision != "bf16"]


def compare(folder: Path, setting: str, given: argparse.Namespace) -> None:
    """Fill both caches, then let the variants take turns, and print the table."""
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in possible_variants()}
    for turn in range(given.rounds + 1):
        for variant, found in rounds.items():
            if turn == 0 and variant not in ("medcl, float32", "MONAI, float32"):
                continue
            steps = given.steps if turn or variant.startswith("medcl") else VOLUMES // SETTINGS[setting][1] * 2
            options = ["--variant", variant, "--setting", setting, "--folder", str(folder), "--steps", str(steps)]
            command = [sys.executable, __file__, *options, "--threads", str(given.threads)]
            child = subprocess.run(command, capture_output=True, text=True)
            if child.returncode:
                raise SystemExit(child.stderr)
            if turn:
                found.append(json.loads(child.stdout.splitlines()[-1]))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\nbatch {SETTINGS[setting][1]} volumes x 2 views of {setting}, {given.threads} threads, load {load}\n")
    print_trainings(rounds, ("medcl, bf16", "medcl, float32"))


if __name__ == "__main__":
    main()
