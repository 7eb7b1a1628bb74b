"""Diagnostics of a representation: closed forms, invariances, streaming, patients kept apart."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medcl.errors import DataError
from medcl.evaluation.geometry import GroupSums, PairSums, alignment, centroid_gap, tolerance, uniformity
from medcl.evaluation.neighbours import nearest, negatives_report
from medcl.evaluation.representation import Diagnosis, diagnose, subsample
from medcl.evaluation.spectrum import Moments, Scatter, lidar, spectrum
from medcl.evaluation.sums import Sums
from medcl.evaluation.temperatures import temperature_report

RANKS = (
    *("rankme", "effective_rank", "stable_rank", "covariance_effective_rank", "participation_ratio"),
    *("collapsed_dims", "alpha_req"),
)


def _rows(count: int = 60, width: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows whose directions carry less and less, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, width + 1, dtype=torch.float64).pow(-0.8)
    return (torch.randn(count, width, generator=generator, dtype=torch.float64) * scale + 0.3).to(dtype)


def _labels(count: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def _rotation(width: int) -> Tensor:
    return torch.linalg.qr(_rows(width, width, seed=9)).Q


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


# Geometry


def test_geometry_equals_plain_loops() -> None:
    x, y, labels, subject = _rows(14, 5), _rows(14, 5, seed=1), _labels(14, 3), _labels(14, 6, seed=2)
    ux, uy = _unit(x), _unit(y)
    pairs = [(i, j) for i in range(14) for j in range(14) if i != j]
    exponentials = [math.exp(-3.0 * float((ux[i] - ux[j]).square().sum())) for i, j in pairs]
    assert float(uniformity(x, t=3.0)) == pytest.approx(math.log(np.mean(exponentials)))
    assert float(alignment(x, y, alpha=1.5)) == pytest.approx(
        np.mean([float((a - b).norm()) ** 1.5 for a, b in zip(ux, uy, strict=True)])
    )
    assert float(centroid_gap(x, y)) == pytest.approx(float((ux.mean(0) - uy.mean(0)).norm()))

    def cosines(chosen: list[tuple[int, int]]) -> list[float]:
        return [float(ux[i] @ ux[j]) for i, j in chosen if labels[i] == labels[j]]

    apart = [(i, j) for i, j in pairs if subject[i] != subject[j]]
    assert float(tolerance(x, labels)) == pytest.approx(np.mean(cosines(pairs)))
    assert float(tolerance(x, labels, form="joint")) == pytest.approx(sum(cosines(pairs)) / len(pairs))
    assert float(tolerance(x, labels, subject=subject)) == pytest.approx(np.mean(cosines(apart)))
    joint = tolerance(x, labels, subject=subject, form="joint")
    assert float(joint) == pytest.approx(sum(cosines(apart)) / len(apart))


def test_collapsed_rows() -> None:
    same = torch.ones(20, 6) * 0.3
    assert float(uniformity(same)) == pytest.approx(0.0, abs=1e-6)
    assert float(tolerance(same, _labels(20, 3))) == pytest.approx(1.0)
    assert float(alignment(same, same)) == 0
    found = spectrum(same)
    assert float(found.rankme()) == pytest.approx(1.0, abs=1e-4)
    assert float(found.effective_rank()) == pytest.approx(1.0)
    assert float(found.stable_rank()) == pytest.approx(1.0)
    assert found.collapsed_dims() == 6
    assert float(found.covariance_effective_rank()) == float(found.participation_ratio()) == 0


def test_rows_of_one_direction_have_rank_one() -> None:
    line = torch.linspace(-1, 2, 40)[:, None] * torch.tensor([1.0, -2.0, 0.5, 3.0])
    found = spectrum(line)
    for value in (found.effective_rank(), found.covariance_effective_rank(), found.participation_ratio()):
        assert float(value) == pytest.approx(1.0, abs=1e-6)
    assert found.collapsed_dims() == 3


def test_white_rows_have_full_rank_and_are_uniform() -> None:
    width = 64
    white = torch.cat([torch.eye(width), -torch.eye(width)]).double()
    found = spectrum(white)
    assert float(found.rankme()) == pytest.approx(width, rel=1e-3)
    for value in (found.effective_rank(), found.participation_ratio(), found.covariance_effective_rank()):
        assert float(value) == pytest.approx(width)
    assert float(found.stable_rank()) == pytest.approx(width)
    assert found.collapsed_dims() == 0
    many = torch.randn(2000, 512, generator=torch.Generator().manual_seed(0))
    assert float(uniformity(many)) == pytest.approx(-4.0, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 40), st.integers(2, 9), st.integers(0, 10_000))
def test_bounds(count: int, width: int, seed: int) -> None:
    rows, labels = _rows(count, width, seed), _labels(count, 2, seed)
    found = spectrum(rows)
    assert -8 - 1e-9 <= float(uniformity(rows)) <= 1e-9
    for value in (found.effective_rank(), found.stable_rank(), found.covariance_effective_rank()):
        assert 1 - 1e-9 <= float(value) <= min(count, width) + 1e-9
    assert 0 <= found.collapsed_dims() <= width
    close = float(tolerance(rows, labels))
    assert math.isnan(close) or -1 - 1e-9 <= close <= 1 + 1e-9
    assert 0 <= float(alignment(rows, rows.flip(0))) <= 4 + 1e-9
    # what the figure of the plane rests on (Jensen): the mean cosine is never above the line
    everything = float(tolerance(rows, torch.zeros_like(labels)))
    assert everything <= 1 + float(uniformity(rows)) / 4 + 1e-9


def test_rotation_changes_nothing() -> None:
    rows, other, labels = _rows(), _rows(seed=1), _labels(60, 3)
    turn = _rotation(12)
    turned = rows @ turn
    for measure in (uniformity, lambda r: tolerance(r, labels), lambda r: lidar(r.view(12, 5, 12))):
        torch.testing.assert_close(measure(turned), measure(rows))
    for pair in (alignment, centroid_gap):
        torch.testing.assert_close(pair(turned, other @ turn), pair(rows, other))
    for name in RANKS:
        assert float(getattr(spectrum(turned), name)()) == pytest.approx(float(getattr(spectrum(rows), name)()))


@pytest.mark.parametrize("factor", [1e-4, 37.0, 1e6])
def test_scale_changes_nothing(factor: float) -> None:
    rows, labels = _rows(), _labels(60, 3)
    for name in RANKS:
        assert float(getattr(spectrum(factor * rows), name)()) == pytest.approx(float(getattr(spectrum(rows), name)()))
    torch.testing.assert_close(uniformity(factor * rows), uniformity(rows))
    torch.testing.assert_close(tolerance(factor * rows, labels), tolerance(rows, labels))


def test_repeated_rows_leave_the_covariance_measures() -> None:
    rows = _rows()
    once, thrice = spectrum(rows), spectrum(rows.repeat(3, 1))
    torch.testing.assert_close(thrice.eigenvalues, once.eigenvalues)
    for name in RANKS[1:]:
        assert float(getattr(thrice, name)()) == pytest.approx(float(getattr(once, name)()))


def test_order_of_rows_changes_nothing() -> None:
    rows, labels = _rows(), _labels(60, 3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(uniformity(rows[order]), uniformity(rows))
    torch.testing.assert_close(tolerance(rows[order], labels[order]), tolerance(rows, labels))
    torch.testing.assert_close(spectrum(rows[order]).eigenvalues, spectrum(rows).eigenvalues)


@pytest.mark.parametrize("tile", [1, 7, 59, 60, 1000])
def test_tiles_are_not_seen(tile: int) -> None:
    rows, subject = _rows(), _labels(60, 9)
    torch.testing.assert_close(uniformity(rows, tile=tile), uniformity(rows, tile=60))
    one, other = (nearest(rows, rows, 6, query_subject=subject, bank_subject=subject, tile=size) for size in (tile, 60))
    assert torch.equal(one.index, other.index)
    torch.testing.assert_close(one.cosine, other.cosine)
    reports = [
        negatives_report(rows, record=torch.arange(60), subject=subject, labels=_labels(60, 2), tile=size)
        for size in (tile, 60)
    ]
    assert dataclasses.astuple(reports[0]) == pytest.approx(dataclasses.astuple(reports[1]))


def test_autocast_changes_nothing() -> None:
    cohort = {name: value.float() if value.is_floating_point() else value for name, value in _cohort().items()}
    plain = diagnose(**cohort)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert diagnose(**cohort) == plain


# Streaming


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=5), st.sampled_from([torch.float32, torch.float64]))
def test_any_split_adds_up_to_one_shot(cuts: list[int], dtype: torch.dtype) -> None:
    rows, other, labels = _rows(dtype=dtype), _rows(seed=1, dtype=dtype), _labels(60, 3)
    edges = [0, *sorted(cuts), 60]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]

    def summed(kind: type[Sums], *columns: Tensor, **options: int) -> Sums:
        first, *rest = (kind.of(*(column[part] for column in columns), **options) for part in parts)  # type: ignore[attr-defined]
        for more in rest:
            first = first + more
        return first

    pairs, groups = summed(PairSums, rows, other), summed(GroupSums, rows, labels, groups=3)
    assert isinstance(pairs, PairSums)
    assert isinstance(groups, GroupSums)
    tight = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(pairs.alignment(), alignment(rows, other), **tight)
    torch.testing.assert_close(pairs.centroid_gap(), centroid_gap(rows, other), **tight)
    torch.testing.assert_close(groups.tolerance(), tolerance(rows, labels), **tight)
    moments = summed(Moments, rows)
    assert isinstance(moments, Moments)
    one, streamed = spectrum(rows), moments.spectrum()
    torch.testing.assert_close(streamed.singular_values, one.singular_values, **tight)
    for name in RANKS:
        assert float(getattr(streamed, name)()) == pytest.approx(float(getattr(one, name)()), rel=1e-6)
    scatter = summed(Scatter, rows.view(60, 3, 4))
    assert isinstance(scatter, Scatter)
    torch.testing.assert_close(scatter.lidar(), lidar(rows.view(60, 3, 4)), **tight)


def test_processes_add_up() -> None:
    class Two:
        """As if another process held the same sums."""

        world = 2

        def rows(self, local: Tensor) -> tuple[Tensor, int]:
            return local, 0

        def total(self, local: Tensor) -> Tensor:
            return 2 * local

    rows = _rows()
    both = Scatter.of(rows.view(12, 5, 12)).over(Two())
    torch.testing.assert_close(both.within, 2 * Scatter.of(rows.view(12, 5, 12)).within)
    assert both.means.count == 24
    torch.testing.assert_close(Moments.of(rows).over(Two()).spectrum().eigenvalues, spectrum(rows).eigenvalues)


# Spectrum


def test_spectrum_equals_singular_values_and_covariance() -> None:
    for count, width in ((60, 12), (7, 20)):
        rows = _rows(count, width)
        found = spectrum(rows)
        expected = torch.linalg.svdvals(rows)
        torch.testing.assert_close(found.singular_values, expected, rtol=1e-6, atol=1e-8)
        cov = torch.from_numpy(np.cov(rows.numpy().T, bias=True))
        torch.testing.assert_close(found.eigenvalues, torch.linalg.eigvalsh(cov).flip(0).clamp_min(0))


def test_a_power_law_is_found() -> None:
    for exponent in (0.5, 1.0, 1.7):
        scale = torch.arange(1, 41, dtype=torch.float64).pow(-exponent / 2)
        rows = torch.cat([torch.eye(40), -torch.eye(40)]).double() * scale
        found = spectrum(rows)
        assert float(found.alpha_req()) == pytest.approx(exponent)
        assert float(found.alpha_req(0, 3)) == pytest.approx(exponent)


def test_a_power_law_needs_points() -> None:
    with pytest.raises(ValueError, match="only 7 eigenvalues"):
        spectrum(_rows(60, 7)).alpha_req()
    with pytest.raises(ValueError, match="no range"):
        spectrum(_rows(60, 12)).alpha_req(2, 13)
    assert math.isfinite(float(spectrum(_rows(60, 8)).alpha_req()))


def test_lidar_finds_the_directions_that_tell_samples_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(80, 10, dtype=torch.float64)
    means[:, :3] = 5 * torch.randn(80, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(80, 12, 10, generator=generator, dtype=torch.float64)
    assert 2.7 < float(lidar(means[:, None] + 0.1 * noise)) < 3.1
    assert float(lidar(0.1 * noise)) > 8


def test_lidar_of_groups_equals_lidar_of_views_and_takes_any_sizes() -> None:
    views = _rows(60, 12).view(12, 5, 12)
    groups = torch.arange(12).repeat_interleave(5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = Scatter.of_groups(views.flatten(0, 1)[order], groups[order])
    torch.testing.assert_close(shuffled.lidar(), lidar(views))
    uneven = Scatter.of_groups(_rows(60, 4), _labels(60, 9))
    assert 1 <= float(uneven.lidar()) <= 4
    for wrong in (Scatter.of(views[:1]), Scatter.of(views[:, :1])):
        with pytest.raises(ValueError, match="two groups"):
            wrong.lidar()


# Neighbours


def test_nearest_equals_a_full_sort_and_never_crosses_patients() -> None:
    query, bank = _rows(15, 6), _rows(40, 6, seed=1)
    ours, theirs = _labels(15, 5), _labels(40, 5, seed=1)
    found = nearest(query, bank, 8, query_subject=ours, bank_subject=theirs, tile=9)
    cosine = (_unit(query) @ _unit(bank).T).masked_fill(ours[:, None] == theirs[None], -torch.inf)
    values, order = cosine.sort(dim=1, descending=True)
    assert torch.equal(found.index, order[:, :8])
    torch.testing.assert_close(found.cosine, values[:, :8])
    assert not (theirs[found.index] == ours[:, None]).any()


def test_a_patients_own_scans_would_give_the_answer_away() -> None:
    """Every patient has a label of its own and rows close together: only other patients may vote."""
    centres = _rows(10, 6).repeat_interleave(4, 0)
    rows = centres + 1e-3 * _rows(40, 6, seed=1)
    subject = torch.arange(10).repeat_interleave(4)
    leaking = nearest(rows, rows, 3).class_scores(subject).argmax(1)
    honest = nearest(rows, rows, 3, query_subject=subject, bank_subject=subject).class_scores(subject).argmax(1)
    assert (leaking == subject).all()
    assert not (honest == subject).any()


def test_neighbours_run_out() -> None:
    rows, subject = _rows(4, 3), torch.tensor([0, 0, 0, 1])
    found = nearest(rows, rows, 3, query_subject=subject, bank_subject=subject)
    assert (found.index >= 0).sum(1).tolist() == [1, 1, 1, 3]
    scores = found.class_scores(torch.tensor([0, 0, 1, 1]))
    assert (scores[:3, 0] == 0).all()
    assert nearest(rows, rows, 50).index.shape == (4, 4)
    with pytest.raises(ValueError, match="both sides"):
        nearest(rows, rows, 1, query_subject=subject)


def test_votes_means_and_unknown_targets() -> None:
    bank = torch.eye(3)
    found = nearest(torch.tensor([[1.0, 1.0, 0.0]]), bank, 2)
    targets = torch.tensor([[1.0, 4.0], [0.0, 2.0], [9.0, 9.0]])
    torch.testing.assert_close(found.weighted_mean(targets), torch.tensor([[0.5, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(found.weighted_mean(targets[:, 1]), torch.tensor([3.0], dtype=torch.float64))
    partly = torch.tensor([[math.nan, math.nan], [0.25, math.nan], [9.0, 9.0]])
    mean = found.weighted_mean(partly)
    assert mean[0, 0] == 0.25
    assert mean[0, 1].isnan()
    with pytest.raises(ValueError, match="overflow"):
        found.class_scores(torch.arange(3), temperature=1e-3)


def test_negatives_of_equal_and_of_grouped_rows() -> None:
    record = torch.arange(30)
    flat = negatives_report(torch.ones(30, 4), record=record, subject=record)
    assert flat.count == 29
    assert flat.effective == pytest.approx(29)
    assert flat.same_subject == 0
    subject = torch.arange(15).repeat_interleave(
        2
    )  # two scans a patient, nearly equal: the hardest negative is the other
    rows = _rows(15, 8).repeat_interleave(2, 0) + 1e-4 * _rows(30, 8, seed=1)
    labels = subject % 3
    found = negatives_report(rows, record=record, subject=subject, labels=labels, temperature=0.05)
    assert found.same_subject == found.same_label == 1
    assert found.same_subject_expected == pytest.approx(1 / 29)
    assert found.same_label_expected == pytest.approx(9 / 29)
    assert 1 <= found.effective <= 29
    with pytest.raises(ValueError, match="one record"):
        negatives_report(rows, record=torch.zeros(30), subject=subject)


def test_temperatures_by_class() -> None:
    frequent, rare = temperature_report(torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.tensor([2, 2, 2, 0]))
    assert (frequent.label, frequent.records, frequent.quantiles[2]) == (2, 3, pytest.approx(0.2))
    assert (rare.label, rare.records, rare.quantiles) == (0, 1, pytest.approx((0.9,) * 5))


# All of it


def _cohort() -> dict[str, Tensor]:
    """Twenty patients of three scans; the class moves rows, the patient moves them more, the site does nothing."""
    subject = torch.arange(20).repeat_interleave(3)
    labels, site = subject % 2, (subject // 2) % 2
    centre = _rows(2, 16, seed=5)[labels] * 2 + _rows(20, 16, seed=6)[subject]
    features = centre + 0.1 * torch.randn(60, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return {"features": features, "record": torch.arange(60), "subject": subject, "labels": labels, "site": site}


def test_diagnosis_says_everything_and_keeps_it(tmp_path: Path) -> None:
    cohort = _cohort()
    views = torch.stack([cohort["features"], cohort["features"] + 0.01 * _rows(60, 16, seed=8)])
    found = diagnose(**cohort, views=views)
    assert set(found.numbers) >= {
        *("uniformity", "mean_cosine", "tolerance", "site_tolerance", "alignment", "lidar", "subject_lidar"),
        *("knn", "knn_chance", "site_knn", "effective_negatives", "negatives", "hard_same_subject", "hard_same_label"),
        *RANKS,
    }
    assert found.numbers["tolerance"] > found.numbers["mean_cosine"] > found.numbers["site_tolerance"] - 0.1
    assert found.numbers["knn"] > 0.8
    assert found.numbers["site_knn"] < 0.75
    assert found.numbers["hard_same_subject"] == 1
    assert len(found.eigenvalues) == 16
    subject = cohort["subject"].tolist()
    assert len({subject[shown.row] for shown in found.neighbours}) == len(found.neighbours) == 6
    for shown in found.neighbours:
        assert len(shown.nearest) == 5
        assert subject[shown.row] not in {subject[row] for row in shown.nearest}
        assert list(shown.cosine) == sorted(shown.cosine, reverse=True)
    found.write(tmp_path / "representation.json")
    assert Diagnosis.read(tmp_path / "representation.json") == found
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(DataError, match="not the diagnosis"):
        Diagnosis.read(tmp_path / "other.json")


def test_diagnosis_does_with_what_there_is() -> None:
    rows = _rows(3, 5)
    least = diagnose(rows, record=torch.zeros(3, dtype=torch.long), subject=torch.zeros(3, dtype=torch.long))
    assert {"uniformity", "rankme"} <= set(least.numbers)
    assert "alpha_req" not in least.numbers
    assert least.neighbours == ()
    cohort = _cohort()
    partly = torch.where(torch.arange(60) < 6, -1, cohort["labels"])
    assert "tolerance" in diagnose(**{**cohort, "labels": partly}).numbers
    assert "tolerance" not in diagnose(**{**cohort, "labels": torch.full((60,), -1)}).numbers
    collapsed = diagnose(torch.ones(60, 16), record=cohort["record"], subject=cohort["subject"])
    assert collapsed.numbers["collapsed_dims"] == 16
    with pytest.raises(ValueError, match="not two or more"):
        diagnose(rows, record=torch.arange(3), subject=torch.arange(3), views=rows[None])
    with pytest.raises(ValueError, match="not finite"):
        diagnose(rows * math.nan, record=torch.arange(3), subject=torch.arange(3))


def test_thinning_is_repeatable_and_reported() -> None:
    assert torch.equal(subsample(5), torch.arange(5))
    chosen = subsample(1000, 50, seed=3)
    assert torch.equal(chosen, subsample(1000, 50, seed=3))
    assert not torch.equal(chosen, subsample(1000, 50, seed=4))
    assert len(chosen.unique()) == 50
    cohort = _cohort()
    found = diagnose(**cohort, most=30)
    assert (found.rows, found.used, found.seed) == (60, 30, 0)
    assert found == diagnose(**cohort, most=30)
    kept = set(subsample(60, 30).tolist())
    assert all({shown.row, *shown.nearest} <= kept for shown in found.neighbours)
