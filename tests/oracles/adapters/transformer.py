"""Rows of the transformer and of its attention between slices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcl.encoders.cross_slice import CrossSliceBlock
from medcl.encoders.transformer import attend, dropkey_shares
from tests.oracles.rows import Adapters, Computed, Given


def dropkey(given: Given) -> Computed:
    query, key, dropped = given["q"], given["k"], given["drop"]
    shares = dropkey_shares(given.hyper["start_ratio"], 12, decreases=True)
    every = torch.eye(key.shape[-2], dtype=key.dtype).expand(*key.shape[:-1], -1)
    return {
        "attention": attend(query, key, every, dropped),
        "output": attend(query, key, given["v"], dropped),
        "schedule": torch.tensor(shares, dtype=torch.float64),
    }


class QuickGelu(nn.Module):
    """The activation of the image model whose weights the row has."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


PUBLISHED = {
    "message": "message_fc",
    "message_norm": "message_ln",
    "message_attention.inputs": "message_attn.in_proj",
    "message_attention.output": "message_attn.out_proj",
    "attention_norm": "ln_1",
    "attention.inputs": "attn.in_proj",
    "attention.output": "attn.out_proj",
    "perceptron_norm": "ln_2",
    "perceptron.0": "mlp.c_fc",
    "perceptron.2": "mlp.c_proj",
}


def cross_slice_block(given: Given) -> Computed:
    tokens = given["input"]
    block = CrossSliceBlock(tokens.shape[-1], given.hyper["heads"]).to(tokens.dtype)
    assert given.hyper["activation"] == "quick gelu 1.702"
    block.perceptron[1] = QuickGelu()
    state = {"message_gate": torch.ones(given.hyper["heads"])}
    for own, published in PUBLISHED.items():
        for part in ("weight", "bias"):
            joint = "_" if published.endswith("in_proj") else "."
            state[f"{own}.{part}"] = given[f"w.{published}{joint}{part}"]
    block.load_state_dict(state)
    slices = tokens.transpose(0, 1).unflatten(0, (-1, given.hyper["T"]))
    return {"output": block(slices).flatten(0, 1).transpose(0, 1)}


ADAPTERS: Adapters = {
    ("multimodal", "mm_dropkey"): dropkey,
    ("multimodal", "mm_cross_slice_block"): cross_slice_block,
}
