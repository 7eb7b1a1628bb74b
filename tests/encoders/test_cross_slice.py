"""Messages between slices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcl.encoders.cross_slice import CrossSliceBlock, SliceIntegration
from medcl.encoders.transformer import Block


def spread(block: nn.Module) -> None:
    """Weights far from their small start, so that every path counts."""
    for parameter in block.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.4)


@pytest.fixture
def block() -> CrossSliceBlock:
    torch.manual_seed(3)
    made = CrossSliceBlock(8, heads=2).double()
    spread(made)
    return made


def test_at_the_start_it_is_the_2d_block_on_every_slice(block: CrossSliceBlock) -> None:
    flat = Block(8, heads=2).double()
    missing = block.load_state_dict(flat.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("message") for name in missing.missing_keys)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(block(x), flat(x.flatten(0, 1)).view_as(x))


def test_the_gate_learns_from_the_first_step(block: CrossSliceBlock) -> None:
    block(torch.randn(2, 3, 5, 8, dtype=torch.float64)).square().sum().backward()
    assert (block.message_gate.grad.abs() > 1e-6).all()


def test_an_open_gate_carries_a_slice_to_the_others(block: CrossSliceBlock) -> None:
    nn.init.ones_(block.message_gate)
    x = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    moved = x.clone()
    moved[:, 0, 0] += torch.randn(8, dtype=torch.float64)
    assert (block(moved) - block(x))[:, 1:].abs().max() > 1e-4
    other = x.clone()
    other[:, 0, 1] += 1.0  # no class token: it stays within its slice
    torch.testing.assert_close(block(other)[:, 1:], block(x)[:, 1:])


def test_one_slice_is_a_transformer_with_one_token_more(block: CrossSliceBlock) -> None:
    nn.init.ones_(block.message_gate)
    x = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    message = block.message(x[:, 0, :1])
    message = message + block.message_attention(block.message_norm(message))
    longer = Block.forward(block, torch.cat([x[:, 0], message], 1))
    torch.testing.assert_close(block(x)[:, 0], longer[:, :-1])


def test_slices_may_come_in_any_order(block: CrossSliceBlock) -> None:
    nn.init.ones_(block.message_gate)
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_large_logits_stay_finite(block: CrossSliceBlock) -> None:
    nn.init.constant_(block.message_gate, -3.0)
    block.float()
    nn.init.normal_(block.attention.inputs.weight, std=1e3)
    x = torch.randn(1, 2, 5, 8, requires_grad=True)
    block(x).sum().backward()
    assert x.grad.isfinite().all()


def test_integration_reads_the_order_of_slices() -> None:
    torch.manual_seed(3)
    integration = SliceIntegration(8, heads=2, slices=6)
    spread(integration)
    x = torch.randn(2, 4, 8)
    assert integration(x).shape == (2, 8)
    assert not torch.allclose(integration(x), integration(x.flip(1)))


def test_bad_shapes_are_refused(block: CrossSliceBlock) -> None:
    with pytest.raises(ValueError, match=r"\(B, T, N, width\)"):
        block(torch.randn(2, 5, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="up to 3 slices"):
        SliceIntegration(8, heads=2, slices=3)(torch.randn(2, 4, 8))
