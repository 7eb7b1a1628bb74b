"""The rules that choose records: exact optimum, plain loops, subjects, what is labelled already."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

import medcl.evaluation.selection as selection
from medcl.evaluation.selection import Pool, choose, coverage, nearest_of, random_coverages
from medcl.objectives.clusters import kmeans

RULES = tuple(selection.RULES)


def cloud(rows: int, *, seed: int = 0, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)) * [3, 1, 1][:width]


def pool_of(features: np.ndarray, count: int, **more: object) -> Pool:
    subjects = more.pop("subjects", np.arange(len(features)))
    return Pool(features, np.asarray(subjects), count, **more)  # type: ignore[arg-type]


def mean_distance(features: np.ndarray, labelled: tuple[int, ...]) -> float:
    """Plain loops: of the rows that are not labelled to the nearest that is."""
    total = 0.0
    for row in range(len(features)):
        total += min(float(np.linalg.norm(features[row] - features[one])) for one in labelled)
    return total


def best(features: np.ndarray, count: int, already: tuple[int, ...], subjects: np.ndarray) -> float:
    """The least of all choices of different, new subjects."""
    free = [row for row in range(len(features)) if subjects[row] not in subjects[list(already)]]
    allowed = [some for some in combinations(free, count) if len(set(subjects[list(some)])) == count]
    return min(mean_distance(features, (*already, *some)) for some in allowed)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("already", [(), (4,), (1, 7)])
def test_k_medoids_is_the_optimum(count: int, already: tuple[int, ...]) -> None:
    features = cloud(13, seed=count)
    subjects = np.array([0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9])
    chosen = choose("k_medoids", pool_of(features, count, already=already, subjects=subjects))
    assert mean_distance(features, (*already, *chosen)) == pytest.approx(best(features, count, already, subjects))


@pytest.mark.parametrize("seed", range(5))
def test_swaps_come_near_the_optimum_and_no_swap_helps(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, subjects = cloud(14, seed=seed), np.repeat(np.arange(7), 2)
    monkeypatch.setattr(selection, "EXACT_WORK", 0)
    chosen = choose("k_medoids", pool_of(features, 3, subjects=subjects))
    reached = mean_distance(features, tuple(chosen))
    assert len(set(subjects[chosen])) == 3
    for place in range(3):
        others = chosen[:place] + chosen[place + 1 :]
        for row in range(14):
            if subjects[row] not in subjects[others]:
                assert mean_distance(features, (*others, row)) >= reached - 1e-9
    assert reached <= 1.15 * best(features, 3, (), subjects)


def test_the_first_medoid_alone_serves_best() -> None:
    features = cloud(20)
    chosen = choose("k_medoids", pool_of(features, 3))
    assert min(chosen, key=lambda row: mean_distance(features, (row,))) == chosen[0]


@pytest.mark.parametrize("already", [(), (3, 11)])
def test_coreset_is_greedy_k_centre(already: tuple[int, ...]) -> None:
    features = cloud(25, seed=3)
    expected = list(already)
    if not already:
        expected = [min(range(25), key=lambda row: mean_distance(features, (row,)))]
    while len(expected) < len(already) + 4:
        gaps = [min(np.linalg.norm(features[row] - features[one]) for one in expected) for row in range(25)]
        expected.append(int(np.argmax(gaps)))
    assert choose("coreset", pool_of(features, 4, already=already)) == expected[len(already) :]


def test_typiclust_takes_the_typical_of_the_largest_clusters_without_a_label() -> None:
    """Clusters of 30, 12 and 8 far apart; the largest one has a label, so that the other two are asked for, larger first."""
    import torch

    draw = np.random.default_rng(0)
    sizes, centres = (30, 12, 8), ([0, 0], [40, 0], [0, 40])
    features = np.concatenate([draw.normal(size=(n, 2)) + at for n, at in zip(sizes, centres, strict=True)])
    for seed in range(20):  # k-means finds the three for most seeds
        found = kmeans(torch.from_numpy(features), 3, seed=seed)[0].numpy()
        if sorted(np.bincount(found)) == sorted(sizes):
            break
    chosen = choose("typiclust", pool_of(features, 2, already=(0,), seed=seed))
    expected = []
    for first, last in ((30, 42), (42, 50)):
        typical = {}
        for row in range(first, last):
            near = sorted(np.linalg.norm(features[row] - features[o]) for o in range(first, last) if o != row)[:20]
            typical[row] = 1 / np.mean(near)
        expected.append(max(typical, key=lambda row: typical[row]))
    assert chosen == expected


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_repeatable_and_keeps_to_the_pool(rule: str) -> None:
    features, subjects = cloud(30), np.repeat(np.arange(15), 2)
    one = pool_of(features, 5, already=(2, 8), subjects=subjects, seed=3)
    chosen = choose(rule, one)  # type: ignore[arg-type]
    assert chosen == choose(rule, one)  # type: ignore[arg-type]
    assert len(chosen) == 5
    named = [*chosen, 2, 8]
    assert len(set(subjects[named])) == 7, "two records of one subject"


@pytest.mark.parametrize("rule", RULES)
def test_subjects_repeat_only_where_there_are_too_few(rule: str) -> None:
    features, subjects = cloud(8), np.array([0, 0, 0, 1, 1, 1, 2, 2])
    three = choose(rule, pool_of(features, 3, subjects=subjects))  # type: ignore[arg-type]
    assert sorted(subjects[three]) == [0, 1, 2]
    known = choose(rule, pool_of(features, 3, already=(0,), subjects=subjects))  # type: ignore[arg-type]
    assert sorted(subjects[known]) == [0, 1, 2], "a labelled subject again, before one twice"
    assert 0 not in known
    all_of_them = choose(rule, pool_of(features, 7, already=(5,), subjects=subjects))  # type: ignore[arg-type]
    assert sorted(all_of_them) == [0, 1, 2, 3, 4, 6, 7]


def test_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot choose 4 of 3"):
        pool_of(cloud(5), 4, already=(0, 1))


def test_coverage_is_the_mean_distance_of_the_unlabelled() -> None:
    features = cloud(12)
    pool = pool_of(features, 2, already=(5,))
    assert coverage(pool, [1, 9]) == pytest.approx(mean_distance(features, (5, 1, 9)) / 11)
    place, distance = nearest_of(features, [1, 9])
    assert (place[1], place[9]) == (0, 1)
    assert distance.mean() * 12 == pytest.approx(mean_distance(features, (1, 9)))


def test_equal_rows_stand_for_themselves() -> None:
    place, distance = nearest_of(np.zeros((4, 2)), [2, 3])
    assert place.tolist() == [0, 0, 0, 1]
    assert distance.tolist() == [0, 0, 0, 0]


def test_random_coverages_are_those_of_random_choices() -> None:
    """Of all 66 pairs each as often as the others: their mean is that of the enumeration."""
    features = cloud(12)
    pool = pool_of(features, 2)
    every = [coverage(pool, some) for some in combinations(range(12), 2)]
    found = random_coverages(pool, 4000)
    assert found.min() == pytest.approx(min(every))
    assert found.mean() == pytest.approx(np.mean(every), rel=0.02)
    assert np.isclose(found[:, None], every).any(1).all()
