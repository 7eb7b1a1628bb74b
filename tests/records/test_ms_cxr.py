"""MS-CXR: a file of its exact form, and annotations that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medcl.errors import DataError
from medcl.records.layouts import open_data
from medcl.workflow.simulation.layouts import write_ms_cxr


def content() -> dict[str, Any]:
    return {
        "info": {"description": "MS-CXR"},
        "categories": [{"id": 1, "name": "Pneumonia"}, {"id": 2, "name": "Edema"}],
        "images": [
            {"id": 7, "file_name": "aaa.jpg", "width": 100, "height": 80, "path": "files/p10/p10000032/s50414267/aaa.jpg"},
            {"id": 8, "file_name": "bbb.jpg", "width": 50, "height": 50, "path": "files/p11/p11000001/s50000001/bbb.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "label_text": "Left opacity."},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 80], "label_text": ["Left", "opacity. "]},
            {"id": 3, "image_id": 8, "category_id": 2, "bbox": [1.5, 2, 3, 4], "label_text": "Edema"},
        ],
    }  # fmt: skip


def test_one_record_a_sentence_and_box(tmp_path: Path) -> None:
    manifest = open_data(write_ms_cxr(tmp_path / "MS_CXR_Local_Alignment_v1.1.0.json", content()))
    assert [(r.id, r.subject, r.report, r.attributes["study"]) for r in manifest.records] == [
        ("1", "10000032", "Left opacity.", "s50414267"),
        ("2", "10000032", "Left opacity.", "s50414267"),
        ("3", "11000001", "Edema", "s50000001"),
    ]
    first, _, third = manifest.records
    assert first.radiograph == (tmp_path / "files/p10/p10000032/s50414267/aaa.jpg",)
    assert first.targets == {"finding": "Pneumonia", "x": 10, "y": 20, "width": 30, "height": 40}
    assert third.targets == {"finding": "Edema", "x": 1.5, "y": 2, "width": 3, "height": 4}


def test_every_bad_annotation_is_named(tmp_path: Path) -> None:
    value = content()
    value["images"] += [{"id": 7}, {"id": 9, "path": "aaa.jpg"}, "x"]
    good = value["annotations"][0]
    for change in (
        {"id": 4, "image_id": 99},
        {"id": 5, "label_text": " "},
        {"id": 6, "bbox": [80, 20, 30, 40]},
        {"id": 7, "bbox": [1, 2, 3]},
        {"id": 8, "image_id": 9},
        {},
        {"id": None},
    ):
        value["annotations"].append(good | change)
    with pytest.raises(DataError) as caught:
        open_data(write_ms_cxr(tmp_path / "ms.json", value))
    found = [problem.removeprefix(f"{tmp_path}/ms.json: ") for problem in caught.value.problems]
    assert found == [
        "images[2]: id 7 stands there twice",
        "images[4]: expected an object with an id",
        "annotations[3]: image_id 99 or category_id 1 is not in the file",
        "annotations[4]: has no label_text",
        "annotations[5]: bbox [80, 20, 30, 40] is empty or leaves its image of 100 x 80 pixels",
        "annotations[6]: bbox [1, 2, 3] is not [x, y, width, height], or its image has no width and height",
        "annotations[7]: image 9: path 'aaa.jpg' is not files/pXX/pSUBJECT/sSTUDY/DICOM_ID.jpg",
        "annotations[8]: id 1 stands there twice",
        "annotations[9]: expected an object with an id",
    ]


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^\S+ms\.json: lists no annotations$"):
        open_data(write_ms_cxr(tmp_path / "ms.json", content() | {"annotations": []}))
    with pytest.raises(DataError, match=r"nor MS-CXR \(keys images, annotations, categories\); it has images$"):
        open_data(write_ms_cxr(tmp_path / "ms.json", {"images": []}))
