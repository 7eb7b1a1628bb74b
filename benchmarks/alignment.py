"""An alignment of pictures with texts: medcl's step beside open_clip's loss in the usual loops, and a search among 10,000 records.

    python benchmarks/alignment.py [--steps 30] [--rounds 3] [--threads 1] [--batch 64] [--records 512] [--gallery 10000]

Step: pairs of a picture (grey PNG, made here) and a text. ViT-tiny reads 128 x 128 pixels, the text encoder is pretrained and frozen, and
every text passes it once, before anything is counted, for all variants. Symmetric contrast at a learned temperature, AdamW, no augmentation.
medcl: the whole `medcl align`, with its store of prepared images. The loops: the same network, a DataLoader that reads the PNG files as open_clip's
own data sets do, or (in memory) that finds all pictures decoded in memory, and open_clip's `ClipLoss` or the formula in two lines.
Each variant runs in a process of its own, the variants take turns. Shown: steps a second (median over the rounds), share of the time that
the network waits for data, peak of the proportional set size, how much of it is more than after the imports, and the mean loss of the last steps.

Search: `medcl embed` encodes the pictures of a gallery; then texts ask for the ten nearest, one after the other, all compared, on one thread;
beside it NumPy's product and sort, and the answers are compared. Seconds are those of the clock.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Meter, peer, print_trainings, summarised

SIDE, JOINT, RATE, WINDOW = 128, 128, 1e-4, 5
WORDS = [
    "heart",
    "lungs",
    "pleura",
    "effusion",
    "edema",
    "normal",
    "enlarged",
    "small",
    "left",
    "right",
    "upper",
    "lower",
    "lobe",
    "nodule",
    "clear",
    "no",
    "mild",
    "severe",
]
VARIANTS = ("medcl", "open_clip's loss", "plain loss", "open_clip's loss, in memory", "plain loss, in memory")
TOP, QUERIES = 10, 100


@dataclass(frozen=True)
class Job:
    """What every variant is asked to do."""

    folder: Path
    steps: int
    batch: int
    threads: int


def make_pairs(folder: Path, count: int) -> None:
    """``pairs.csv`` and smooth grey pictures of 160 x 144 pixels with a little noise."""
    from PIL import Image
    from scipy.ndimage import zoom

    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "radiograph", "report_text"])
        for number in range(count):
            picture = 128 + 40 * zoom(rng.normal(size=(10, 9)), 16, order=1) + rng.normal(0, 4, (160, 144))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.png")
            text = f"Study {number}: {' '.join(rng.choice(WORDS, 12))}."
            table.writerow([f"r{number:05}", f"{number:05}.png", text])


def medcl_config(job: Job, out: Path, steps: int | None = None) -> Any:
    """The alignment, as a user writes it."""
    import medcl.objectives  # noqa: F401  (announces the objectives)
    from medcl.config.align import AlignConfig
    from medcl.config.load import validate

    return validate(
        AlignConfig,
        {
            "out": out,
            "data": {"path": job.folder / "pairs.csv", "store": job.folder.parent / f"store-{job.folder.name}"},
            "modalities": {
                "radiograph": {"encoder": "vit", "shorter": SIDE, "patch": [SIDE, SIDE], "views": {"slots": 1}},
                "report": {
                    "encoder": {"name": "pretrained_text", "source": "minilm", "max_length": 64},
                    "freeze": True,
                },
            },
            "joint": JOINT,
            "near_duplicates": None,
            "stages": [
                {
                    "name": "joint",
                    "steps": steps or job.steps,
                    "batch": job.batch,
                    "terms": [{"objective": {"name": "pairwise_clip"}, "between": ["radiograph", "report"]}],
                    "optimiser": {"lr": RATE, "schedule": "constant", "warmup": 0, "clip": None},
                }
            ],
            "trainer": {
                "threads": job.threads,
                "precision": "32",
                "log_every": WINDOW,
                "checkpoint_every": 10**6,
                "device": "cpu",
            },
        },
    )


def train_medcl(job: Job) -> list[dict[str, float]]:
    """Every few steps of a real alignment."""
    from medcl.workflow.align import align

    with tempfile.TemporaryDirectory() as name:
        rows = align(medcl_config(job, Path(name) / "run"), progress=False).read_metrics()
    return [{"rate": row["steps_per_second"], "wait": row["data_wait"], "loss": row["loss"]} for row in rows]


def text_features(job: Job) -> np.ndarray[Any, Any]:
    """What the frozen text encoder makes of the texts, as `medcl align` left it beside its prepared images, in the order of the table."""
    kept = next((job.folder.parent / f"store-{job.folder.name}" / "text").glob("*.npy"))
    texts = [row["report_text"] for row in read_pairs(job.folder)]
    places = {text: place for place, text in enumerate(sorted(set(texts)))}
    return np.load(kept)[[places[text] for text in texts]]


def read_pairs(folder: Path) -> list[dict[str, str]]:
    with (folder / "pairs.csv").open() as file:
        return list(csv.DictReader(file))


def loop(loss_name: str, in_memory: bool) -> Callable[[Job], list[dict[str, float]]]:
    """A loop as it is usually written."""

    def train(job: Job) -> list[dict[str, float]]:
        import torch
        from PIL import Image
        from torch import nn
        from torch.nn.functional import cross_entropy, normalize
        from torch.utils.data import DataLoader, Dataset

        from medcl.config.modalities import ViTConfig
        from medcl.encoders.image import build_image_encoder

        torch.manual_seed(0)
        features = torch.from_numpy(text_features(job))
        paths = [job.folder / row["radiograph"] for row in read_pairs(job.folder)]

        def picture(path: Path) -> torch.Tensor:
            with Image.open(path) as file:
                small = file.resize((SIDE, round(SIDE * file.height / file.width)), Image.Resampling.BICUBIC)
            begin = (small.height - SIDE) // 2
            pixels = np.asarray(small.crop((0, begin, SIDE, begin + SIDE)), np.float32)
            return torch.from_numpy((pixels - pixels.mean()) / pixels.std())[None]

        class Pairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
            kept = [picture(path) for path in paths] if in_memory else None

            def __len__(self) -> int:
                return len(paths)

            def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
                return self.kept[place] if self.kept else picture(paths[place]), features[place]

        encoder = build_image_encoder(ViTConfig(), 1, (SIDE, SIDE))
        heads = nn.ModuleList([nn.Linear(encoder.channels, JOINT), nn.Linear(features.shape[1], JOINT)])
        scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        optimiser = torch.optim.AdamW([*encoder.parameters(), *heads.parameters(), scale], RATE)
        published = peer("open_clip.loss", ("open_clip",)).ClipLoss() if loss_name == "open_clip's loss" else None
        loader = DataLoader(Pairs(), batch_size=job.batch, shuffle=True, drop_last=True)

        def forever() -> Iterator[Any]:
            while True:
                yield from loader

        batches, rows = forever(), []
        for _ in range(job.steps // WINDOW):
            begun, waited = time.perf_counter(), 0.0
            for _ in range(WINDOW):
                asked = time.perf_counter()
                pictures, texts = next(batches)
                waited += time.perf_counter() - asked
                optimiser.zero_grad()
                images = normalize(heads[0](encoder(pictures).pooled), dim=1)
                reports = normalize(heads[1](texts), dim=1)
                if published is not None:
                    loss = published(images, reports, scale.exp())
                else:
                    logits, own = scale.exp() * images @ reports.T, torch.arange(len(images))
                    loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
                loss.backward()
                optimiser.step()
            elapsed = time.perf_counter() - begun
            rows.append({"rate": WINDOW / elapsed, "wait": waited / elapsed, "loss": float(loss)})
        return rows

    return train


def measure(variant: str, job: Job) -> dict[str, float]:
    """One variant in this process."""
    import lightning  # noqa: F401
    import torch

    import medcl.workflow.align  # noqa: F401  (both sides import all there is before the first reading)

    torch.set_num_threads(job.threads)
    meter = Meter()
    before = meter.now()
    meter.start()
    name, _, memory = variant.partition(", ")
    counted = (train_medcl if variant == "medcl" else loop(name, bool(memory)))(job)[1:]
    return summarised(counted, meter, before)


def compare_steps(given: argparse.Namespace, folder: Path) -> None:
    """All variants in turns, and the table."""
    make_pairs(folder / "pairs", given.records)
    job = Job(folder / "pairs", given.steps, given.batch, given.threads)
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    in_a_process("medcl", Job(job.folder, WINDOW * 2, job.batch, job.threads))  # prepares images and texts
    for _ in range(given.rounds):
        for variant, found in rounds.items():
            found.append(in_a_process(variant, job))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\nbatch {given.batch} of {given.records} pairs, {given.threads} threads, load {load}\n")
    print_trainings(rounds, ("medcl",))


def in_a_process(variant: str, job: Job) -> dict[str, float]:
    options = {"folder": job.folder, "steps": job.steps, "batch": job.batch, "threads": job.threads}
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    child = subprocess.run([sys.executable, __file__, "--variant", variant, *flags], capture_output=True, text=True)
    if child.returncode:
        raise SystemExit(child.stderr)
    found: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return found


def measure_search(given: argparse.Namespace, folder: Path) -> None:
    """Embed a gallery with a network of a few steps, then ask."""
    import torch

    from medcl.config.alignment_use import EmbedConfig
    from medcl.config.data import DataConfig
    from medcl.evaluation.neighbours import nearest
    from medcl.workflow.align import align
    from medcl.workflow.joint_space import JointSpace, embed

    make_pairs(folder / "few", 2 * given.batch)
    make_pairs(folder / "gallery", given.gallery)
    job = Job(folder / "few", given.steps, given.batch, given.threads)
    run = align(medcl_config(job, folder / "run", steps=2), progress=False)
    config = EmbedConfig(
        data=DataConfig(path=folder / "gallery" / "pairs.csv"), weights=run.path, out=folder / "codes.npz", device="cpu"
    )
    torch.set_num_threads(given.threads)
    begun = time.perf_counter()
    codes = embed(config)
    print(
        f"\nmedcl embed, {given.gallery} pictures and texts: {time.perf_counter() - begun:.0f} s, {given.threads} threads"
    )
    torch.set_num_threads(1)
    gallery = codes.codes["radiograph"]
    rows = gallery.numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    texts = JointSpace.of(config).texts([row["report_text"] for row in read_pairs(folder / "gallery")[:QUERIES]])
    own, plain, same = [], [], 0
    for query in texts:
        begun = time.perf_counter()
        found = nearest(query[None], gallery, TOP).index[0].numpy()
        own.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        order = np.argsort(-(rows @ (query.numpy() / np.linalg.norm(query.numpy()))), kind="stable")[:TOP]
        plain.append(time.perf_counter() - begun)
        same += bool((found == order).all())
    for name, seconds in (
        ("medcl, normalising the gallery for every query", own),
        ("NumPy, gallery normalised before", plain),
    ):
        worst, middle = 1000 * max(seconds), 1000 * statistics.median(seconds)
        print(
            f"top {TOP} of {given.gallery} x {JOINT}, one thread, {name}: median {middle:.1f} ms, worst {worst:.1f} ms"
        )
    print(f"the same ten in the same order for {same} of {len(texts)} queries")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--records", type=int, default=512)
    parser.add_argument("--gallery", type=int, default=10_000, help="records of the search; 0: none")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    if given.variant:
        print(json.dumps(measure(given.variant, Job(given.folder, given.steps, given.batch, given.threads))))
        return
    with tempfile.TemporaryDirectory() as name:
        compare_steps(given, Path(name))
        if given.gallery:
            measure_search(given, Path(name))


if __name__ == "__main__":
    main()
