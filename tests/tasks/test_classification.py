"""Losses over classes and findings, what a classifier makes of absent modalities, and how modalities are hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from medcl.config.align import ModalitiesConfig
from medcl.config.load import validate
from medcl.encoders.classifier import Classifier
from medcl.encoders.joint import build_joint
from medcl.tasks.classification import accuracy_of, class_weights, classification_loss
from medcl.views.aligned import AlignedSampler


class _Rows:
    """A stream of one number a record."""

    def __init__(self, there: set[str]) -> None:
        self.there = there

    def has(self, record_id: str) -> bool:
        return record_id in self.there

    def plan(self, record_ids, epochs, slots):  # type: ignore[no-untyped-def]
        return torch.zeros(len(record_ids), 1)

    def render(self, plan, device):  # type: ignore[no-untyped-def]
        return (plan,)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    config = validate(
        ModalitiesConfig,
        {"ecg": {"encoder": {"name": "ecg_resnet", "depth": 10, "width": 2}, "seconds": 2}, "labs": {}},
    )
    return Classifier(build_joint(config, 8, recipes={}, lab_items=3), 3)


class TestClassifier:
    def test_an_absent_modality_says_nothing_and_gets_no_gradient(self, classifier: Classifier) -> None:
        present = {"ecg": torch.tensor([True, False, True]), "labs": torch.tensor([True, True, True])}
        inputs = {"ecg": torch.randn(2, 12, 200), "labs": torch.rand(3, 6)}
        features = classifier.features(inputs, present)
        width = classifier.widths["ecg"]
        assert features.shape == (3, sum(classifier.widths.values()))
        assert (features[1, :width] == 0).all()
        assert (features[[0, 2], :width] != 0).any(1).all()
        classifier(inputs, present)[1].sum().backward()
        ecg = [p.grad for p in classifier.network.encoders["ecg"].parameters() if p.grad is not None]
        assert all((grad == 0).all() for grad in ecg)
        assert any((p.grad != 0).any() for p in classifier.network.encoders["labs"].parameters() if p.grad is not None)

    def test_rows_do_not_depend_on_each_other_once_trained(self, classifier: Classifier) -> None:
        classifier.eval()
        signals, values = torch.randn(3, 12, 200), torch.rand(3, 6)
        every = {name: torch.ones(3, dtype=torch.bool) for name in classifier.names}
        whole = classifier({"ecg": signals, "labs": values}, every)
        alone = {name: torch.ones(1, dtype=torch.bool) for name in classifier.names}
        torch.testing.assert_close(classifier({"ecg": signals[1:2], "labs": values[1:2]}, alone)[0], whole[1])


class TestLoss:
    def test_unknown_findings_take_no_part(self) -> None:
        scores = torch.randn(4, 2, requires_grad=True)
        labels = torch.tensor([[1.0, 0.0], [float("nan"), 1.0], [0.0, float("nan")], [1.0, 1.0]])
        loss = classification_loss(scores, labels)
        known = ~labels.isnan()
        torch.testing.assert_close(loss, functional.binary_cross_entropy_with_logits(scores[known], labels[known]))
        loss.backward()
        assert scores.grad is not None
        assert (scores.grad[~known] == 0).all()
        nothing = torch.full((4, 2), float("nan"))
        assert classification_loss(scores, nothing) == 0

    def test_balanced_sides_and_classes_count_alike(self) -> None:
        labels = torch.tensor([0, 0, 0, 1])
        weights = class_weights(labels, 3)
        assert weights.tolist() == pytest.approx([2 / 3, 2, 0])
        assert weights[labels].mean() == pytest.approx(1)
        sums = [weights[labels][labels == number].sum() for number in (0, 1)]
        assert sums[0] == pytest.approx(sums[1])
        findings = torch.tensor([[1.0], [0.0], [0.0], [float("nan")]])
        absent, present = class_weights(findings, 1)[:, 0]
        assert (2 * absent, present) == (pytest.approx(1.5), pytest.approx(1.5))
        scores = torch.zeros(4, 1)
        assert classification_loss(scores, findings, class_weights(findings, 1)) == pytest.approx(np.log(2))

    def test_accuracy(self) -> None:
        assert accuracy_of(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0])) == 0.5
        findings = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
        assert accuracy_of(torch.tensor([[1.0, 9.0], [1.0, 1.0]]), findings) == pytest.approx(2 / 3)


def test_a_record_keeps_as_many_modalities_as_it_is_spared() -> None:
    ids = [f"r{number}" for number in range(8)]
    streams = {"ecg": _Rows(set(ids)), "labs": _Rows(set(ids))}

    def kept(spare: int) -> np.ndarray:
        sampler = AlignedSampler(
            ids,
            range(8),
            streams,
            dict.fromkeys(streams, 1),
            batch=8,
            seed=0,
            hide=dict.fromkeys(streams, 0.5),
            spare=spare,
        )
        plans = [sampler.plan(step) for step in range(60)]
        return torch.stack([torch.stack([plan.present[name] for name in streams]) for plan in plans]).sum(1).numpy()

    assert (kept(2) == 2).all()
    one = kept(1)
    assert set(np.unique(one)) == {1, 2}
    assert (one == 2).mean() == pytest.approx(0.25, abs=0.05)
