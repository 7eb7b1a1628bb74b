"""DeGLA and prompts: closed forms, layouts, missing wrong captions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from medcl.objectives.hard_captions import degla, hard_captions, own_captions
from medcl.objectives.instance import clip
from medcl.objectives.prompts import prompt_diversity, prompt_guidance


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    return rows(4, 6), rows(4, 6, seed=1), rows(4, 3, 6, seed=2)


def test_an_image_sees_all_wrong_captions_and_a_text_none(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, text, wrong = (normalize(part, dim=-1) for part in batch)
    own = torch.arange(4)
    of_images = cross_entropy(image @ torch.cat([text, wrong.flatten(0, 1)]).T / 0.2, own, reduction="none")
    of_texts = cross_entropy(text @ image.T / 0.2, own, reduction="none")
    found = hard_captions(*batch, temperature=0.2)
    torch.testing.assert_close(found.per_anchor, (of_images + of_texts) / 2)
    torch.testing.assert_close(found.loss, found.per_anchor.mean())


def test_without_wrong_captions_it_is_clip(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, text, wrong = batch
    plain = clip(image, text, temperature=0.2).loss
    torch.testing.assert_close(hard_captions(image, text, wrong[:, :0], temperature=0.2).loss, plain)
    nowhere = torch.zeros(4, 3, dtype=torch.bool)
    torch.testing.assert_close(hard_captions(image, text, wrong, nowhere, temperature=0.2).loss, plain)
    assert own_captions(image, text, wrong[:, :0]).loss == 0
    total = degla(image, text, wrong[:, :0], image, text, wrong[:, :0], temperature=0.2)
    torch.testing.assert_close(total.loss, plain)


def test_an_item_is_compared_with_its_own_wrong_captions(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, text, wrong = batch
    found = own_captions(image, text, wrong, temperature=0.2)
    for item in range(4):
        candidates = normalize(torch.cat([text[item, None], wrong[item]]), dim=1)
        logits = candidates @ normalize(image[item], dim=0) / 0.2
        torch.testing.assert_close(found.per_anchor[item], logits.logsumexp(0) - logits[0])


def test_wrong_captions_equal_to_the_right_one_give_the_log_of_their_number(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    image, text, _ = batch
    found = own_captions(image, text, text[:, None].expand(-1, 3, -1))
    assert float(found.loss) == pytest.approx(math.log(4))
    assert float(found.all_equal) == pytest.approx(math.log(4))


def test_the_order_of_wrong_captions_does_not_matter_but_whose_they_are(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, text, wrong = batch
    teachers = rows(4, 6, seed=4), rows(4, 6, seed=5), rows(4, 3, 6, seed=6)
    plain = degla(image, text, wrong, *teachers).loss
    turned = degla(image, text, wrong.flip(1), *teachers[:2], teachers[2].flip(1)).loss
    torch.testing.assert_close(turned, plain)
    assert not torch.isclose(own_captions(image, text, wrong.flip(0)).loss, own_captions(image, text, wrong).loss)


def test_a_missing_wrong_caption_is_never_read(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, text, wrong = batch
    teachers = rows(4, 6, seed=4), rows(4, 6, seed=5), rows(4, 3, 6, seed=6)
    given = torch.tensor([[True, True, False]]).expand(4, 3)
    short = degla(image, text, wrong[:, :2], *teachers[:2], teachers[2][:, :2])
    spoilt = wrong.masked_fill(~given[..., None], torch.nan).requires_grad_()
    found = degla(image, text, spoilt, *teachers, given)
    torch.testing.assert_close(found.per_anchor, short.per_anchor)
    found.loss.backward()
    assert (spoilt.grad[:, 2] == 0).all()
    assert (spoilt.grad[:, :2] != 0).all()


def test_a_teacher_that_agrees_adds_nothing(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    found = degla(*batch, *batch)
    assert found.parts["distillation"] == 0
    leaves = [part.clone().requires_grad_() for part in batch]
    assert not degla(*batch, *leaves).loss.requires_grad


def test_the_sum_over_the_batch_is_its_size_times_the_mean(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    teachers = rows(4, 6, seed=4), rows(4, 6, seed=5), rows(4, 3, 6, seed=6)
    summed = degla(*batch, *teachers, distillation_weight=0.005)
    mean = degla(*batch, *teachers, distillation_weight=0.02, distillation="mean")
    torch.testing.assert_close(mean.loss, summed.loss)
    torch.testing.assert_close(mean.parts["distillation"] * 4, summed.parts["distillation"])


def test_gradient_in_double_precision(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    leaves = tuple(part[:3, ..., :3].clone().requires_grad_() for part in batch)
    teachers = rows(3, 3, seed=4), rows(3, 3, seed=5), rows(3, 3, 3, seed=6)
    torch.autograd.gradcheck(lambda *given: degla(*given, *teachers).loss, leaves)


def test_prompts_are_apart_where_they_are_orthogonal() -> None:
    prompts = torch.eye(3)[:, None].expand(3, 2, 3)
    assert prompt_diversity(2 * prompts).loss == 0
    assert float(prompt_diversity(prompts[:1].expand(3, 2, 3)).loss) == pytest.approx(1)
    single = rows(1, 2, 3).requires_grad_()
    alone = prompt_diversity(single).loss
    alone.backward()
    assert alone == 0
    assert (single.grad == 0).all()
    signed = torch.stack([prompts[0], -prompts[0]])
    assert float(prompt_diversity(signed).loss) == pytest.approx(1)


def test_prompts_are_guided_by_their_mean() -> None:
    prompts, descriptions = rows(3, 2, 5), rows(2, 5, seed=1).requires_grad_()
    expected = 1 - torch.cosine_similarity(prompts.mean(0), descriptions, dim=1)
    found = prompt_guidance(prompts, descriptions)
    torch.testing.assert_close(found.per_anchor, expected)
    assert not found.loss.requires_grad
    assert float(prompt_guidance(prompts, prompts.mean(0)).loss) == pytest.approx(0)


def test_what_does_not_fit_is_refused(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    image, text, wrong = batch
    with pytest.raises(ValueError, match=r"are not \(B, D\), \(B, D\) and \(B, K, D\)"):
        hard_captions(image, text, wrong.transpose(0, 1))
    with pytest.raises(ValueError, match="wrong captions are none"):
        own_captions(image, text, wrong, torch.ones(4, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="not as the student's"):
        degla(image, text, wrong, image, text, wrong[:, :2])
    with pytest.raises(ValueError, match=r"\(P, C, D\)"):
        prompt_diversity(image)
    with pytest.raises(ValueError, match="the prompts have"):
        prompt_guidance(wrong, image)
