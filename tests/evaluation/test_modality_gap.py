"""The gap between modalities, and triplets of captions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medcl.evaluation.modality_gap import modality_gap
from medcl.evaluation.triplets import score_triplets, triplet_hits


def rows(seed: int, count: int = 60, width: int = 6) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_identical_modalities_have_no_gap() -> None:
    found = modality_gap(rows(0), 3 * rows(0))
    assert found.centroid_distance == pytest.approx(0)
    assert found.centroid_cosine == pytest.approx(1)
    assert found.paired_cosine == pytest.approx(1)
    assert found.first_cosine == pytest.approx(found.second_cosine)
    assert found.separability is not None
    assert found.separability.mean == 0.5
    assert found.separability.subjects == 12


def test_the_numbers_equal_their_definitions() -> None:
    x, y = (torch.nn.functional.normalize(rows(seed) + 0.5, dim=1) for seed in (1, 2))
    found = modality_gap(2 * x, y)
    off = ~torch.eye(60, dtype=torch.bool)
    assert found.centroid_distance == pytest.approx(float((x.mean(0) - y.mean(0)).norm()))
    assert found.centroid_cosine == pytest.approx(float(torch.cosine_similarity(x.mean(0), y.mean(0), dim=0)))
    assert found.paired_cosine == pytest.approx(float((x * y).sum(1).mean()))
    assert found.first_cosine == pytest.approx(float((x @ x.T)[off].mean()))
    assert found.second_cosine == pytest.approx(float((y @ y.T)[off].mean()))


def test_a_shift_is_seen_and_one_rotation_of_both_is_not() -> None:
    shift = torch.tensor([4.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    found = modality_gap(rows(1) + shift, rows(2) - shift)
    assert found.separability is not None
    assert found.separability.mean == 1
    rotation = torch.linalg.qr(rows(3, 6)).Q
    turned = modality_gap((rows(1) + shift) @ rotation, (rows(2) - shift) @ rotation)
    assert turned.centroid_distance == pytest.approx(found.centroid_distance)
    assert turned.paired_cosine == pytest.approx(found.paired_cosine)


def test_subjects_are_on_one_side_and_enough_of_them() -> None:
    few = modality_gap(rows(1), rows(2), subjects=np.arange(60) % 4)
    assert few.separability is None
    ten = modality_gap(rows(1), rows(2), subjects=np.arange(60) % 10)
    assert ten.separability is not None
    assert (ten.separability.subjects, ten.separability.cases) == (2, 24)
    assert modality_gap(rows(1), rows(2), seed=3) == modality_gap(rows(1), rows(2), seed=3)
    with pytest.raises(ValueError, match="60 pairs but 2 subjects"):
        modality_gap(rows(1), rows(2), subjects=["a", "b"])
    with pytest.raises(ValueError, match="at least two rows"):
        modality_gap(rows(1, 1), rows(2, 1))


def test_a_triplet_needs_both_captions() -> None:
    angles = torch.tensor([[0.0, 0.2, -0.2, 0.5], [0.0, 0.2, 0.6, 0.5], [0.0, 0.2, -0.3, 0.31]])
    image, caption, paraphrase, wrong = torch.stack([angles.cos(), angles.sin()], -1).unbind(1)
    hits = triplet_hits(image, 2 * caption, paraphrase, wrong)
    # third: the image is nearer to both captions, yet the captions are further apart than one is from the wrong one
    assert hits.image_to_text.tolist() == [True, False, True]
    assert hits.text_only.tolist() == [False, False, False]
    near = triplet_hits(image, caption, caption, wrong)
    assert near.text_only.all()


def test_equal_captions_are_a_miss_and_kinds_are_told_apart() -> None:
    caption, wrong = torch.eye(2)
    image = torch.stack([caption, wrong, caption, caption])
    captions, negatives = caption.expand(4, 2), torch.stack([wrong, wrong, caption, wrong])
    hits = triplet_hits(image, captions, captions, negatives)
    assert hits.image_to_text.tolist() == [True, False, False, True]
    assert hits.text_only.tolist() == [True, True, False, True]
    scores = score_triplets(hits, ["side", "side", "negation", "side"], ["a", "b", "c", "a"])
    assert scores.image_to_text.mean == 0.5
    assert scores.image_to_text_by_kind["side"].mean == pytest.approx(2 / 3)
    assert scores.text_only_by_kind["negation"].mean == 0
    assert scores.image_to_text_by_kind["side"].subjects == 2
    assert math.isnan(scores.text_only_by_kind["negation"].low)


def test_triplets_that_do_not_fit_are_refused() -> None:
    caption = torch.eye(2)
    with pytest.raises(ValueError, match=r"all four are one \(N, D\)"):
        triplet_hits(caption, caption, caption, caption[:1])
    with pytest.raises(ValueError, match="2 triplets, 1 kinds"):
        score_triplets(triplet_hits(caption, caption, caption, caption), ["side"])
