"""Rows of the transformer and of its attention between slices."""

from __future__ import annotations

import torch

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


ADAPTERS: Adapters = {("multimodal", "mm_dropkey"): dropkey}
