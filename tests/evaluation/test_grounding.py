"""Phrases and their boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medcl.evaluation.grounding import box_mask, in_image, score_phrase, score_phrases, similarity_map, smoothed


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 2)])
def test_a_map_holds_the_cosine_of_every_site(shape: tuple[int, ...]) -> None:
    patches, text = torch.randn(6, *shape), torch.randn(6)
    found = similarity_map(5 * patches, 2 * text)
    assert found.shape == shape
    site = tuple(n - 1 for n in shape)
    torch.testing.assert_close(found[site], torch.cosine_similarity(patches[(slice(None), *site)], text, dim=0))


def test_smoothing_keeps_the_mean_and_a_constant() -> None:
    similarity = np.random.default_rng(0).normal(size=(9, 7))
    assert smoothed(similarity).mean() == pytest.approx(similarity.mean())
    assert smoothed(similarity).std() < similarity.std()
    np.testing.assert_allclose(smoothed(np.full((4, 4), 0.3)), 0.3)


def test_a_map_is_placed_where_the_crop_was() -> None:
    similarity = np.arange(6.0).reshape(2, 3)
    placed = in_image(similarity, (1, 2), (5, 8), (6, 10))
    assert np.isnan(placed[0]).all()
    assert np.isnan(placed[5]).all()
    assert np.isnan(placed[:, :2]).all()
    assert np.isnan(placed[:, 8:]).all()
    np.testing.assert_array_equal(placed[1:5, 2:8], similarity.repeat(2, 0).repeat(2, 1))


def test_a_crop_may_reach_beyond_the_image_and_lie_between_pixels() -> None:
    placed = in_image(np.arange(4.0), (-2.5,), (5.5,), (8,))
    np.testing.assert_array_equal(placed, [1, 2, 2, 3, 3, np.nan, np.nan, np.nan])


def test_several_boxes_are_their_union() -> None:
    boxes = [[[0, 0], [2, 3]], [[1, 1], [3, 4]]]
    mask = box_mask(boxes, (4, 5))
    expected = np.zeros((4, 5), dtype=bool)
    expected[0:2, 0:3] = expected[1:3, 1:4] = True
    np.testing.assert_array_equal(mask, expected)
    assert box_mask([[[0, 0, 0], [1, 2, 2]]], (2, 2, 2)).sum() == 4
    assert not box_mask([], (2, 2)).any()


def test_contrast_has_a_sign() -> None:
    values = np.array([[1.0, 3.0], [-1.0, 1.0]])
    mask = np.array([[True, True], [False, False]])
    score = score_phrase(values, mask)
    assert score.cnr_signed == pytest.approx(2 / math.sqrt(2))
    assert score_phrase(values, ~mask).cnr_signed == pytest.approx(-score.cnr_signed)
    assert score_phrase(values, ~mask).cnr == pytest.approx(score.cnr)


def test_a_map_that_is_the_box_is_perfect() -> None:
    mask = box_mask([[[1, 1], [3, 3]]], (5, 5))
    score = score_phrase(mask.astype(float), mask)
    assert score.miou == 1
    assert score.cnr == math.inf
    flat = score_phrase(np.full((5, 5), 0.2), mask)
    assert flat.cnr == flat.cnr_signed == 0
    np.testing.assert_allclose(flat.iou, [4 / 25, 0, 0, 0, 0])  # above means above: 0.2 is not over 0.2


def test_pixels_outside_the_crop_take_no_part() -> None:
    rng = np.random.default_rng(1)
    values, mask = rng.normal(size=(6, 6)), box_mask([[[1, 2], [4, 5]]], (6, 6))
    cut = values.copy()
    cut[:2] = np.nan
    whole, part = score_phrase(cut, mask), score_phrase(values[2:], mask[2:])
    assert whole.cnr_signed == part.cnr_signed
    np.testing.assert_array_equal(whole.iou, part.iou)


def test_a_box_outside_the_crop_is_nan_and_counted() -> None:
    values = np.random.default_rng(2).normal(size=(4, 4))
    values[:2] = np.nan
    hidden = score_phrase(values, box_mask([[[0, 0], [2, 2]]], (4, 4)))
    assert math.isnan(hidden.cnr)
    assert math.isnan(hidden.miou)
    shown = score_phrase(values, box_mask([[[2, 0], [3, 2]]], (4, 4)))
    scores = score_phrases([hidden, shown], ["a", "b"])
    assert scores.without_value == 1
    assert scores.cnr_signed.mean == shown.cnr_signed
    assert scores.miou.cases == 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(D, \*S\)"):
        similarity_map(torch.randn(5, 4, 4), torch.randn(6))
    with pytest.raises(ValueError, match="one boolean mask"):
        score_phrase(np.zeros((3, 3)), np.zeros((3, 4), dtype=bool))
    with pytest.raises(ValueError, match="does not hold a map"):
        in_image(np.zeros((3, 3)), (0, 2), (2, 2), (4, 4))
