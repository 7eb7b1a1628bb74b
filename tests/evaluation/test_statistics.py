"""Intervals, permutation tests and study bootstraps: closed forms, plain-loop references, coverage."""

from itertools import product

import numpy as np
import pytest

from medcl.evaluation.statistics import bootstrap_mean, hierarchical_bootstrap, paired_difference


def test_mean_leaves_out_what_has_no_value_and_counts() -> None:
    found = bootstrap_mean([0.5, np.nan, 0.9, 0.7], ["a", "a", "b", "b"])
    assert found.mean == pytest.approx(0.7)
    assert (found.cases, found.subjects) == (3, 2)
    assert found.low <= found.mean <= found.high


def test_no_interval_from_one_subject_and_no_mean_from_none() -> None:
    one = bootstrap_mean([0.5, 0.7], ["a", "a"])
    assert one.mean == pytest.approx(0.6)
    assert np.isnan(one.low)
    assert np.isnan(one.high)
    assert np.isnan(bootstrap_mean([np.nan]).mean)
    assert bootstrap_mean([]).cases == 0


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_repeating_every_case_of_a_subject_does_not_narrow_the_interval() -> None:
    values = np.random.default_rng(1).normal(size=20)
    once = bootstrap_mean(values)
    copied = bootstrap_mean(np.repeat(values, 5), np.repeat([f"s{i:02d}" for i in range(20)], 5))
    assert (copied.low, copied.high) == (pytest.approx(once.low), pytest.approx(once.high))
    naive = bootstrap_mean(np.repeat(values, 5))
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        found = bootstrap_mean(rng.normal(0.3, 1.0, size=40), resamples=500, seed=trial)
        hits += found.low <= 0.3 <= found.high
    assert 0.90 < hits / 300 < 0.98


def test_exact_sign_flip_p_equals_enumeration() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.4, 1, 9), rng.normal(0, 1, 9)
    differences = a - b
    sums = np.array([np.dot(signs, differences) for signs in product((-1, 1), repeat=9)])
    expected = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12)
    assert paired_difference(a, b).p == pytest.approx(expected)


def test_p_values_of_no_difference_are_uniform_and_of_a_large_one_small() -> None:
    rng = np.random.default_rng(4)
    ps = [paired_difference(rng.normal(size=25), rng.normal(size=25), resamples=400, seed=i).p for i in range(200)]
    assert 0.01 <= np.mean(np.array(ps) < 0.05) <= 0.10
    a = rng.normal(size=40)
    found = paired_difference(a + 1 + 0.1 * rng.normal(size=40), a, resamples=1999)
    assert found.p == pytest.approx(2 / 2000)
    assert found.low > 0.9


def test_p_flips_subjects_not_cases() -> None:
    copied = paired_difference(np.repeat([1.0, 2.0, 3.0], 10), np.zeros(30), np.repeat([0, 1, 2], 10))
    assert copied.p == pytest.approx(0.25)  # 2 of the 8 patterns of three subjects


def test_swapping_sides_changes_signs_only() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 9))
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.mean == -back.mean
    assert there.p == back.p


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="same cases"):
        paired_difference([1.0, 2.0], [1.0])


def _table(values: np.ndarray) -> dict[str, np.ndarray]:
    """A tidy table of ``values (subsets, seeds, cases)``."""
    subset, seed, case = (axis.ravel() for axis in np.indices(values.shape))
    return {"subset": subset, "seed_of_run": seed, "case": case, "difference": values.ravel()}


def _plain_hierarchical(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Redraw subsets, within each its seeds, and cases once for all cells: three loops."""
    subsets, seeds, cases = values.shape
    means = []
    for _ in range(resamples):
        chosen_cases = rng.integers(cases, size=cases)
        cells = []
        for subset in rng.integers(subsets, size=subsets):
            cells += [values[subset, seed, chosen_cases].mean() for seed in rng.integers(seeds, size=seeds)]
        means.append(np.mean(cells))
    return np.array(means)


def test_study_interval_equals_the_plain_loops() -> None:
    rng = np.random.default_rng(6)
    values = (
        0.2
        + rng.normal(size=(5, 1, 1))
        + 0.5 * rng.normal(size=(5, 3, 1))
        + 0.7 * rng.normal(size=(1, 1, 12))
        + 0.1 * rng.normal(size=(5, 3, 12))
    )
    found = hierarchical_bootstrap(**_table(values), resamples=4000)
    low, high = np.percentile(_plain_hierarchical(values, 4000, rng), [2.5, 97.5])
    width = high - low
    assert found.mean == pytest.approx(values.mean())
    assert found.sd == pytest.approx(values.mean(2).ravel().std(ddof=1))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.06 * width), pytest.approx(high, abs=0.06 * width))
    assert (found.subsets, found.cells, found.cases) == (("0", "1", "2", "3", "4"), 15, 12)


def test_study_with_one_cell_is_a_bootstrap_over_cases() -> None:
    values = np.random.default_rng(7).normal(size=(1, 1, 25))
    study, plain = (
        hierarchical_bootstrap(**_table(values), resamples=5000),
        bootstrap_mean(values.ravel(), resamples=5000),
    )
    assert study.mean == pytest.approx(plain.mean)
    assert (study.low, study.high) == (pytest.approx(plain.low, abs=0.03), pytest.approx(plain.high, abs=0.03))
    assert np.isnan(study.sd)


def test_study_does_not_depend_on_row_order_and_skips_missing() -> None:
    values = np.random.default_rng(8).normal(size=(3, 2, 10))
    values[1, 0, 4] = np.nan
    table = _table(values)
    order = np.random.default_rng(9).permutation(values.size)
    shuffled = {name: column[order] for name, column in table.items()}
    found = hierarchical_bootstrap(**table)
    assert found == hierarchical_bootstrap(**shuffled)
    assert found.mean == pytest.approx(np.nanmean(values, axis=2).mean())
