"""Terms of an alignment: what they read of a batch, what they refuse, and what happens where too little is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import AlignConfig, LinearHeadConfig, PerceptronHeadConfig
from medcl.config.align_stage import AlignStageConfig
from medcl.config.load import validate
from medcl.config.training import TrainerConfig
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.joint import JointEncoders
from medcl.errors import ConfigError, DataError
from medcl.records.classes import record_classes
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.tasks.alignment import AlignTask, Facts, slots_of
from medcl.tasks.alignment_requirements import check_alignment
from medcl.tasks.seen import Seen
from medcl.tasks.streams import VectorStream
from medcl.training.fit import fit
from medcl.views.aligned import AlignedBatch, AlignedSampler

NAMES = ("ecg", "labs", "radiograph")
RECORDS = 12
FACTS = Facts(torch.arange(RECORDS) % 3, ("a", "b", "c"))


class Plain(ModalityEncoder):
    """Two numbers as they are."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: torch.Tensor) -> Encoded:
        return Encoded(x)


def stage(*terms: dict, **changes: object) -> AlignStageConfig:
    values = {"name": "joint", "steps": 8, "batch": RECORDS, "terms": list(terms), **changes}
    return validate(AlignStageConfig, values)


def task_of(
    config: AlignStageConfig, lacking: dict[str, list[int]], head: object = None, facts: Facts = FACTS
) -> AlignTask:
    ids = [str(number) for number in range(RECORDS)]
    rng = np.random.default_rng(0)
    streams = {
        name: VectorStream({one: rng.normal(size=2) for one in ids if int(one) not in lacking.get(name, [])})
        for name in NAMES
    }
    drawn = AlignedSampler(
        ids, range(RECORDS), streams, {**dict.fromkeys(NAMES, 1), **slots_of(config)}, batch=config.batch, seed=0
    )
    torch.manual_seed(0)
    joint = JointEncoders({name: Plain() for name in NAMES}, dict.fromkeys(NAMES, head or LinearHeadConfig()), 16)
    return AlignTask(joint, config, drawn, facts=facts)


def batch_of(task: AlignTask) -> AlignedBatch:
    return task.sampler.render(task.sampler.plan(0), "cpu")


PAIR, ALL = ["ecg", "labs"], list(NAMES)
TERMS = {
    "soft_clip": PAIR,
    "label_clip": PAIR,
    "cwcl": PAIR,
    "modality_gap": PAIR,
    "attribution": PAIR,
    "filtered_info_nce": PAIR,
    "barlow": PAIR,
    "mixup_contrast": ALL,
    "circle": ALL,
    "multi_caption": ALL,
    "counting": ALL,
    "hard_captions": ALL,
    "degla": ALL,
}


@pytest.mark.parametrize("name", TERMS)
def test_a_record_that_lacks_a_place_gives_no_gradient(name: str) -> None:
    between = TERMS[name]
    task = task_of(stage({"objective": name, "between": between}), {"ecg": [1, 4], "labs": [4, 7, 8]})
    batch = batch_of(task)
    teacher = None if task.teacher is None else Seen(task.teacher, batch)
    seen = Seen(task.network, batch, labels=task.labels, teacher=teacher)
    codes = {place: seen.codes(place) for place in between}
    for rows in codes.values():
        rows.retain_grad()
    found = task._compute(task.terms[0], seen)
    assert found.loss.isfinite()
    found.loss.backward()
    for place, rows in codes.items():
        assert (rows.grad[~batch.present[place]] == 0).all()
        locked = name == "cwcl" and place == "ecg"
        assert (rows.grad[batch.present[place]].abs().sum() > 0) or locked
    assert task.terms[0].skipped == 0


