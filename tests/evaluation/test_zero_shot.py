"""Scores from prompts, and findings scored with those that have no positive case left out; scikit-learn as a check."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from medcl.evaluation.classification import score_findings, weighted_average_precision
from medcl.evaluation.zero_shot import Scoring, choose_thresholds, prompt_scores, score_all_findings, standardised
from medcl.types import Array


@pytest.fixture
def cases() -> tuple[Array, Array, Array]:
    """Scores and findings (60, 3), with many equal scores, and the subject of each case."""
    rng = np.random.default_rng(0)
    findings = (rng.random((60, 3)) < [0.3, 0.5, 0.1]).astype(float)
    return np.round(rng.normal(size=(60, 3)) + findings, 1), findings, np.arange(60) // 2


@pytest.mark.parametrize("scoring", ["mean_ensemble", "max_prompt", "mean_prompt"])
def test_one_prompt_is_its_cosine(scoring: Scoring) -> None:
    image, prompts = torch.randn(5, 8), torch.randn(3, 1, 8)
    expected = torch.cosine_similarity(image[:, None], prompts[None, :, 0], dim=-1)
    torch.testing.assert_close(prompt_scores(3 * image, prompts, scoring=scoring), expected)


def test_raw_embeddings_are_averaged_before_they_are_normalised() -> None:
    prompts = torch.tensor([[[4.0, 0.0], [0.0, 3.0]]])
    found = prompt_scores(torch.tensor([[1.0, 0.0]]), prompts)
    torch.testing.assert_close(found, torch.tensor([[0.8]]))


def test_classes_may_have_different_numbers_of_prompts() -> None:
    image, first, second = torch.randn(4, 6), torch.randn(2, 6), torch.randn(5, 6)
    for scoring in ("mean_ensemble", "max_prompt", "mean_prompt"):
        joint = prompt_scores(image, [first, second], scoring=scoring)
        apart = [prompt_scores(image, own[None], scoring=scoring) for own in (first, second)]
        torch.testing.assert_close(joint, torch.cat(apart, 1))


def test_positive_against_negative_prompts() -> None:
    image, prompts, negatives = torch.randn(4, 6), torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    difference = prompt_scores(image, prompts, scoring="pos_neg", negatives=negatives)
    torch.testing.assert_close(difference, prompt_scores(image, prompts) - prompt_scores(image, negatives))
    chance = prompt_scores(image, prompts, scoring="pos_neg", negatives=negatives, scale=20)
    both = torch.stack([prompt_scores(image, prompts), prompt_scores(image, negatives)])
    torch.testing.assert_close(chance, (20 * both).softmax(0)[0])
    same = prompt_scores(image, prompts, scoring="pos_neg", negatives=prompts, scale=20)
    torch.testing.assert_close(same, torch.full((4, 2), 0.5))


def test_standardising_over_images_changes_no_auroc(cases: tuple[Array, Array, Array]) -> None:
    scores, findings, subjects = cases
    moved = standardised(torch.from_numpy(scores) * torch.tensor([1.0, 5.0, 0.1]) + 3)
    before, after = (score_findings(s, findings, subjects, resamples=5) for s in (scores, moved.numpy()))
    assert [b.mean for b in before] == pytest.approx([a.mean for a in after])
    assert (standardised(torch.ones(4, 2)) == 0).all()


def test_scores_equal_scikit_learns(cases: tuple[Array, Array, Array]) -> None:
    scores, findings, subjects = cases
    thresholds = np.array([0.5, 0.2, 0.9])
    found = score_all_findings(scores, findings, subjects, thresholds=thresholds, resamples=20)
    pairs = list(zip(scores.T, findings.T, strict=True))
    auroc, auprc = ([score(truth, own) for own, truth in pairs] for score in (roc_auc_score, average_precision_score))
    assert [interval.mean for interval in found.auroc] == pytest.approx(auroc)
    assert [interval.mean for interval in found.auprc] == pytest.approx(auprc)
    assert found.macro_auroc.mean == pytest.approx(np.mean(auroc))
    assert found.macro_auprc.mean == pytest.approx(np.mean(auprc))
    assert found.micro_auroc.mean == pytest.approx(roc_auc_score(findings.ravel(), scores.ravel()))
    assert found.micro_auprc.mean == pytest.approx(average_precision_score(findings.ravel(), scores.ravel()))
    said = scores >= thresholds
    assert [i.mean for i in found.f1] == pytest.approx(
        [f1_score(t, s) for t, s in zip(findings.T, said.T, strict=True)]
    )
    assert [i.mean for i in found.accuracy] == pytest.approx((said == findings).mean(0))
    assert found.auroc[0].subjects == 30
    assert found.auroc[0].low < found.auroc[0].mean < found.auroc[0].high


def test_weights_count_a_case_as_often(cases: tuple[Array, Array, Array]) -> None:
    scores, findings, _ = cases
    times = np.random.default_rng(1).integers(0, 4, size=60)
    found = weighted_average_precision(scores[:, 0], findings[:, 0] > 0.5, times[None].astype(float))
    expected = average_precision_score(findings[:, 0].repeat(times), scores[:, 0].repeat(times))
    assert found == pytest.approx([expected])


def test_a_finding_without_positives_is_nan_left_out_and_counted(cases: tuple[Array, Array, Array]) -> None:
    scores, findings, subjects = cases
    two = score_all_findings(scores[:, :2], findings[:, :2], subjects, resamples=20)
    findings[:, 2] = 0
    found = score_all_findings(scores, findings, subjects, thresholds=np.zeros(3), resamples=20)
    assert math.isnan(found.auroc[2].mean)
    assert math.isnan(found.auprc[2].mean)
    assert math.isnan(found.f1[2].mean)
    assert found.without_positives == 1
    assert two.without_positives == 0
    assert found.macro_auroc == two.macro_auroc
    assert found.macro_auprc == two.macro_auprc
    nothing = score_all_findings(scores, np.zeros((60, 3)), subjects, resamples=20)
    assert math.isnan(nothing.macro_auroc.mean)
    assert nothing.without_positives == 3


def test_unknown_findings_are_left_out(cases: tuple[Array, Array, Array]) -> None:
    scores, findings, subjects = cases
    findings[::3, 1] = np.nan
    found = score_all_findings(scores, findings, subjects, resamples=5)
    known = ~np.isnan(findings[:, 1])
    assert found.auroc[1].mean == pytest.approx(roc_auc_score(findings[known, 1], scores[known, 1]))
    assert found.auroc[1].cases == 40


def test_thresholds_give_the_best_f1(cases: tuple[Array, Array, Array]) -> None:
    scores, findings, _ = cases
    chosen = choose_thresholds(scores, findings)
    for finding in range(3):
        every = [f1_score(findings[:, finding], scores[:, finding] >= t) for t in np.unique(scores[:, finding])]
        assert f1_score(findings[:, finding], scores[:, finding] >= chosen[finding]) == pytest.approx(max(every))
    assert choose_thresholds(scores, np.zeros((60, 3))).tolist() == [np.inf] * 3


def test_what_does_not_fit_is_refused() -> None:
    image, prompts = torch.randn(4, 6), torch.randn(2, 3, 6)
    with pytest.raises(ValueError, match="pos_neg takes negatives"):
        prompt_scores(image, prompts, scoring="pos_neg")
    with pytest.raises(ValueError, match="max_prompt takes no negatives"):
        prompt_scores(image, prompts, scoring="max_prompt", negatives=prompts)
    with pytest.raises(ValueError, match="2 classes have prompts, 1 have negative"):
        prompt_scores(image, prompts, scoring="pos_neg", negatives=prompts[:1])
    with pytest.raises(ValueError, match=r"one \(N, F\)"):
        score_all_findings(np.zeros((4, 2)), np.zeros((4, 3)), range(4))
    with pytest.raises(ValueError, match="4 cases but 3 subjects"):
        score_all_findings(np.zeros((4, 2)), np.zeros((4, 2)), range(3))
