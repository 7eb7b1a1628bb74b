"""The transformer and DropKey."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from medcl.encoders.transformer import Attention, Transformer, attend, draw_dropped, dropkey_shares
from medcl.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    width: int = 12
    layers: int = 3
    heads: int = 3
    dropkey: float = 0.0
    dropkey_decreases: bool = False


def plain_attention(attention: Attention, x: Tensor) -> Tensor:
    """Head by head, written out."""
    width = x.shape[-1]
    size = width // attention.heads
    query, key, value = attention.inputs(x).split(width, -1)
    found = []
    for head in range(attention.heads):
        own = slice(head * size, (head + 1) * size)
        weights = (query[..., own] @ key[..., own].transpose(1, 2) / size**0.5).softmax(-1)
        found.append(weights @ value[..., own])
    return attention.output(torch.cat(found, -1))


def test_a_class_token_goes_before_the_tokens() -> None:
    network = Transformer(Settings(), tokens=7)
    assert network(torch.randn(2, 7, 12)).shape == (2, 8, 12)
    assert network.out_channels == 12


def test_without_dropkey_it_is_plain_attention() -> None:
    attention = Attention(12, 3).double()
    torch.nn.init.normal_(attention.inputs.weight)
    x = torch.randn(2, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(attention(x), plain_attention(attention, x))


def test_dropkey_acts_in_training_only() -> None:
    dropping, plain = Transformer(Settings(dropkey=0.5), 7), Transformer(Settings(), 7)
    plain.load_state_dict(dropping.state_dict())
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(dropping.eval()(x), plain(x), rtol=0, atol=0)
    assert not torch.equal(dropping.train()(x), plain(x))


def test_dropped_keys_have_no_weight() -> None:
    query, key = torch.randn(2, 2, 1, 4, 5)
    dropped = torch.tensor([[False, True, True, False]] * 4)
    weights = attend(query, key, torch.eye(4).expand(2, 1, 4, 4), dropped)
    assert (weights[..., 1:3] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 4))


@pytest.mark.parametrize("share", [0.3, 0.9, 1.0])
def test_every_query_keeps_a_key(share: float) -> None:
    torch.manual_seed(0)
    dropped = draw_dropped((50, 2, 9, 9), share, torch.device("cpu"))
    assert not dropped.all(-1).any()
    expected = share - share**9 / 9  # the class token comes back where all nine are gone
    assert float(dropped.float().mean()) == pytest.approx(expected, abs=0.02)
    alone = dropped[..., 1:].all(-1)
    assert not dropped[..., 0][alone].any()


def test_with_every_key_dropped_only_the_class_token_is_read() -> None:
    attention = Attention(12, 3, dropkey=1.0)
    x = torch.randn(2, 6, 12, requires_grad=True)
    found = attention(x)
    torch.testing.assert_close(found, found[:, :1].expand_as(found))
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    torch.testing.assert_close(gradient[:, 1:], torch.zeros(2, 5, 12))
    assert gradient[:, 0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    query, key, value = (100 * torch.randn(3, 1, 2, 6, 4)).to(dtype)
    assert attend(query, key, value, draw_dropped((1, 2, 6, 6), 0.9, query.device)).isfinite().all()


def test_the_share_stays_or_falls_to_nothing() -> None:
    assert dropkey_shares(0.3, 3, decreases=False) == [0.3, 0.3, 0.3]
    assert dropkey_shares(0.2, 5, decreases=True) == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0])
    assert dropkey_shares(0.2, 1, decreases=True) == [0.2]
    falling = Transformer(Settings(dropkey=0.2, dropkey_decreases=True), 7)
    assert [block.attention.dropkey for block in falling.blocks] == pytest.approx([0.2, 0.1, 0.0])


def test_positions_tell_tokens_apart() -> None:
    network = Transformer(Settings(), 4)
    x = torch.randn(1, 4, 12)
    assert not torch.allclose(network(x)[:, 1:], network(x.flip(1))[:, 1:].flip(1))


def test_bad_settings_name_the_key() -> None:
    with pytest.raises(ConfigError, match=r"width is 10 and heads is 4"):
        Transformer(Settings(width=10, heads=4), 7)
    with pytest.raises(ConfigError, match=r"dropkey is 1\.2"):
        Transformer(Settings(dropkey=1.2), 7)
    with pytest.raises(ValueError, match=r"built for \(B, 7, 12\)"):
        Transformer(Settings(), 7)(torch.randn(2, 6, 12))
