"""Composing labelled structures into other views: copy-paste augmentation for few labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def paste(data: Tensor, label: Tensor, probability: float, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """``data (B, C, *S)`` and ``label (B, *S)`` in which some views got the foreground of another one, in the same voxels.

    ``probability``: that a view gets any. A structure keeps its place and its surroundings become the receiver's.
    Source: Ghiasi et al. 2021 (copy-paste), on whole labelled structures.
    """
    count = len(data)
    gets = torch.as_tensor(draw.random(count) < probability, device=data.device)
    shift = torch.as_tensor(draw.integers(1, max(count, 2), count), device=data.device)
    donor = (torch.arange(count, device=data.device) + shift) % count
    over = (label[donor] > 0) & gets.view(-1, *[1] * (label.ndim - 1))
    return torch.where(over[:, None], data[donor], data), torch.where(over, label[donor], label)
