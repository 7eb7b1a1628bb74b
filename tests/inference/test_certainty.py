"""How sure a prediction is, from its probabilities alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import entropy

from medcl.inference.certainty import ExpectedDice, with_entropy
from medcl.inference.sliding import mean_slabs
from medcl.preparation.restore import Slab


def slabs(scores: np.ndarray, *cuts: int) -> Iterator[Slab]:
    for start, stop in zip((0, *cuts), (*cuts, scores.shape[1]), strict=True):
        yield Slab(0, start, scores[:, start:stop])


def drawn(seed: int, classes: int = 4) -> np.ndarray:
    found = np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), (12, 7, 5))
    return np.moveaxis(found, -1, 0).astype(np.float32)


def expected_dice(scores: np.ndarray, *cuts: int) -> np.ndarray:
    expected = ExpectedDice()
    seen = list(expected.watching(slabs(scores, *cuts)))
    assert [slab.start for slab in seen] == [0, *cuts]
    return expected.values


def test_expected_dice_is_that_of_the_mask_against_its_probabilities() -> None:
    scores = drawn(0)
    mask = scores.argmax(0)
    for label, found in enumerate(expected_dice(scores), 1):
        inside = (mask == label).astype(float)
        assert found == pytest.approx(
            2 * (inside * scores[label]).sum() / (inside.sum() + scores[label].sum()), abs=1e-6
        )
    np.testing.assert_allclose(expected_dice(scores, 3, 4, 11), expected_dice(scores))


def test_it_is_one_where_all_is_sure_falls_with_doubt_and_is_not_a_number_for_what_is_absent() -> None:
    sure = (np.arange(3)[:, None, None, None] == np.arange(2)[None, :, None, None]).astype(np.float32) * np.ones(
        (1, 2, 3, 3), np.float32
    )
    found = expected_dice(sure)
    assert found[0] == 1
    assert np.isnan(found[1]), "the last class has no voxel"
    doubtful = 0.7 * sure + 0.1
    assert expected_dice(doubtful)[0] < 0.85
    with pytest.raises(ValueError, match="no slab"):
        _ = ExpectedDice().values


def test_entropy_is_scaled_to_the_number_of_classes() -> None:
    scores = drawn(1)
    scores[:, 0, 0, 0] = [0, 1, 0, 0]
    scores[:, 0, 0, 1] = 0.25
    found = np.concatenate([slab.maps for slab in with_entropy(slabs(scores, 5))], 1)
    np.testing.assert_allclose(found[0], entropy(scores, axis=0) / np.log(4), atol=1e-5)
    assert found[0, 0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert found[0, 0, 0, 1] == pytest.approx(1)


def test_members_that_disagree_show_a_variance() -> None:
    members = [drawn(2), drawn(3), drawn(4)]
    cut = [slabs(members[0], 4), slabs(members[1], 4, 9), slabs(members[2])]
    found = list(with_entropy(mean_slabs(cut, variance=True)))
    mean = np.concatenate([slab.scores for slab in found], 1)
    np.testing.assert_allclose(mean, np.mean(members, 0), atol=1e-6)
    maps = np.concatenate([slab.maps for slab in found], 1)
    np.testing.assert_allclose(maps[1], np.var(members, axis=0).sum(0), atol=1e-6)
    np.testing.assert_allclose(maps[0], entropy(mean, axis=0) / np.log(4), atol=1e-5)
    alike = [slabs(members[0]), slabs(members[0])]
    assert max(slab.maps.max() for slab in mean_slabs(alike, variance=True)) < 1e-12
