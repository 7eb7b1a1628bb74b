"""Attention relevance: against plain loops, on a network whose relevant patch is known by construction, and the deletion check."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medcl.config.modalities import ResNetConfig, ViTConfig
from medcl.config.text import BertConfig, TokenTableConfig
from medcl.encoders.attentions import recorded_attentions, text_with_attentions
from medcl.encoders.build_text import build_text_encoder
from medcl.encoders.image import ViT, build_image_encoder
from medcl.encoders.text import TextEncoder, TokenTable, learn_vocabulary
from medcl.errors import ConfigError
from medcl.evaluation.relevance import attention_relevance, deletion_check, image_relevance, token_relevance


def knowing_vit() -> ViT:
    """Its class token attends to bright patches and takes over their brightness as channel 1; all else is 0."""
    vit = build_image_encoder(ViTConfig(cell=8, width=4, layers=1, heads=1), 1, (32, 32))
    with torch.no_grad():
        for value in vit.parameters():
            value.zero_()
        vit.cells.weight[0] = 1 / 64
        vit.transformer.class_token[..., 3] = 1.0
        block = vit.transformer.blocks[0]
        for norm in (block.attention_norm, block.perceptron_norm, vit.transformer.norm):
            nn.init.ones_(norm.weight)
        query, key, value = block.attention.inputs.weight.view(3, 4, 4)
        query[0, 3], key[0, 0], value[1, 0] = 3.0, 3.0, 1.0
        block.attention.output.weight[1, 1] = 1.0
    return vit.eval()


def code(vit: ViT, x: Tensor) -> Tensor:
    """Cosine with channel 1, one an image."""
    return torch.cosine_similarity(vit(x).pooled, torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("place", [(1, 2), (3, 0)])
def test_the_relevant_patch_is_found_and_deleting_it_first_is_worse_than_chance(place: tuple[int, int]) -> None:
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, 8 * place[0] : 8 * place[0] + 8, 8 * place[1] : 8 * place[1] + 8] = 1.0
    vit = knowing_vit()
    with recorded_attentions(vit) as attentions:
        score = code(vit, x).sum()
    relevance = image_relevance(attention_relevance(score, attentions))[0]
    at = 4 * place[0] + place[1]
    assert relevance.argmax() == at
    others = torch.cat([relevance[:at], relevance[at + 1 :]])
    assert others.abs().max() < 1e-6 < relevance[at]

    def similarity(kept: Tensor) -> Tensor:
        mask = kept.view(-1, 1, 4, 4).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
        return code(vit, x * mask)

    check = deletion_check(similarity, relevance, steps=16, rankings=40)
    assert check.curve[0] > 0.1
    assert check.curve[1] == pytest.approx(float(check.curve[-1]), abs=1e-6)  # all of it is gone with the first
    assert check.area < check.random_area - 0.05
    assert check.better >= 0.85  # an order in 16 has the patch first as well
    misled = deletion_check(similarity, -relevance, steps=16, rankings=40)
    assert misled.area > misled.random_area + 0.05
    assert misled.better == 0
    again = deletion_check(similarity, relevance, steps=16, rankings=40)
    assert again.random.equal(check.random)


def test_recording_changes_nothing_and_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    vit = build_image_encoder(ViTConfig(cell=8, width=12, layers=3, heads=3), 1, (16, 16)).eval()
    x = torch.randn(2, 1, 16, 16)
    before = vit(x)
    with recorded_attentions(vit) as attentions:
        during = vit(x)
    torch.testing.assert_close(during.pooled, before.pooled)
    torch.testing.assert_close(during.local, before.local)
    assert [weights.shape for weights in attentions] == [(2, 3, 5, 5)] * 3
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(2, 3, 5))
    assert len(attentions) == 3
    vit(x)
    assert len(attentions) == 3


def test_it_is_the_plain_rollout() -> None:
    torch.manual_seed(0)
    vit = build_image_encoder(ViTConfig(cell=8, width=12, layers=3, heads=3), 1, (16, 16)).double().eval()
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    with recorded_attentions(vit) as attentions:
        score = vit(x).pooled[:, 0].sum()
    found = image_relevance(attention_relevance(score, attentions))
    gradients = torch.autograd.grad(score, attentions)
    for item in range(2):
        rolled = torch.eye(5, dtype=torch.float64)
        for weights, gradient in zip(attentions, gradients, strict=True):
            heads = [(gradient[item, h] * weights[item, h]).clamp(min=0) for h in range(3)]
            rolled = rolled + sum(heads) / 3 @ rolled
        torch.testing.assert_close(found[item], rolled[0, 1:].detach())
    assert (found >= 0).all()


@pytest.mark.parametrize("pooling", ["cls", "mean", "eos"])
def test_tokens_of_a_text_with_special_and_padded_ones_at_0(pooling: str) -> None:
    torch.manual_seed(0)
    words = learn_vocabulary(["heart is large", "no fluid"], 60, 16)
    encoder = build_text_encoder(BertConfig(layers=2, width=16, heads=2, max_length=16, pooling=pooling), words).eval()
    tokens = words(["heart is large", "no fluid"])
    pooled, attentions = text_with_attentions(encoder, tokens)
    torch.testing.assert_close(pooled, encoder(tokens).pooled)
    relevance = attention_relevance(pooled[:, 0].sum(), attentions)
    special = ~tokens.valid | torch.isin(tokens.ids, torch.tensor([words.special["cls"], words.special["sep"]]))
    read = torch.zeros(tokens.ids.shape)
    read[:, 0] = 1
    found = token_relevance(relevance, read, special)
    assert found.shape == tokens.ids.shape
    assert (found[special] == 0).all()
    assert (found >= 0).all()
    assert found.sum() > 0 or pooling != "cls"


def test_refusals() -> None:
    with (
        pytest.raises(ConfigError, match="MapEncoder without attention"),
        recorded_attentions(build_image_encoder(ResNetConfig(depth=10, width=4), 1, (32, 32))),
    ):
        pass
    words = learn_vocabulary(["heart"], 40, 8)
    table = TextEncoder(TokenTable(torch.randn(len(words), 4)), words, 4, TokenTableConfig().pooling)
    with pytest.raises(ConfigError, match="token_table without attention"):
        text_with_attentions(table, words(["heart"]))
    weights, other = torch.rand(2, 1, 1, 3, 3, requires_grad=True).unbind()
    with pytest.raises(ValueError, match="does not depend on attention 1"):
        attention_relevance(weights.sum(), [weights, other])
    with pytest.raises(ValueError, match="must be one number"):
        attention_relevance(torch.zeros(2), [])
