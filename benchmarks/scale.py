"""What a volume and a step cost, and what that makes of many volumes: the tables of docs/scale.md.

Synthetic MR volumes (int16, 1 mm) are written as `.nii.gz`, prepared, learnt from and segmented, each in a process of its own with one
thread. CPU seconds are shown beside the clock's, which other work on the machine makes longer. What is kept of a record beside its
voxels is measured with made-up records. No network is trained to any use, so no scores are shown.

    python benchmarks/scale.py [--volumes 6] [--shape 160 192 160] [--patch 96 96 96] [--encoder tiny]
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MANY = (10_000, 100_000)
CLASSES, STRUCTURES = 3, 2


def write_scans(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    """A smooth body in air with noise in it: compresses about as well as a real scan."""
    import nibabel
    import numpy as np
    from scipy.ndimage import gaussian_filter

    folder.mkdir()
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    body = (place**2).sum(0) < 0.8
    for number in range(count):
        rng = np.random.default_rng(number)
        smooth = gaussian_filter(rng.normal(size=shape).astype(np.float32), 4)
        voxels = body * (400 + 100 * smooth / smooth.std()) + rng.normal(0, 8, shape)
        image = nibabel.Nifti1Image(voxels.clip(0).astype(np.int16), np.eye(4))
        nibabel.save(image, folder / f"scan{number:03d}.nii.gz")


def measure_preparing(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Seconds a volume of deriving the recipe and of preparing, and bytes a volume before and after."""
    from medcl.config.load import load_config
    from medcl.config.prepare import PrepareConfig
    from medcl.workflow.prepare import agree_on_recipe, prepare

    values = [f"data.path={folder / 'scans'}", f"out={folder / 'store'}", f"recipe.patch={list(given.patch)}"]
    config = load_config(PrepareConfig, overrides=[*values, "recipe.spacing=[1,1,1]"])
    looking, store = [_clock()], None
    agree_on_recipe(config)
    looking.append(_clock())
    store = prepare(config)
    end = _clock()
    index = (folder / "store" / "index.json").stat().st_size
    return {
        **_per("look", looking[0], looking[1], len(store)),
        **_per("prepare", looking[1], end, len(store)),
        "raw_bytes": _bytes(folder / "scans") / len(store),
        "store_bytes": _bytes(folder / "store" / "arrays") / len(store),
        "index_bytes": index / len(store),
        "peak_mib": _peak(),
    }


