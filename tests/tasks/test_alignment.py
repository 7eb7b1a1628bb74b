"""Alignments of small modalities with real training: what only three modalities together tell, and records that lack some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
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
from medcl.errors import ConfigError
from medcl.objectives.multiway import mip_scores, pairwise_scores
from medcl.runs import RunFolder
from medcl.tasks.alignment import AlignTask, slots_of
from medcl.tasks.seen import Seen
from medcl.tasks.streams import VectorStream
from medcl.training.fit import fit
from medcl.views.aligned import AlignedBatch, AlignedSampler

NAMES = ("ecg", "labs", "radiograph")


class Plain(ModalityEncoder):
    """Two numbers as they are."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: torch.Tensor) -> Encoded:
        return Encoded(x)


def stage(objective: dict, **changes: object) -> AlignStageConfig:
    values = {
        "name": "joint",
        "steps": 250,
        "batch": 250,
        "terms": [{"objective": objective, "between": list(NAMES)}],
        "optimiser": {"lr": 0.1, "weight_decay": 0.0, "schedule": "constant", "warmup": 0, "clip": None},
        **changes,
    }
    return validate(AlignStageConfig, values)


def network() -> JointEncoders:
    torch.manual_seed(0)
    joint = JointEncoders({name: Plain() for name in NAMES}, dict.fromkeys(NAMES, LinearHeadConfig()), 16)
    for name in NAMES:
        joint.heads[name] = nn.Linear(2, 16)
    return joint


def exclusive_or(count: int, seed: int, *, missing: float = 0.0) -> dict[str, np.ndarray]:
    """a, b and a XOR b as (value, indicator that it is missing)."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (2, count))
    rows = {}
    for name, value in zip(NAMES, (a, b, a ^ b), strict=True):
        gone = rng.random(count) < missing
        rows[name] = np.stack([np.where(gone, 0.5, value), gone], 1).astype(np.float32)
    return rows


def sampler(rows: dict[str, np.ndarray], batch: int, seed: int) -> AlignedSampler:
    ids = [str(number) for number in range(len(rows["ecg"]))]
    streams = {name: VectorStream(dict(zip(ids, of, strict=True))) for name, of in rows.items()}
    return AlignedSampler(ids, range(len(ids)), streams, dict.fromkeys(NAMES, 1), batch=batch, seed=seed)


def accuracy(joint: JointEncoders, *, together: bool) -> float:
    """Of a, from b and a XOR b, on records without anything missing."""
    rows = exclusive_or(1000, 99)
    with torch.no_grad():
        codes = {name: normalize(joint(name, torch.from_numpy(of)), dim=1) for name, of in rows.items()}
        candidates = normalize(joint("ecg", torch.tensor([[0.0, 0.0], [1.0, 0.0]])), dim=1)
        scores = (mip_scores if together else pairwise_scores)([codes["labs"], codes["radiograph"]], candidates)
    return float((scores.argmax(1).numpy() == rows["ecg"][:, 0]).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "missing", "lowest", "highest"),
    [
        (
            {
                "name": "symile",
                "missing": "indicator",
                "derange": False,
                "temperature": {"name": "learned", "start": 1.35, "range": [0.001, 2.0]},
            },
            0.2,
            0.95,
            1.0,
        ),
        ({"name": "pairwise_clip", "combine": "sum"}, 0.0, 0.45, 0.55),
    ],
    ids=["symile, a fifth missing", "pairs"],
)
def test_only_symile_sees_an_exclusive_or(
    objective: dict, missing: float, lowest: float, highest: float, tmp_path: Path
) -> None:
    joint, config = network(), stage(objective)
    task = AlignTask(joint, config, sampler(exclusive_or(4000, 0, missing=missing), 250, 0))
    with RunFolder(tmp_path / "run").started("align", {}) as run:
        assert fit(
            task, TrainerConfig(device="cpu", threads=1, checkpoint_every=1000), run, stage="joint", progress=False
        )
    assert lowest <= accuracy(joint, together=objective["name"] == "symile") <= highest


def _one_batch(stage_config: AlignStageConfig, lacking: dict[str, list[int]]) -> tuple[AlignTask, AlignedBatch]:
    ids = [str(number) for number in range(12)]
    rng = np.random.default_rng(0)
    streams = {
        name: VectorStream({one: rng.normal(size=2) for one in ids if int(one) not in lacking.get(name, [])})
        for name in NAMES
    }
    drawn = AlignedSampler(ids, range(12), streams, slots_of(stage_config), batch=12, seed=0)
    task = AlignTask(network(), stage_config, drawn)
    return task, drawn.render(drawn.plan(0), "cpu")


@pytest.mark.parametrize("objective", ["pairwise_clip", "symile", "gram", "nt_xent"])
def test_a_record_without_a_modality_gives_it_no_gradient(objective: str) -> None:
    config = stage({"name": objective, **({"min_group": 2} if objective in ("symile", "gram") else {})}, batch=12)
    task, batch = _one_batch(config, {"ecg": [1, 4], "labs": [4, 7, 8]})
    seen = Seen(task.network, batch)
    codes = {place: seen.codes(place) for place in batch.present}
    for rows in codes.values():
        rows.retain_grad()
    term = task.terms[0]
    term.objective(term.codes(seen, 0)).loss.backward()
    for place, rows in codes.items():
        assert (rows.grad[~batch.present[place]] == 0).all()
        assert rows.grad[batch.present[place]].abs().sum() > 0


def test_objectives_of_complete_records_see_no_others() -> None:
    config = stage({"name": "nt_xent"}, batch=12)
    task, batch = _one_batch(config, {"ecg": [1, 4], "labs": [4, 7]})
    assert task.terms[0].codes(Seen(task.network, batch), 0).z.shape == (3, 9, 16)


def test_an_objective_of_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="pix_pro: reads maps of one modality; give it in medcl pretrain"):
        _one_batch(stage({"name": "pix_pro"}, batch=12), {})


def test_frozen_encoders_keep_their_weights_and_mode() -> None:
    torch.manual_seed(0)
    parts = {name: _Dropping() for name in NAMES}
    joint = JointEncoders(parts, dict.fromkeys(NAMES, LinearHeadConfig()), 16)
    ids = [str(number) for number in range(4)]
    streams = {name: VectorStream(dict.fromkeys(ids, np.ones(2))) for name in NAMES}
    drawn = AlignedSampler(ids, range(4), streams, dict.fromkeys(NAMES, 1), batch=4, seed=0)
    task = AlignTask(joint, stage({"name": "pairwise_clip"}, batch=4), drawn, frozen=["labs"])
    assert not joint.encoders["labs"].training
    assert not any(parameter.requires_grad for parameter in joint.encoders["labs"].parameters())
    assert joint.heads["labs"].weight.requires_grad
    AlignTask(joint, stage({"name": "pairwise_clip"}, batch=4), drawn, frozen=["ecg"])  # the stage after it
    assert all(parameter.requires_grad for parameter in joint.encoders["labs"].parameters())
    assert not any(parameter.requires_grad for parameter in joint.encoders["ecg"].parameters())
    assert all(
        parameter in {id(p) for p in task.parameter_groups()[0]["params"]}
        for parameter in map(id, task.terms.parameters())
    )


class _Dropping(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
