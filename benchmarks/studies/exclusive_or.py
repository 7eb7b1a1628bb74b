"""What only three modalities together tell: Symile and pairwise CLIP on an exclusive or (multimodal.md 4.3; Saporta et al. 2024).

a and b are fair coins, c = a XOR b: no two of them know of each other, any two know the third. Each is shown as [value, whether it is missing] to a
linear encoder. Scored on complete records: a, from b and c. Usage: python benchmarks/studies/exclusive_or.py [--seeds 3] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import LinearHeadConfig
from medcl.config.align_stage import AlignStageConfig
from medcl.config.load import validate
from medcl.config.training import TrainerConfig
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.joint import JointEncoders
from medcl.files import write_json
from medcl.objectives.multiway import mip_scores, pairwise_scores
from medcl.runs import RunFolder
from medcl.tasks.alignment import AlignTask
from medcl.tasks.streams import VectorStream
from medcl.training.fit import fit
from medcl.views.aligned import AlignedSampler

NAMES = ("ecg", "labs", "radiograph")
RECORDS, BATCH, EPOCHS, JOINT = 4000, 250, 30, 16
SCALE = float(np.exp(-0.3))
OBJECTIVES = {
    "Symile": {
        "name": "symile",
        "missing": "indicator",
        "temperature": {"name": "learned", "start": 1 / SCALE, "range": [0.001, 2.0]},
    },
    "pairwise CLIP": {"name": "pairwise_clip", "combine": "sum"},
}


class Plain(ModalityEncoder):
    """Two numbers as they are."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: torch.Tensor) -> Encoded:
        return Encoded(x)


def exclusive_or(count: int, seed: int, missing: float = 0.0) -> dict[str, np.ndarray]:
    """a, b and a XOR b as (value, whether it is missing)."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (2, count))
    rows = {}
    for name, value in zip(NAMES, (a, b, a ^ b), strict=True):
        gone = rng.random(count) < missing
        rows[name] = np.stack([np.where(gone, 0.5, value), gone], 1).astype(np.float32)
    return rows


def trained(objective: dict, missing: float, seed: int) -> JointEncoders:
    torch.manual_seed(seed)
    joint = JointEncoders({name: Plain() for name in NAMES}, dict.fromkeys(NAMES, LinearHeadConfig()), JOINT)
    for name in NAMES:
        joint.heads[name] = nn.Linear(2, JOINT)
    stage = {
        "name": "joint",
        "steps": RECORDS // BATCH * EPOCHS,
        "batch": BATCH,
        "terms": [{"objective": objective, "between": list(NAMES)}],
        "optimiser": {"lr": 0.1, "weight_decay": 0.01, "schedule": "constant", "warmup": 0, "clip": None},
    }
    ids = [str(number) for number in range(RECORDS)]
    rows = exclusive_or(RECORDS, seed, missing)
    streams = {name: VectorStream(dict(zip(ids, of, strict=True))) for name, of in rows.items()}
    sampler = AlignedSampler(ids, range(RECORDS), streams, dict.fromkeys(NAMES, 1), batch=BATCH, seed=seed)
    task = AlignTask(joint, validate(AlignStageConfig, stage), sampler, seed=seed)
    settings = TrainerConfig(device="cpu", threads=1, checkpoint_every=10_000, precision="32")
    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder) / "run").started("align", {}) as run:
        fit(task, settings, run, stage="joint", progress=False)
    return joint


@torch.no_grad()
def accuracy(joint: JointEncoders, together: bool) -> float:
    rows = exclusive_or(2000, 10_000)
    codes = {name: normalize(joint(name, torch.from_numpy(of)), dim=1) for name, of in rows.items()}
    candidates = normalize(joint("ecg", torch.tensor([[0.0, 0.0], [1.0, 0.0]])), dim=1)
    scores = (mip_scores if together else pairwise_scores)([codes["labs"], codes["radiograph"]], candidates)
    return float((scores.argmax(1).numpy() == rows["ecg"][:, 0]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = []
    for missing in (0.0, 0.2):
        for name, objective in OBJECTIVES.items():
            begin = time.process_time()
            scores = [accuracy(trained(objective, missing, seed), name == "Symile") for seed in range(given.seeds)]
            found.append(
                {"objective": name, "missing": missing, "accuracy": scores, "cpu_s": time.process_time() - begin}
            )
            shown = ", ".join(f"{score:.3f}" for score in scores)
            print(f"{name:14} {missing:.0%} missing: {shown}   ({found[-1]['cpu_s']:.0f} CPU s)", flush=True)
    if given.out:
        write_json(given.out, found)


if __name__ == "__main__":
    main()
