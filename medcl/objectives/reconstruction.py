"""Restoring what was hidden from the encoder: the masked autoencoder's loss."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, StatelessObjective, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import reduce, wide
from medcl.objectives.output import LossOutput, Reduction


def masked_reconstruction(
    restored: Tensor, image: Tensor, hidden: Tensor, *, reduction: Reduction = "mean", gather: Gather = LOCAL
) -> LossOutput:
    """``mean over hidden voxels of (restored - image)^2``.

    ``restored``, ``image`` (N, C, *S); ``hidden`` (N, *S), True where the encoder did not see the image.
    ``per_anchor`` (N,): mean over the view's hidden voxels; the mean over views weights each by how many it hides.
    Visible voxels count nothing; without hidden voxels the loss is 0.
    Source: He et al. 2022 (masked autoencoders), here on voxel intensities. Choose it as the restorative baseline: it needs
    neither pairs nor a large batch.
    """
    if restored.shape != image.shape:
        raise ValueError(f"restored {tuple(restored.shape)} and image {tuple(image.shape)} differ")
    with torch.autocast(restored.device.type, enabled=False):
        error = (wide(restored) - wide(image)).square().mean(1)
        per_view = torch.where(hidden, error, 0.0).flatten(1).sum(1)
        count = hidden.flatten(1).sum(1).to(per_view.dtype)
        per_view = per_view / count.clamp_min(1)
        variance = torch.where(hidden, wide(image).square().mean(1), 0.0).sum() / count.sum().clamp_min(1)
        return LossOutput(
            loss=reduce(per_view, count, count, reduction, gather),
            per_anchor=per_view,
            parts={"hidden_share": hidden.float().mean(), "hidden_power": variance.detach()},
        )


class MaskedReconstruction(ObjectiveConfig):
    """Masked autoencoder: mean squared error on the hidden voxels, from a dense head on the finest decoder map."""

    reads: ClassVar[Literal["vectors", "maps"]] = "maps"
    function = staticmethod(masked_reconstruction)
    needs: ClassVar[frozenset[str]] = frozenset({"hidden"})

    name: Literal["masked_reconstruction"] = "masked_reconstruction"

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        image = required(codes.image, self.name, "needs the clean images of the views")
        hidden = required(codes.hidden, self.name, "needs hidden blocks; set views.masking={ratio: 0.6}")
        if codes.z.shape[2] != image.shape[2]:
            raise ConfigError(
                f"{self.name}: the head gives {codes.z.shape[2]} channels, the images have {image.shape[2]}; "
                f"set head.out={image.shape[2]}"
            )
        if codes.z.shape[3:] != image.shape[3:]:
            raise ConfigError(
                f"{self.name}: restores a map of {tuple(codes.z.shape[3:])} voxels, the images have "
                f"{tuple(image.shape[3:])}; set at to the finest decoder map"
            )
        return masked_reconstruction(codes.z.flatten(0, 1), image.flatten(0, 1), hidden.flatten(0, 1), gather=gather)