@pytest.mark.parametrize("name", ["cwcl", "nt_xent", "pairwise_clip", "hard_captions"])
def test_too_few_records_are_nothing_and_counted(name: str) -> None:
    """One record has all places: nobody to compare it with. Its head has batch normalisation, which one row has none of."""
    between = TERMS.get(name, PAIR)
    lacking = {"ecg": [one for one in range(RECORDS) if one != 3], "labs": []}
    task = task_of(stage({"objective": name, "between": between}), lacking, PerceptronHeadConfig(hidden=4))
    loss = task.training_step(batch_of(task), 0)
    assert loss == 0
    loss.backward()
    assert all(torch.isfinite(rows).all() for rows, _ in task.recent[0].values())
    assert task.network.heads["ecg"].training
    assert all(part.training for part in task.network.heads["ecg"])
    skipped = name in ("cwcl", "nt_xent")
    assert task.terms[0].skipped == int(skipped)
    assert ("skipped" in task.figures()) == skipped
    loaded = task_of(stage({"objective": name, "between": between}), lacking, PerceptronHeadConfig(hidden=4))
    loaded.load_state_dict(task.state_dict())
    assert loaded.terms[0].skipped == task.terms[0].skipped


def test_the_teacher_follows_with_its_buffers() -> None:
    term = {"objective": {"name": "degla", "momentum": 0.5}, "between": ALL}
    task = task_of(stage(term), {}, PerceptronHeadConfig(hidden=4))
    assert task.teacher is not None
    before = task.teacher.heads["ecg"][0].weight.clone()
    with torch.no_grad():
        task.network.heads["ecg"][0].weight += 1
        task.network.heads["ecg"][1].running_mean += 3
    task.pace_teacher(0)
    torch.testing.assert_close(task.teacher.heads["ecg"][0].weight, before + 0.5)
    assert torch.equal(task.teacher.heads["ecg"][1].running_mean, task.network.heads["ecg"][1].running_mean)
    assert not task.teacher.training
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())


