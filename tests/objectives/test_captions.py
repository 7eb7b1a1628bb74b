"""Several captions of an image, patches that belong to them, wrong captions, and captions word by word."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medcl.objectives.captions import caption_loss, coca, counting, grouped_patches, grouping, multi_caption
from medcl.objectives.instance import clip


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()


# Several captions


def test_several_captions_are_the_mean_of_clip() -> None:
    image, captions = normal(5, 4), normal(5, 3, 4, seed=1)
    expected = torch.stack([clip(image, captions[:, k]).loss for k in range(3)]).mean()
    torch.testing.assert_close(multi_caption(image, captions).loss, expected)
    one = clip(image, captions[:, 0]).loss
    torch.testing.assert_close(multi_caption(image, captions[:, :1]).loss, one)
    torch.testing.assert_close(multi_caption(image, captions[:, :1].expand(-1, 3, -1)).loss, one)
    with pytest.raises(ValueError, match=r"not \(B, D\) and \(B, K, D\)"):
        multi_caption(image, captions.transpose(0, 1))


def test_absent_captions_are_not_read() -> None:
    image, captions = normal(5, 4), normal(5, 3, 4, seed=1).detach()
    present = torch.ones(5, 3).bool()
    present[[0, 3], 2] = False
    captions[~present] = torch.nan
    captions.requires_grad_()
    found = multi_caption(image, captions, present=present)
    rows = present[:, 2]
    expected = [clip(image, captions[:, 0]), clip(image, captions[:, 1]), clip(image[rows], captions[rows, 2])]
    torch.testing.assert_close(found.loss, torch.stack([output.loss for output in expected]).mean())
    gradient = torch.autograd.grad(found.loss, captions)[0]
    assert not gradient[~present].any()


# Patches


def plain_groups(captions: Tensor, patches: Tensor, threshold: float) -> Tensor:
    groups = []
    for own, local in zip(captions, patches, strict=True):
        local = functional.normalize(local, dim=-1)
        for caption in own:
            cosine = local @ functional.normalize(caption, dim=0)
            level = (cosine - cosine.min()) / (cosine.max() - cosine.min())
            level = torch.stack([value if value >= threshold else value * 0 for value in level])
            groups.append(functional.normalize((level / level.sum()) @ local, dim=0))
    return torch.stack(groups).view(captions.shape)


def test_captions_group_the_patches_they_speak_of() -> None:
    captions, patches = normal(4, 3, 5), normal(4, 6, 5, seed=1)
    groups, weights = grouped_patches(captions, patches, threshold=0.3)
    torch.testing.assert_close(groups, plain_groups(captions, patches, 0.3))
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3).double())
    assert (weights == 0).any()
    found = grouping(captions, patches, threshold=0.3, temperature=0.2)
    torch.testing.assert_close(found.loss, clip(captions.reshape(12, 5), groups.reshape(12, 5), temperature=0.2).loss)
    default = grouped_patches(captions, patches)[1]
    torch.testing.assert_close(default, grouped_patches(captions, patches, threshold=1 / 6)[1])
    present = torch.ones(4, 3).bool()
    present[1, 2] = False
    fewer = grouping(captions, patches, present=present)
    assert fewer.per_anchor.shape == (22,)
    with pytest.raises(ValueError, match="threshold is 2"):
        grouped_patches(captions, patches, threshold=2)
    with pytest.raises(ValueError, match="captions"):
        grouped_patches(captions, patches[:3])


def test_order_of_patches_does_not_matter_but_whose_caption_it_is_does() -> None:
    captions, patches = normal(4, 3, 5), normal(4, 6, 5, seed=1)
    loss = grouping(captions, patches).loss
    torch.testing.assert_close(grouping(captions, patches[:, [3, 1, 5, 0, 2, 4]]).loss, loss)
    torch.testing.assert_close(grouping(captions[:, [2, 0, 1]], patches).loss, loss)
    wrong = captions.transpose(0, 1).reshape(4, 3, 5)  # (K, B) read as (B, K)
    assert not torch.allclose(grouping(wrong, patches).loss, loss)


def test_equal_patches_weigh_the_same() -> None:
    captions = normal(3, 2, 5)
    patches = torch.ones(3, 4, 5, dtype=torch.float64, requires_grad=True)
    groups, weights = grouped_patches(captions, patches)
    torch.testing.assert_close(weights, torch.full((3, 2, 4), 0.25).double())
    gradients = torch.autograd.grad(groups.sum(), [captions, patches])
    assert all(gradient.isfinite().all() for gradient in gradients)
    one = grouped_patches(captions, patches[:, :1])[1]
    assert (one == 1).all()


# Counting


def test_counting() -> None:
    image, caption, wrong = normal(3, 5, 4)
    found = counting(image, caption, wrong)
    right, other = (functional.cosine_similarity(image, rows) for rows in (caption, wrong))
    torch.testing.assert_close(found.per_anchor, functional.softplus(other - right))
    torch.testing.assert_close(found.loss, functional.softplus(other - right).mean())
    weight = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.3])
    expected = (weight * functional.softplus(other - right)).sum() / weight.sum()
    torch.testing.assert_close(counting(image, caption, wrong, weight=weight).loss, expected.double())
    assert counting(image, caption, caption).loss.item() == pytest.approx(math.log(2))
    assert counting(image, caption, caption, weight=weight).all_equal == pytest.approx(math.log(2))
    assert counting(image, image, -image).loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert counting(image, -image, image).loss.item() == pytest.approx(math.log(1 + math.exp(2)))
    assert counting(image, image, -image).parts["right"] == 1
    with pytest.raises(ValueError, match="differ"):
        counting(image, caption, wrong[:3])


# Word by word


def test_caption_loss_leaves_out_padding() -> None:
    logits = normal(2, 3, 7).detach()
    tokens = torch.tensor([[4, 2, 0], [6, 0, 0]])
    told = [(0, 0), (0, 1), (1, 0)]
    expected = torch.stack([-logits[at].log_softmax(0)[tokens[at]] for at in told]).mean()
    logits[tokens == 0] = torch.nan
    logits.requires_grad_()
    found = caption_loss(logits, tokens)
    torch.testing.assert_close(found.loss, expected)
    assert found.parts["tokens"] == 3
    gradient = torch.autograd.grad(found.loss, logits)[0]
    assert not gradient[tokens == 0].any()
    empty = caption_loss(logits, torch.zeros_like(tokens))
    assert empty.loss == 0
    assert not torch.autograd.grad(empty.loss, logits)[0].any()
    assert caption_loss(torch.zeros(2, 3, 7), tokens).loss == pytest.approx(math.log(7))
    with pytest.raises(ValueError, match="tokens"):
        caption_loss(logits, tokens[:, :2])


def test_coca_adds_its_terms() -> None:
    image, text = normal(2, 4, 5)
    logits = torch.zeros(4, 3, 7, dtype=torch.float64)
    tokens = torch.tensor([[4, 2, -1], [6, 0, 0], [-1, -1, -1], [1, 1, 1]])
    found = coca(image, text, logits, tokens, caption_weight=2.0, contrast_weight=0.5, padding=-1)
    expected = clip(image, text)
    torch.testing.assert_close(found.loss, 2 * math.log(7) + 0.5 * expected.loss)
    torch.testing.assert_close(found.per_anchor, expected.per_anchor)
    assert found.parts["caption"] == pytest.approx(2 * math.log(7))
    assert found.parts["contrast"] == pytest.approx(0.5 * expected.loss.item())
    smoothed = coca(image, text, logits, tokens, padding=-1, smoothing=0.1).loss
    torch.testing.assert_close(smoothed, 2 * math.log(7) + clip(image, text, smoothing=0.1).loss)


def test_precision() -> None:
    image, captions, patches = normal(5, 4), normal(5, 3, 4, seed=1), normal(5, 6, 4, seed=2)
    half = [given.detach().bfloat16() for given in (image, captions, patches)]

    def losses(image: Tensor, captions: Tensor, patches: Tensor) -> list[Tensor]:
        return [
            multi_caption(image, captions, temperature=0.02).loss,
            grouping(captions, patches).loss,
            counting(image, captions[:, 0], captions[:, 1]).loss,
            caption_loss(captions, torch.ones(5, 3, dtype=torch.long)).loss,
        ]

    with torch.autocast("cpu", torch.bfloat16):
        found = losses(*half)
    for one, other in zip(found, losses(*(given.float() for given in half)), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)
