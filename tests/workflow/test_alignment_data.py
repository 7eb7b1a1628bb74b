"""The data of an alignment on simulated patients: captions, mirrored pairs, shared texts, sources, counts, and cached texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import AlignConfig
from medcl.config.load import validate
from medcl.encoders.encoded import Encoded
from medcl.encoders.text import Tokenizer, learn_vocabulary
from medcl.errors import ConfigError, DataError
from medcl.modalities.report_text import swap_sides
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.tasks.streams import EncodedStream, ReportStream
from medcl.views.mirror import mirrored
from medcl.workflow.align import align
from medcl.workflow.alignment_data import AlignmentData, open_alignment, stream_of
from medcl.workflow.simulation.cohort import PARTS, simulate_patients

pytest.importorskip("wfdb", reason="needs the multimodal extra")
SUBJECTS = 20


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_patients(tmp_path_factory.mktemp("patients"), subjects=SUBJECTS)


def settings(path: Path, out: Path, report: dict | None = None, **changes: Any) -> dict[str, Any]:
    spatial = {"rotation": [0, 0, 0], "scale": [1, 1], **changes.pop("spatial", {})}
    radiograph = {
        "encoder": {"name": "resnet", "depth": 10, "width": 4},
        "shorter": 32,
        "patch": [32, 32],
        "views": {"slots": 1, "spatial": spatial, "intensity": None},
    }
    bert = {"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 48}
    term = {"objective": {"name": "pairwise_clip"}, "between": ["report", "radiograph"]}
    return {
        "out": out,
        "data": {"path": path},
        "modalities": {"radiograph": radiograph, "report": {"encoder": bert, **(report or {})}},
        "joint": 8,
        "stages": [{"name": "joint", "steps": 4, "batch": 4, "terms": [term]}],
        "trainer": {"device": "cpu", "threads": 1, "log_every": 1, "checkpoint_every": 2},
        **changes,
    }


def config_of(*args: Any, **changes: Any) -> AlignConfig:
    return validate(AlignConfig, settings(*args, **changes))


class TestCohort:
    def test_is_named_as_simulated_split_by_subject_and_lacks_some(self, patients: Path) -> None:
        manifest = Manifest.read(patients)
        assert manifest.provenance["simulated"] == "yes"
        assert {record.attributes["source"] for record in manifest.records} == {"chest", "abdomen"}
        parts = {record.subject: record.split for record in manifest.records}
        assert len(parts) == SUBJECTS
        for part, share in PARTS:
            assert sum(found == part for found in parts.values()) == round(share * SUBJECTS)
        chest = [record for record in manifest.records if record.attributes["source"] == "chest"]
        count = [sum(map(bool, (r.radiograph, r.ecg, r.labs, r.report))) for r in chest]
        assert min(count) >= 2
        assert 2 < np.mean(count) < 4
        assert simulate_patients(patients.parent, subjects=SUBJECTS) == patients  # complete: left as it is

    def test_a_pacemaker_is_known_from_two_modalities_and_from_no_single_one(self) -> None:
        from medcl.workflow.simulation.patients import draw_chest

        drawn = np.array([(one.block, one.potassium, one.device) for one in map(draw_chest, range(2000))])
        assert (drawn[:, 2] == (drawn[:, 0] ^ drawn[:, 1])).all()
        assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.06


def test_records_are_counted_with_what_was_left_out_and_why(patients: Path, tmp_path: Path) -> None:
    data = open_alignment(config_of(patients, tmp_path / "run"), tmp_path / "prepared")
    whole = Manifest.read(patients)
    both = [record for record in whole.records if record.radiograph and record.report]
    facts = data.facts
    assert facts["listed"] == len(whole)
    assert facts["left_out"] == {"fewer than 2 of radiograph, report": len(whole) - len(both)}
    assert sum(facts["present"]["radiograph"].values()) == len(both)
    assert list(facts["present"]["report"]) == ["train", "validation", "test"]


class TestCaptions:
    def test_they_stand_for_missing_reports_only_and_differ_by_epoch(self, patients: Path, tmp_path: Path) -> None:
        whole = Manifest.read(patients)
        lacks = next(r for r in whole.records if r.radiograph and r.report and r.split == "train")
        bare = replace(whole, records=tuple(replace(r, report=None) if r is lacks else r for r in whole.records))
        bare.write(tmp_path / "bare.jsonl")
        config = config_of(tmp_path / "bare.jsonl", tmp_path / "run", {"captions": "configs/captions/chexpert.yaml"})
        data = open_alignment(config, tmp_path / "prepared")
        assert data.facts["captions_from_labels"] >= 1
        assert lacks.id in data.split.train
        tokenizer = learn_vocabulary(["x"], 100, 48)
        ids = [lacks.id, next(name for name in data.split.train if data.manifest.by_id(name).report)]

        def texts(epoch: int, train: bool) -> list[str]:
            stream = stream_of("report", data, config.modalities, ids, train=train, tokenizer=tokenizer)
            assert stream.has(lacks.id)
            return stream.plan(ids, [epoch, epoch], 1)[0]

        assert len({texts(epoch, True)[0] for epoch in range(12)}) > 3
        assert texts(3, True) == texts(3, True)
        assert texts(0, False)[0] == texts(5, False)[0]
        assert "X-ray" in texts(0, False)[0]
        assert len({texts(epoch, True)[1] for epoch in range(4)}) == 1  # a real report wins


def test_a_study_of_several_images_shows_frontal_ones_only_and_another_each_epoch(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in ("lateral", "first", "second")]
    for bright, path in zip((4, 16, 28), files, strict=True):  # columns of 32
        Image.fromarray(np.tile(np.where(np.arange(32) < bright, 200, 10).astype(np.uint8), (32, 1))).save(path)
    other = Record("o", "o", radiograph=tuple(files[:1]), report="Clear lungs on both sides.")
    views = {"views": "LATERAL;PA;AP"}
    several = Record("several", "s", radiograph=tuple(files), report="An opacity on the left.", attributes=views)
    Manifest((several, other)).write(tmp_path / "study.jsonl")
    for images, expected in (("first", {4}), ("any", {4, 7})):
        values = settings(tmp_path / "study.jsonl", tmp_path / "run")
        values["modalities"]["radiograph"]["images"] = images
        config = validate(AlignConfig, values)
        data = open_alignment(config, tmp_path / images)

        def shown(train: bool, config: AlignConfig = config, data: AlignmentData = data) -> set[int]:
            stream = stream_of("radiograph", data, config.modalities, [several.id, "o"], train=train)
            plans = [stream.plan([several.id], [epoch], 1) for epoch in range(16)]
            return {round(8 * float(stream.render(plan, "cpu")[0].mean())) for plan in plans}

        assert shown(True) == expected
        assert shown(False) == {4}


class TestSides:
    def test_a_flip_with_a_report_is_refused(self, patients: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"modalities\.radiograph\.views\.spatial\.flip mirrors left and right"):
            config_of(patients, tmp_path, spatial={"flip": [0.5, 0, 0]})
        config_of(patients, tmp_path, spatial={"flip": [0, 0.5, 0]})

    def test_image_and_text_are_mirrored_together(self, patients: Path, tmp_path: Path) -> None:
        config = config_of(patients, tmp_path / "run", {"flip_text": True}, spatial={"flip": [0.5, 0, 0]})
        data = open_alignment(config, tmp_path / "prepared")
        ids = data.split.train[:6]
        tokenizer = learn_vocabulary(["x"], 100, 48)
        found, plain = (
            {
                name: stream_of(name, data, config.modalities, ids, train=train, tokenizer=tokenizer)
                for name in ("radiograph", "report")
            }
            for train in (True, False)
        )
        turned = 0
        for epoch in range(3):
            epochs = [epoch] * len(ids)
            (texts,), (kept,) = (streams["report"].plan(ids, epochs, 1) for streams in (found, plain))
            images, upright = (
                streams["radiograph"].render(streams["radiograph"].plan(ids, epochs, 1), "cpu")[0]
                for streams in (found, plain)
            )
            for row in range(len(ids)):
                is_turned = not torch.allclose(images[row], upright[row], atol=1e-4)
                turned += is_turned
                torch.testing.assert_close(
                    images[row], upright[row].flip(1) if is_turned else upright[row], atol=1e-4, rtol=0
                )
                assert texts[row] == (swap_sides(kept[row]) if is_turned else kept[row])
        assert 3 < turned < 15

    def test_mirroring_turns_the_first_spatial_axis_of_the_rows_that_are_named(self) -> None:
        data = torch.arange(24.0).reshape(2, 1, 3, 2, 2)
        found = mirrored(data, torch.tensor([True, False]))
        assert found[0].equal(data[0].flip(1))
        assert found[1].equal(data[1])


class TestSharedTexts:
    def records(self, folder: Path, patients: Path) -> Path:
        image = next(record.radiograph for record in Manifest.read(patients).records if record.radiograph)
        texts = [f"Number {number} of the reports: opacity {number * 7919} in the lung." for number in range(10)]
        found = [
            Record(f"r{n}", f"s{n}", radiograph=image, report=text, split="test" if n > 7 else "train")
            for n, text in enumerate([*texts[:8], texts[3].upper(), texts[9]])
        ]
        Manifest(tuple(found)).write(folder / "texts.jsonl")
        return folder / "texts.jsonl"

    @pytest.mark.parametrize(("drop", "train", "test"), [("none", 8, 2), ("train", 7, 2), ("held_out", 8, 1)])
    def test_are_counted_and_one_side_left_out(
        self, patients: Path, tmp_path: Path, drop: str, train: int, test: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        near = {"drop": drop, "similarity": 0.95}
        config = config_of(self.records(tmp_path, patients), tmp_path / "run", near_duplicates=near)
        with caplog.at_level("INFO"):
            data = open_alignment(config, tmp_path / "prepared")
        assert (len(data.split.train), len(data.split.test)) == (train, test)
        assert data.facts["shared_texts"]["held_out"] == 1
        assert data.left_out == ({} if drop == "none" else {"text on both sides of the split": 1})
        assert "1 of 2 held-out texts are equal or nearly equal to one of training" in caplog.text


def test_a_record_without_a_source_is_named(patients: Path, tmp_path: Path) -> None:
    config = config_of(patients, tmp_path / "run", sources={"attribute": "hospital"})
    with pytest.raises(DataError, match=r"record subject_\d+_0: has no attribute 'hospital' .* it has source"):
        align(config, progress=False)


def losses(run: RunFolder) -> list[float]:
    return [row["loss"] for row in run.read_metrics() if "loss" in row]


def test_cached_texts_train_as_the_network_does_and_the_page_says_what_was_seen(patients: Path, tmp_path: Path) -> None:
    """Two sources, captions, a frozen text encoder: with its texts encoded once, and every time."""
    runs = {}
    for cache in (True, False):
        values = settings(
            patients, tmp_path / f"{cache}", {"freeze": True, "cache": cache}, sources={"within_source": 0.5}
        )
        values["modalities"]["volume"] = {
            "encoder": {"name": "resnet", "dims": 3, "depth": 10, "width": 4},
            "recipe": {"patch": [16, 16, 16], "spacing": [12, 12, 12], "intensity": "ct"},
        }
        values["stages"][0]["terms"][0]["between"] = ["report", "radiograph", "volume"]
        values["data"]["store"] = tmp_path / "prepared"
        runs[cache] = align(validate(AlignConfig, values), progress=False)
    assert len(losses(runs[True])) == 4
    np.testing.assert_allclose(losses(runs[True]), losses(runs[False]), rtol=1e-5)
    cached, plain = (load_file(run.weights / "weights.safetensors") for run in runs.values())
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, rtol=1e-3, atol=1e-4)
    (kept,) = (tmp_path / "prepared" / "text").glob("*.npy")
    assert len(np.load(kept)) > 10
    page = runs[True].page.read_text()
    assert "What the records have" in page
    facts = runs[True].read_facts()
    assert facts["simulated"] is True
    assert facts["data"]["left_out"]


def test_what_is_scored_is_cut_as_large_as_what_was_trained_on(patients: Path, tmp_path: Path) -> None:
    values = settings(patients, tmp_path / "run")
    values["modalities"]["radiograph"]["views"]["patch"] = [24, 24, 1]
    config = validate(AlignConfig, values)
    data = open_alignment(config, tmp_path / "prepared")
    ids = [record.id for record in data.manifest.records if record.radiograph][:3]
    for train in (True, False):
        stream = stream_of("radiograph", data, config.modalities, ids, train=train)
        (view,) = stream.render(stream.plan(ids, [0] * 3, 1), "cpu")
        assert view.shape == (3, 1, 24, 24)


def test_texts_of_which_there_are_only_so_many_are_encoded_once(tmp_path: Path) -> None:
    from medcl.config.align import ReportConfig
    from medcl.encoders.build_text import build_text_encoder
    from medcl.views.mirror import Mirror
    from medcl.workflow.text_cache import cached_texts

    tokenizer: Tokenizer = learn_vocabulary(["left lung clear"], 100, 16)
    base = ReportConfig(encoder={"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 16})
    encoder = build_text_encoder(base.encoder, tokenizer)
    parts = {"a": ["Left lung.", "Clear."], "b": ["Clear."]}

    def stream(**changes: Any) -> ReportStream:
        mirror = changes.pop("mirror", None)
        return ReportStream(parts, tokenizer, base.model_copy(update=changes), 0, train=True, mirror=mirror)

    kept = stream(shuffle=True)
    assert cached_texts(encoder, kept, tmp_path) is kept
    assert not list(tmp_path.iterdir())
    for number, varying in enumerate(({"sentence": 0.5}, {"mirror": Mirror(0.5, 0)}), 1):
        (folder := tmp_path / f"{number}").mkdir()
        drawn = cached_texts(encoder, stream(**varying), folder)
        assert isinstance(drawn, EncodedStream)
        ids, epochs = ["a", "b"] * 20, [epoch // 2 for epoch in range(40)]
        texts = stream(**varying).plan(ids, epochs, 1)[0]
        assert len(set(texts)) >= 3, "another text in other epochs"
        with torch.no_grad():
            expected = encoder.eval()(tokenizer(texts)).pooled
        (found,) = drawn.render(drawn.plan(ids, epochs, 1), "cpu")
        torch.testing.assert_close(found.pooled, expected, rtol=1e-5, atol=1e-6)
    found = cached_texts(encoder, stream(), tmp_path)
    assert isinstance(found, EncodedStream)
    (first, second) = found.render(found.plan(["b", "a"], [0, 0], 2), "cpu")
    assert isinstance(first, Encoded)
    with torch.no_grad():
        expected = encoder.eval()(tokenizer(["Clear.", "Left lung. Clear."])).pooled
    torch.testing.assert_close(first.pooled, expected, rtol=1e-5, atol=1e-6)
    assert second.pooled.equal(first.pooled)
    with torch.no_grad():
        next(encoder.parameters()).add_(1)
    cached_texts(encoder, stream(), tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2  # other weights, other features