def measure_pretraining(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step with two views of ``batch`` records, and resident memory."""
    import medcl.objectives  # noqa: F401  (announces what a stage may name)
    from medcl.config.load import validate
    from medcl.config.pretrain import PretrainConfig
    from medcl.runs import RunFolder
    from medcl.workflow.pretrain import pretrain

    def cpu_of(steps: int, name: str) -> tuple[float, RunFolder]:
        stage = {"name": "global", "steps": steps, "batch": given.batch, "terms": [{"objective": "nt_xent"}]}
        values = {
            "data": {"path": folder / "scans", "store": folder / "store"},
            "encoder": {"size": given.encoder},
            "stages": [stage],
            "trainer": {"device": "cpu", "threads": 1, "log_every": 1},
            "out": folder / name,
        }
        begun = time.process_time()
        run = pretrain(validate(PretrainConfig, values), progress=False)
        return time.process_time() - begun, run

    cpu_of(1, "warm")
    short, _ = cpu_of(1, "short")
    long, run = cpu_of(1 + given.steps, "long")
    return {
        "step_wall": statistics.median(1 / row["steps_per_second"] for row in run.read_metrics()[1:]),
        "step_cpu": (long - short) / given.steps,
        "checkpoint_bytes": _bytes(run.weights),
        "peak_mib": _peak(),
    }


def measure_predicting(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Seconds a volume of a network with random weights, after the first one, and bytes of a mask."""
    from medcl.config.encoder import ResidualEncoderConfig
    from medcl.config.predict import PredictConfig
    from medcl.encoders.build import build_encoder
    from medcl.encoders.segmenter import Segmenter
    from medcl.preparation.store import Store
    from medcl.weights.card import WeightsCard
    from medcl.weights.save import save_weights
    from medcl.workflow.predict import predict

    recipe = Store(folder / "store").recipe.model_copy(update={"labels": {0: "none", 1: "one", 2: "two"}})
    encoder = ResidualEncoderConfig(size=given.encoder)
    network = Segmenter(build_encoder(encoder, 1, recipe.patch), CLASSES)
    card = WeightsCard(encoder=encoder, in_channels=1, classes=CLASSES, stage="finetuned", training={})
    save_weights(folder / "network" / "weights", network, card, recipe)
    ticks = []
    config = PredictConfig(
        runs=(folder / "network",), inputs=(folder / "scans",), out=folder / "masks", device="cpu", batch=2
    )
    predict(config, lambda done, total: ticks.append(_clock()))
    masks = list((folder / "masks").glob("*.nii.gz"))
    return {
        **_per("predict", ticks[0], ticks[-1], len(ticks) - 1),
        "mask_bytes": statistics.mean(mask.stat().st_size for mask in masks),
        "peak_mib": _peak(),
    }


def measure_bookkeeping(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """What ``given.records`` made-up records cost in memory and time beside their voxels."""
    from types import SimpleNamespace

    from medcl.preparation.recipe import Recipe
    from medcl.preparation.store import FORMAT, INDEX, Store
    from medcl.records.manifest import Manifest
    from medcl.records.record import Record

    count = given.records
    records = tuple(Record(f"r{n:06d}", f"s{n:06d}", (Path(f"/scans/r{n:06d}.nii.gz"),)) for n in range(count))
    Manifest(records).write(folder / "many.jsonl")
    begun = time.perf_counter()
    Manifest.read(folder / "many.jsonl")
    read = time.perf_counter()
    rows = {record.id: {"key": f"{n:032x}", "entry": f"{n:064x}"} for n, record in enumerate(records)}
    seen = {f"{n:024x}": [10**7, 10**18 + n, f"{n:064x}"] for n in range(count)}
    recipe = Recipe(spacing=(1.0, 1.0, 1.0), patch=(96, 96, 96), channels=("MRI",)).model_dump(mode="json")
    (folder / "many").mkdir()
    index = folder / "many" / INDEX
    index.write_text(json.dumps({"format": FORMAT, "recipe": recipe, "records": rows, "seen": seen}, indent=2))
    opening = time.perf_counter()
    Store(folder / "many")
    opened, peak = time.perf_counter(), _peak()
    from medcl.workflow.quality import QualityTable  # brings torch, whose memory is not the records'

    table = QualityTable(folder / "many")
    told = SimpleNamespace(calibrated=False, expected_dice=dict.fromkeys(range(1, STRUCTURES + 1), 0.9))
    with open(table.path, "w") as stream:
        print("id,label,name,expected_dice,calibrated", file=stream)
        for record in records[: given.share]:
            for label in range(1, STRUCTURES + 1):
                print(f"{record.id},{label},structure,0.9000,no", file=stream)
    table.add("warm", told, {})  # type: ignore[arg-type]
    adding = time.perf_counter()
    table.add("one", told, {})  # type: ignore[arg-type]
    added = time.perf_counter()
    return {
        "manifest_seconds": read - begun,
        "index_seconds": opened - opening,
        "index_bytes": index.stat().st_size,
        "row_seconds": added - adding,
        "peak_mib": peak,
    }


PARTS = {
    "prepare": measure_preparing,
    "pretrain": measure_pretraining,
    "predict": measure_predicting,
    "records": measure_bookkeeping,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=6)
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 192, 160), metavar=("X", "Y", "Z"))
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96), metavar=("X", "Y", "Z"))
    parser.add_argument("--encoder", default="tiny", help="a named size of medcl's network")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--records", type=int, default=100_000, help="made-up records of the bookkeeping")
    parser.add_argument("--share", type=int, default=1_000, help="volumes that one shard predicts")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.volumes < 2:
        parser.error("--volumes: at least 2, for the first one also warms up")
    if given.part:
        from medcl.allocation import keep_freed_memory

        keep_freed_memory()  # as the commands do
        print(json.dumps(PARTS[given.part](given.folder, given)))
        return
    with tempfile.TemporaryDirectory(prefix="medcl-scale-") as name:
        write_scans(Path(name) / "scans", given.volumes, tuple(given.shape))
        found = {part: _in_a_process(part, Path(name)) for part in PARTS}
    show(found, given)


