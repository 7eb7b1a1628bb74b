"""Soft Dice and cross-entropy: absent classes, background, mixed targets."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medcl.objectives.segmentation import segmentation_loss, soft_dice
from tests.laws import plain_loops

LOGITS = torch.randn(3, 4, 5, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.randint(0, 3, (3, 5, 6, 2), generator=torch.Generator().manual_seed(1))  # class 3 is absent


@pytest.mark.parametrize("background", [True, False])
def test_absent_zero_equals_the_loop_over_all_classes(background: bool) -> None:
    expected = plain_loops.soft_dice(LOGITS, TARGET, 1e-10, range(0 if background else 1, 4))
    torch.testing.assert_close(soft_dice(LOGITS, TARGET, background=background, absent="zero").loss, expected)


def test_absent_skip_leaves_the_class_out_of_its_view() -> None:
    target = TARGET.clone()
    target[0] = 0
    expected = [
        plain_loops.soft_dice(LOGITS[[b]], target[[b]], 1e-10, classes)
        for b, classes in enumerate([[1], [1, 2], [1, 2]])
    ]
    found = soft_dice(LOGITS, target, background=False)
    torch.testing.assert_close(found.per_anchor[1:], torch.stack(expected[1:]))
    assert found.per_anchor[0] == 0
    torch.testing.assert_close(found.loss, torch.stack(expected[1:]).mean())  # the empty view counts nothing
    assert found.parts["classes_scored"] == 4


def test_views_without_any_class_give_zero_attached_to_the_graph() -> None:
    logits = LOGITS.clone().requires_grad_()
    found = soft_dice(logits, torch.zeros_like(TARGET), background=False)
    assert found.loss == 0
    assert not torch.autograd.grad(found.loss, [logits])[0].any()


def test_one_hot_targets_equal_labels_and_mixing_is_linear_in_the_entropy() -> None:
    shares = functional.one_hot(TARGET, 4).movedim(-1, 1).double()
    torch.testing.assert_close(segmentation_loss(LOGITS, shares).loss, segmentation_loss(LOGITS, TARGET).loss)
    other = shares.flip(0)
    mixed = segmentation_loss(LOGITS, 0.3 * shares + 0.7 * other, dice=0)
    parts = [segmentation_loss(LOGITS, goal, dice=0).loss for goal in (shares, other)]
    torch.testing.assert_close(mixed.loss, 0.3 * parts[0] + 0.7 * parts[1])


def test_weights_of_the_two_parts_and_reductions() -> None:
    found = segmentation_loss(LOGITS, TARGET, dice=0.5, cross_entropy=2.0)
    entropy = functional.cross_entropy(LOGITS, TARGET)
    torch.testing.assert_close(found.loss, 0.5 * soft_dice(LOGITS, TARGET).loss + 2 * entropy)
    torch.testing.assert_close(found.per_anchor.mean(), found.loss)
    terms = segmentation_loss(LOGITS, TARGET, reduction="none").loss
    torch.testing.assert_close(segmentation_loss(LOGITS, TARGET, reduction="sum").loss, terms.sum())


def test_gradient_and_precision() -> None:
    logits = LOGITS[:1, :, :2, :2, :1].clone().requires_grad_()
    target = TARGET[:1, :2, :2, :1]
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, target).loss, [logits])
    with torch.autocast("cpu", torch.bfloat16):
        found = segmentation_loss(LOGITS.bfloat16(), TARGET).loss
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, segmentation_loss(LOGITS.float(), TARGET).loss, rtol=1e-2, atol=1e-2)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        soft_dice(LOGITS, TARGET[:, :4])