def config(tmp_path: Path, *terms: dict, **changes: object) -> AlignConfig:
    values = {
        "out": tmp_path / "run",
        "data": {"path": tmp_path},
        "modalities": {"ecg": {}, "labs": {}, "radiograph": {}, "report": {}},
        "stages": [{"name": "joint", "steps": 1, "terms": list(terms)}],
        **changes,
    }
    return validate(AlignConfig, values)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            {"objective": "clip", "between": ["report", "ecg", "labs"]},
            r"\(clip\): compares 2 places, but between names 3",
        ),
        ({"objective": "sog_clip", "between": ["report", "ecg", "labs"]}, "compares 2 places, but between names 3"),
        ({"objective": "counting", "between": ["ecg", "report"]}, "compares 3 places, but between names 2"),
        ({"objective": "nt_xent", "between": ["report"]}, "name two or more in between"),
        ({"objective": "label_clip", "between": ["ecg", "report"]}, r"set classes=\[NAME, \.\.\.\]"),
        ({"objective": "attribution", "between": ["ecg", "report"]}, r"set classes=\[NAME\], a target or attribute"),
        ({"objective": "supremix", "between": ["ecg", "report"]}, "needs a number for every record"),
        ({"objective": "global_gd", "between": ["ecg", "report"]}, r"needs partitions .* give it in medcl pretrain"),
    ],
)
def test_what_an_alignment_cannot_serve_is_refused_before_data_are_read(
    term: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_alignment(config(tmp_path, term))


def test_terms_that_share_a_teacher_agree_on_its_pace(tmp_path: Path) -> None:
    terms = [
        {"objective": {"name": name, "momentum": momentum}, "between": ["ecg", "ecg"]}
        for name, momentum in (("moco", 0.9), ("moco_v3", 0.99))
    ]
    with pytest.raises(ConfigError, match="they share one teacher"):
        check_alignment(config(tmp_path, *terms))
    check_alignment(config(tmp_path, terms[0], {"objective": "supcon", "between": ["ecg", "labs"]}, classes=["site"]))


def test_classes_and_findings_of_records() -> None:
    def record(number: int, **targets: float | str) -> Record:
        return Record(id=f"r{number}", subject=f"s{number}", report="Clear.", targets=targets)

    rows = [
        record(0, edema=1.0, site="b"),
        record(1, edema=0.0, mass=-1.0, site="a"),
        record(2, mass=1.0),
        record(3, mass="1", site="a"),
    ]
    labels, names = record_classes(rows, ["site"])
    assert names == ("a", "b")
    assert labels.tolist() == [1, 0, 4, 0]
    findings, names = record_classes(rows, ["edema", "mass"])
    assert names == ("edema", "mass")
    assert findings.tolist() == [[True, False], [False, False], [False, True], [False, True]]
    with pytest.raises(DataError, match="no record has a target or attribute effusion; there are edema, mass, site"):
        record_classes(rows, ["effusion"])
    findings, names = record_classes(rows, ["edema", "effusion", "mass"])
    assert names == ("edema", "mass"), "what no record has says nothing"
    assert findings.shape == (4, 2)
    with pytest.raises(DataError, match="1 records, such as r4, have none of edema, mass"):
        record_classes([*rows, record(4, site="a")], ["edema", "mass"])


class Mapped(ModalityEncoder):
    """Nine numbers as a map of nine places with one number each."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, x: torch.Tensor) -> Encoded:
        maps = x.view(-1, 1, 3, 3)
        return Encoded(maps.flatten(2).mean(2), maps)


def taught_task(steps: int) -> AlignTask:
    """A task with a teacher, queues, mixtures and features of places."""
    terms = [
        {"objective": {"name": "momentum_alignment", "queue": 8, "momentum": 0.9}, "between": ["ecg", "labs"]},
        {"objective": {"name": "local_information", "momentum": 0.9}, "between": ["ecg"]},
        {"objective": "mixup_contrast", "between": ["ecg", "labs"]},
    ]
    config = stage(*terms, steps=steps, batch=4)
    ids = [str(number) for number in range(RECORDS)]
    rng = np.random.default_rng(0)
    rows = {name: {one: rng.normal(size=9) for one in ids} for name in ("ecg", "labs")}
    del rows["labs"]["5"]
    streams = {name: VectorStream(found) for name, found in rows.items()}
    drawn = AlignedSampler(ids, range(RECORDS), streams, slots_of(config), batch=4, seed=0)
    torch.manual_seed(0)
    parts = {name: Mapped() for name in rows}
    joint = JointEncoders(parts, dict.fromkeys(rows, PerceptronHeadConfig(hidden=4)), 4, places=["ecg"])
    return AlignTask(joint, config, drawn, seed=1)


def trained(task: AlignTask, folder: Path, *, until: int | None = None, resume: bool = False) -> AlignTask:
    trainer = TrainerConfig(device="cpu", threads=1, checkpoint_every=1)
    with RunFolder(folder).started("align", {}, resume=resume) as run:
        if until is not None:
            task.on_train_batch_end = lambda *args: setattr(task.trainer, "should_stop", task.global_step >= until)
        fit(task, trainer, run, stage="joint", resume=resume, progress=False)
    return task


def test_teacher_and_queues_resume_exactly(tmp_path: Path) -> None:
    whole = trained(taught_task(9), tmp_path / "whole")
    assert trained(taught_task(9), tmp_path / "broken", until=4).batches_done == 4
    resumed = trained(taught_task(9), tmp_path / "broken", resume=True)
    expected, found = whole.state_dict(), resumed.state_dict()
    assert any(name.startswith("teacher.") for name in expected)
    assert all(torch.equal(value, found[name]) for name, value in expected.items() if isinstance(value, torch.Tensor))
    queue = whole.terms[0].objective
    assert queue.get_extra_state() == resumed.terms[0].objective.get_extra_state()
    assert queue.filled == 8
    assert queue.pointer != 0  # it has wrapped around
    assert (queue.rows.norm(dim=-1) > 0.99).all()
    assert not torch.equal(expected["teacher.heads.ecg.0.weight"], expected["network.heads.ecg.0.weight"])


def test_the_share_of_the_teacher_rises_and_patients_are_no_negatives() -> None:
    task = taught_task(9)
    objective = task.terms[0].objective
    assert objective.ramp == RECORDS // 4
    batch = batch_of(task)
    seen = Seen(task.network, batch, teacher=Seen(task.teacher, batch))
    codes = [task.terms[0].codes(seen, step) for step in (0, 1, 3, 8)]
    objective.eval()
    at = [float(objective(one).parts["target_at_partner"]) for one in codes]
    assert at[0] == pytest.approx(1)
    assert at[0] > at[1] > at[2]
    assert at[2] == pytest.approx(at[3])
    same = replace(codes[2], subject=torch.zeros_like(codes[2].subject))
    alone = objective(same)
    assert alone.loss.detach() == pytest.approx(0, abs=1e-6)
