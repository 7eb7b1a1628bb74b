"""`medcl align` end to end: four real modalities of which records lack some, killed and resumed, read again elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resuming import check_killed_and_resumed, train_command
from resuming import run as start
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.alignment_use import RetrieveConfig
from medcl.config.data import DataConfig
from medcl.errors import MedclError
from medcl.evaluation.directions import EVERY
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.weights.alignment import find_alignment
from medcl.workflow.retrieve import retrieve

MODALITIES = {
    "radiograph": {"encoder": {"name": "resnet", "depth": 10, "width": 4}, "shorter": 32, "patch": [32, 32]},
    "ecg": {"encoder": {"name": "ecg_vit", "width": 16, "layers": 1, "heads": 2, "stem": 8}, "seconds": 2},
    "labs": {"encoder": {"hidden": [8]}},
    "report": {
        "encoder": {"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 32, "dropout": 0.1},
        "shuffle": True,
    },
}
CONFIG = {
    "modalities": MODALITIES,
    "joint": 8,
    "fusion": {"layers": 1, "heads": 2},
    "stages": [
        {
            "name": "texts",
            "steps": 14,
            "batch": 6,
            "train": ["report"],
            "terms": [
                {"objective": {"name": "pairwise_clip"}, "between": ["report.findings", "report.impression"]},
                {"objective": {"name": "masked_words"}, "between": ["report"], "weight": 0.1},
            ],
        },
        {
            "name": "joint",
            "steps": 14,
            "batch": 6,
            "terms": [
                {"objective": {"name": "pairwise_clip"}, "between": ["report", "radiograph", "ecg", "labs"]},
                {
                    "objective": {"name": "gram", "min_group": 2},
                    "between": ["report", "radiograph", "labs"],
                    "weight": 0.5,
                },
                {"objective": {"name": "nt_xent"}, "between": ["radiograph", "radiograph"]},
                {"objective": {"name": "masked_words"}, "between": ["report", "radiograph", "ecg"]},
                {"objective": {"name": "matching"}, "between": ["report", "ecg"]},
                {"objective": {"name": "momentum_alignment", "queue": 16}, "between": ["radiograph", "report"]},
                {"objective": {"name": "local_information"}, "between": ["report"], "weight": 0.1},
                {
                    "objective": {"name": "word_regions"},
                    "between": ["radiograph", "report"],
                    "weight": 0.1,
                    "level": -2,
                },
                {"objective": {"name": "grouping"}, "between": ["radiograph", "report.sentence", "report.sentence"]},
                {"objective": {"name": "hard_captions"}, "between": ["radiograph", "report", "report.wrong"]},
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """Eighteen records of real ECGs beside drawn images, reports with sections and laboratory values; every third lacks one."""
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    headers = sorted((shared / "data" / "ecg-12lead" / "records").glob("*.hea"))[:18]
    found = []
    for number, header in enumerate(headers):
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(folder / f"{number}.png")
        report = f"\n FINDINGS: Heart of size {number}. Lungs are clear.\n\n IMPRESSION: Number {number} is normal.\n"
        found.append(
            Record(
                id=f"r{number}",
                subject=f"s{number}",
                radiograph=() if number % 9 == 1 else (folder / f"{number}.png",),
                ecg=None if number % 9 == 4 else header,
                report=None if number % 9 == 7 else report,
                labs={"crp": float(number), **({"ldh": 2.0 * number} if number % 2 else {})},
                attributes={"site": "ab"[number % 2]},
            )
        )
    Manifest(tuple(found)).write(folder / "records.jsonl")
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def run(records: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("run")
    command = train_command("align", CONFIG, records, folder / "run", folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return RunFolder(folder / "run")


def test_it_trains_every_term_and_says_what_it_saw(run: RunFolder) -> None:
    rows = run.read_metrics()
    last = rows[-1]
    terms = [term["objective"]["name"] for term in CONFIG["stages"][1]["terms"][1:]]
    assert {"loss", *(f"{name}/loss" for name in terms), "ecg/effective_rank"} <= set(last)
    assert {"masked_words/hard", "matching/accuracy"} <= set(last)
    assert {"report.findings/effective_rank", "masked_words/loss"} <= set(rows[0])
    assert "report/effective_rank" not in rows[0]  # its words are told, but no term compares its codes
    assert all(np.isfinite(value) for value in last.values() if isinstance(value, float))
    facts = run.read_facts()
    assert facts["status"] == "finished"
    assert len(facts["test"]) == 2
    assert run.page.is_file()


def test_another_process_reads_the_weights_and_finds_the_same_codes(run: RunFolder, tmp_path: Path) -> None:
    found = find_alignment(run.path)
    network = found.network()
    assert network.fusion is not None
    assert set(network.fusion.adapters) == {"radiograph", "ecg"}
    assert found.labs is not None
    assert found.labs.columns == ("crp", "ldh")
    assert network.tokenizer is not None
    assert set(network.places) == {"radiograph", "radiograph@-2", "report"}
    program = (
        "import sys, torch\n"
        "from medcl.weights.alignment import find_alignment\n"
        "network = find_alignment(sys.argv[1]).network()\n"
        "with torch.no_grad():\n"
        "    tokens = network.tokenizer(['Lungs are clear.'])\n"
        "    told = network.language(network.text.states(tokens), network.text.vectors).sum((1, 2), keepdim=True)[:, :, 0]\n"
        "    codes = [network('report', tokens) + told, network('ecg', torch.ones(1, 12, 200)),\n"
        "             network('radiograph', torch.ones(1, 1, 32, 32)), network('labs', torch.ones(1, 4))]\n"
        "torch.save(codes, sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(run.path), str(tmp_path / "codes.pt")], check=True)
    with torch.no_grad():
        tokens = network.tokenizer(["Lungs are clear."])
        told = network.language(network.text.states(tokens), network.text.vectors).sum((1, 2), keepdim=True)[:, :, 0]
        own = [
            network("report", tokens) + told,
            network("ecg", torch.ones(1, 12, 200)),
            network("radiograph", torch.ones(1, 1, 32, 32)),
            network("labs", torch.ones(1, 4)),
        ]
    for one, other in zip(own, torch.load(tmp_path / "codes.pt", weights_only=True), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert one.shape == (1, 8)


PAIR = {
    "modalities": {name: MODALITIES[name] for name in ("radiograph", "labs")},
    "joint": 8,
    "stages": [
        {
            "name": "joint",
            "steps": 12,
            "batch": 6,
            "select": "best",
            "validate_every": 2,
            "optimiser": {"lr": 0.03, "warmup": 0},
            "terms": [{"objective": {"name": "pairwise_clip"}, "between": ["radiograph", "labs"]}],
        }
    ],
}


def test_it_keeps_the_weights_that_retrieve_best_among_the_validation_records(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(train_command("align", PAIR, records, out, tmp_path, "data.validation=6"))
    ranks = {row["step"]: row["validation_mrr"] for row in RunFolder(out).read_metrics() if "validation_mrr" in row}
    facts = RunFolder(out).read_facts()
    assert list(ranks) == [2, 4, 6, 8, 10, 12]
    assert facts["best_validation_mrr"] == max(ranks.values()) > min(ranks.values())
    assert facts["best_step"] == next(step for step, rank in ranks.items() if rank == max(ranks.values()))
    config = RetrieveConfig(data=DataConfig(path=records), weights=out, part="validation", device="cpu")
    found = [each.scores.mrr.mean for each in retrieve(config).directions if each.pattern == EVERY]
    assert len(found) == 2
    assert np.mean(found) == pytest.approx(facts["best_validation_mrr"], abs=1e-6)
    assert "mean reciprocal rank on validation records" in RunFolder(out).page.read_text()


@pytest.mark.slow
def test_killed_in_its_second_stage_and_resumed(records: Path, tmp_path: Path) -> None:
    """It draws from two sources and is validated; the text encoder is frozen in a third stage, which reads from the cache."""
    locked = {
        "name": "locked",
        "steps": 3,
        "batch": 6,
        "train": ["radiograph", "ecg", "labs"],
        "terms": [{"objective": {"name": "pairwise_clip"}, "between": ["report", "radiograph", "ecg", "labs"]}],
    }
    extra = ["modalities.report.shuffle=false", "sources={attribute: site, within_source: 0.5}", "data.validation=3"]
    joint = {**CONFIG["stages"][1], "select": "best", "validate_every": 3}
    config = {**CONFIG, "stages": [CONFIG["stages"][0], joint, locked]}
    check_killed_and_resumed("align", config, extra, 25, records, tmp_path)
    best = [
        [RunFolder(tmp_path / name).read_facts()[key] for key in ("best_step", "best_validation_mrr")]
        for name in ("whole", "broken")
    ]
    assert best[0] == best[1]
    assert len(list((tmp_path / "store" / "text").glob("*.npy"))) == 1  # the same for both runs


def _fails(records: Path, tmp_path: Path, config: dict) -> str:
    command = train_command("align", config, records, tmp_path / "run", tmp_path)
    done = CliRunner().invoke(app, command[3:])
    assert isinstance(done.exception, MedclError), done.output
    return str(done.exception)


class TestMessages:
    def test_the_best_weights_without_validation_records(self, records: Path, tmp_path: Path) -> None:
        assert "stage 'joint': select=best needs two validation records" in _fails(records, tmp_path, PAIR)

    def test_the_best_weights_of_a_stage_of_reports_alone(self, records: Path, tmp_path: Path) -> None:
        stage = {**CONFIG["stages"][0], "select": "best"}
        assert "needs two modalities to retrieve between" in _fails(records, tmp_path, {**CONFIG, "stages": [stage]})

    def test_a_place_that_is_not_there(self, records: Path, tmp_path: Path) -> None:
        stage = {
            **CONFIG["stages"][0],
            "terms": [{"objective": {"name": "pairwise_clip"}, "between": ["report", "volume"]}],
        }
        assert "between names 'volume'" in _fails(records, tmp_path, {**CONFIG, "stages": [stage]})

    def test_one_modality_is_none(self, records: Path, tmp_path: Path) -> None:
        config = {**CONFIG, "modalities": {"report": MODALITIES["report"]}}
        assert "an alignment needs two or more" in _fails(records, tmp_path, config)

    def test_a_damaged_image_is_named(self, records: Path, tmp_path: Path) -> None:
        manifest = Manifest.read(records)
        (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        first = manifest.records[0]
        broken = Record(id=first.id, subject=first.subject, radiograph=(tmp_path / "broken.png",), report="Clear.")
        Manifest((broken, *manifest.records[1:])).write(tmp_path / "broken.jsonl")
        assert "broken.png: truncated, damaged or no image" in _fails(tmp_path / "broken.jsonl", tmp_path, CONFIG)

    def test_a_batch_of_more_subjects_than_there_are(self, records: Path, tmp_path: Path) -> None:
        stage = {**CONFIG["stages"][0], "batch": 64}
        assert "a batch has 64 records of different subjects" in _fails(
            records, tmp_path, {**CONFIG, "stages": [stage]}
        )
