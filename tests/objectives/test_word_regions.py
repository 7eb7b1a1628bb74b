"""Words and places: a plain loop, padding, empty captions, parts, dimensions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.word_regions import word_attention, word_region_similarity, word_regions


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Maps (4, 6, 3, 2), words (4, 5, 6) and which of them are words; the second caption is empty."""
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 6, 3, 2, generator=draw, dtype=torch.float64)
    words = torch.randn(4, 5, 6, generator=draw, dtype=torch.float64)
    return maps, words, torch.arange(5)[None] < torch.tensor([5, 0, 1, 3])[:, None]


def by_loop(image: Tensor, caption: Tensor) -> Tensor:
    """One image (D, *S) and one caption (T, D) without padding."""
    sites = image.flatten(1).T
    shares = torch.stack([(caption @ site).softmax(0) for site in sites])
    total = torch.zeros((), dtype=image.dtype)
    for word, share in zip(caption, shares.T, strict=True):
        context = ((4 * share).softmax(0)[:, None] * sites).sum(0)
        total = total + (5 * torch.cosine_similarity(word, context, dim=0)).exp()
    return total.log()


def test_similarity_equals_a_plain_loop(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    found = word_region_similarity(maps, words, given)
    for image in range(4):
        for caption in (0, 2, 3):
            expected = by_loop(maps[image], words[caption, given[caption]])
            torch.testing.assert_close(found[image, caption], expected)
    assert (found[:, 1] == 0).all()


@pytest.mark.parametrize("most", [1, 30, 100, 400])
def test_parts_give_the_whole_and_its_gradient(batch: tuple[Tensor, Tensor, Tensor], most: int) -> None:
    maps, words, given = batch
    leaves = maps.requires_grad_(), words.requires_grad_()
    whole, parts = (word_regions(maps, words, given, most=limit).loss for limit in (2**24, most))
    torch.testing.assert_close(parts, whole)
    for one, other in zip(torch.autograd.grad(parts, leaves), torch.autograd.grad(whole, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_an_empty_caption_takes_no_part(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    kept = torch.tensor([0, 2, 3])
    maps.requires_grad_()
    words.requires_grad_()
    found = word_regions(maps, words, given)
    similarity = 10 * word_region_similarity(maps, words[kept], given[kept])
    of_images = torch.nn.functional.cross_entropy(similarity[kept], torch.arange(3), reduction="none")
    of_words = torch.nn.functional.cross_entropy(similarity.T, kept, reduction="none")  # the image is a negative
    torch.testing.assert_close(found.per_anchor[[0, 2, 3, 4, 6, 7]], torch.cat([of_images, of_words]))
    torch.testing.assert_close(found.loss, (of_images.mean() + of_words.mean()) / 2)
    assert found.per_anchor[[1, 5]].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(found.loss, words)
    assert (gradient[~given] == 0).all()
    assert gradient[given].abs().min() > 0


def test_no_caption_has_words(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    words.requires_grad_()
    found = word_regions(maps, words, torch.zeros_like(given))
    assert found.loss == 0
    found.loss.backward()
    assert (words.grad == 0).all()


def test_padding_is_never_read(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    plain = word_regions(maps, words, given)
    spoilt = words.masked_fill(~given[..., None], torch.nan).requires_grad_()
    found = word_regions(maps.requires_grad_(), spoilt, given)
    torch.testing.assert_close(found.per_anchor, plain.per_anchor)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found.loss, (maps, spoilt)))
    longer = torch.cat([words, words], 1)
    padded = torch.cat([given, torch.zeros_like(given)], 1)
    torch.testing.assert_close(word_regions(maps, longer, padded).loss, plain.loss)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_order_of_sites_and_of_words_does_not_matter(batch: tuple[Tensor, Tensor, Tensor], normalize: bool) -> None:
    maps, words, given = batch
    plain = word_regions(maps, words, given, normalize=normalize).loss
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(word_regions(maps, words[:, order], given[:, order], normalize=normalize).loss, plain)
    torch.testing.assert_close(word_regions(maps.flip(2), words, given, normalize=normalize).loss, plain)
    torch.testing.assert_close(word_regions(maps[..., None], words, given, normalize=normalize).loss, plain)


def test_normalised_the_scale_does_not_matter(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    plain, scaled = (word_regions(k * maps, k * words, given, normalize=True).loss for k in (1, 7))
    torch.testing.assert_close(scaled, plain)


def test_equal_similarities_give_log_b(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    same = word_regions(maps[:1].expand_as(maps), words[:1].expand_as(words), given[:1].expand_as(given))
    assert float(same.loss) == pytest.approx(math.log(4))
    assert float(same.all_equal) == pytest.approx(math.log(4))


def test_pooled_by_the_mean_a_repeated_caption_scores_the_same_and_like_a_cosine(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    maps, words, _ = batch
    single, given = words[:, :1], torch.ones(4, 1, dtype=torch.bool)
    cosine = torch.cosine_similarity(maps.flatten(2).mean(2)[:, None], single[None, :, 0], dim=-1)
    found = word_region_similarity(maps, single, given, pooling="mean")
    torch.testing.assert_close(found / 5, cosine)  # one word: all sites show it alike
    bound = word_region_similarity(maps, words, torch.ones(4, 5, dtype=torch.bool), pooling="mean").abs() / 5
    assert (bound <= 1).all()


def test_attention_adds_up_to_one_over_the_sites(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    found = word_attention(maps, words, given)
    assert found.shape == (4, 4, 5, 3, 2)
    torch.testing.assert_close(found.sum((3, 4)), torch.ones(4, 4, 5, dtype=torch.float64))
    padding = found[:, ~given]
    torch.testing.assert_close(padding, torch.full_like(padding, 1 / 6))


def test_two_images_of_one_patient_are_no_negatives(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    found = word_regions(maps, words, given, subject=torch.tensor([0, 1, 2, 2]))
    alone = word_regions(maps[[0, 2]], words[[0, 2]], given[[0, 2]])
    torch.testing.assert_close(found.per_anchor[[2, 6]], alone.per_anchor[[1, 3]])


def test_gradient_in_double_precision(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = (part[:3, ..., :2] if part.ndim > 2 else part[:3] for part in batch)
    maps, words = maps[:, :2, :2, :1].clone(), words.clone()
    torch.autograd.gradcheck(
        lambda m, w: word_regions(m, w, given).loss, (maps.requires_grad_(), words.requires_grad_())
    )


def test_large_embeddings_stay_finite(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    leaves = (1e4 * maps).float().requires_grad_(), (1e4 * words).float().requires_grad_()
    loss = word_regions(*leaves, given).loss
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, leaves))


def test_what_does_not_fit_is_refused(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    maps, words, given = batch
    with pytest.raises(ValueError, match=r"are not \(B, D, \*S\), \(B, T, D\) and \(B, T\)"):
        word_regions(maps[:3], words, given)
    with pytest.raises(ConfigError, match="word_regions: a batch of 1"):
        word_regions(maps[:1], words[:1], given[:1])
