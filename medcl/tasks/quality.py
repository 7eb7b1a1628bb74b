"""How good the views of every item of a batch are, by what a network sees in them (volumetric.md section 10)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medcl.config.pretrain import QualityConfig
from medcl.encoders.volume import Encoder
from medcl.objectives.gather import Gather
from medcl.objectives.quality import agreement, foreground_direction, foreground_masks, pair_quality, soft_masks
from medcl.views.view import View

_POOL = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


@torch.no_grad()
def view_quality(
    config: QualityConfig, network: Encoder, views: Sequence[View], gather: Gather, *, chunk: int | None = None
) -> Tensor:
    """Weights (B,) of mean 1 over all processes, of the items of ``views``; with more than two views the mean over their pairs counts.

    Tokens are the coarsest features of ``network`` in evaluation mode.   ``chunk``: views encoded at a time.
    """
    data = torch.cat([view.data for view in views])
    training = network.encoder.training
    network.encoder.eval()
    features = torch.cat([network.encode(part)[-1] for part in data.split(chunk or len(data))])
    network.encoder.train(training)
    shape = features.shape[2:]
    tokens = features.flatten(2).mT.unflatten(0, (len(views), -1)).float()  # (V, B, P, D)
    if config.mask == "body":
        pool = _POOL[len(shape)](tuple(shape))
        masks = [soft_masks(pool(view.body.float()).flatten(1)) for view in views if view.body is not None]
    else:
        everyone = gather.rows(tokens.transpose(0, 1).contiguous())[0]
        direction = foreground_direction(everyone.flatten(0, 2))
        masks = [foreground_masks(of_view, direction) for of_view in tokens]
    likeness = [
        [agreement(tokens[a], tokens[b], (masks[a][side], masks[b][side])) for side in (0, 1)]
        for a, b in itertools.combinations(range(len(views)), 2)
    ]
    foreground, background = (torch.stack(list(values)).mean(0) for values in zip(*likeness, strict=True))
    return pair_quality(foreground, background, gamma=config.gamma, gather=gather)