def show(found: dict[str, dict[str, float]], given: argparse.Namespace) -> None:
    """Print the tables of docs/scale.md."""
    prepared, trained, predicted, kept = (found[part] for part in ("prepare", "pretrain", "predict", "records"))
    shape, patch = (" x ".join(map(str, size)) for size in (given.shape, given.patch))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{given.volumes} volumes of {shape}, int16, 1 mm; patch {patch}; encoder {given.encoder}; one thread;")
    print(
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}; load average {load}\n"
    )
    print(f"| of a volume | measured | {' | '.join(f'{count:,}' for count in MANY)} |")
    print("| --- | --- | --- | --- |")
    for what, value in (
        ("raw `.nii.gz`", prepared["raw_bytes"]),
        ("in the store", prepared["store_bytes"]),
        ("a mask", predicted["mask_bytes"]),
    ):
        many = " | ".join(f"{value * count / 1e9:,.1f} GB" for count in MANY)
        print(f"| {what} | {value / 1e6:.2f} MB | {many} |")
    for what, result, name in (
        ("looking at it, for the recipe", prepared, "look"),
        ("preparing it", prepared, "prepare"),
        ("predicting it", predicted, "predict"),
    ):
        wall, cpu = result[f"{name}_wall"], result[f"{name}_cpu"]
        many = " | ".join(f"{cpu * count / 3600:,.1f} CPU hours" for count in MANY)
        print(f"| {what} | {cpu:.2f} CPU s ({wall:.2f} s) | {many} |")
    print("\n| of a process | peak MiB |")
    print("| --- | --- |")
    for what, result in (("preparing", prepared), ("pretraining", trained), ("predicting", predicted)):
        print(f"| {what} | {result['peak_mib']:,.0f} |")
    print("\n| pretraining | measured |")
    print("| --- | --- |")
    print(
        f"| a step: 2 views of {given.batch} records | {trained['step_cpu']:.2f} CPU s ({trained['step_wall']:.2f} s) |"
    )
    print(f"| its weights on disk | {trained['checkpoint_bytes'] / 1e6:.1f} MB |")
    print(f"\n| {given.records:,} records, without their voxels | measured |")
    print("| --- | --- |")
    print(f"| reading their manifest | {kept['manifest_seconds']:.1f} s |")
    print(
        f"| opening their store: `index.json` of {kept['index_bytes'] / 1e6:.0f} MB | {kept['index_seconds']:.1f} s |"
    )
    print(f"| peak memory of a process that did both, MiB | {kept['peak_mib']:,.0f} |")
    print(f"| adding a case to a `quality.csv` of {given.share:,} | {1000 * kept['row_seconds']:.0f} ms |")


def _in_a_process(part: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{part} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _clock() -> tuple[float, float]:
    """Seconds of the clock and of the CPU."""
    return time.perf_counter(), time.process_time()


def _per(name: str, begun: tuple[float, float], ended: tuple[float, float], count: int) -> dict[str, float]:
    wall, cpu = (after - before for before, after in zip(begun, ended, strict=True))
    return {f"{name}_wall": wall / count, f"{name}_cpu": cpu / count}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
