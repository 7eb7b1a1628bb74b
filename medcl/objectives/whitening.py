"""Shuffled group whitening, and contrast between differently whitened copies of a batch (objectives.md 5.1)."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import wide
from medcl.objectives.masks import SamePatient
from medcl.objectives.moments import centred, summed
from medcl.objectives.output import LossOutput, Reduction, mean_of, scaled
from medcl.objectives.state import Stateful
from medcl.objectives.temperature import Temperature, TemperatureConfig
from medcl.seeds import derive_seed


def group_whitening(
    rows: Tensor,
    permutation: Tensor | None = None,
    *,
    groups: int,
    eps: float = 1e-5,
    stop_gradient: bool = False,
    gather: Gather = LOCAL,
) -> Tensor:
    """``Y_g = (X_g - mean) Sigma_g^{-1/2}`` for each group of channels: mean 0 and, with ``eps=0``, covariance I.

    ``rows (B, D)``; group g takes the channels ``permutation[g D/G : (g+1) D/G]``, by default in their order. Mean and
    ``Sigma_g`` (biased, plus ``eps`` I) are those of the rows of all processes. Returns (B, D), channels in their own order.
    ``stop_gradient``: the whitening matrix counts as a constant, as in the released code.
    Raises ConfigError where the batch has fewer than D/G + 1 rows or a covariance is singular, ValueError where G does not divide D.
    """
    with torch.autocast(rows.device.type, enabled=False):
        permuted, order = _grouped(wide(rows), permutation, groups)
        deviations, count = centred(permuted, gather)
        _check_rows(int(count), deviations.shape[2])
        covariance = summed(deviations.mT @ deviations, gather) / count
        whitener = inverse_root(_plus(covariance, eps))
        return _ungrouped(deviations @ (whitener.detach() if stop_gradient else whitener), order)


def whitened_info_nce(
    views: Tensor,
    permutations: Tensor,
    *,
    groups: int,
    temperature: float | Tensor = 0.05,
    eps: float = 1e-5,
    stop_gradient: bool = False,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``sum over r >= 2 of info_nce(Y^1, Y^r)``, Y^r the batch whitened in ``groups`` groups of channels shuffled by permutation r.

    ``views (V, B, D)``; ``permutations (R, D)``, R >= 2. With one view Y^1 and Y^r are copies of that view; with more, Y^1 is of one view and
    Y^r of another, in the mean over ordered pairs. Each view is whitened by its own moments.   ``eps``, ``stop_gradient``: of :func:`group_whitening`.
    ``subject`` (B,): two items of one patient are never negatives.   ``per_anchor``: (B,) or (V (V - 1) B,), pair by pair.
    All rows equal: (R - 1) log B; with ``eps=0`` they are refused as singular. Source: Zhuo et al. 2023 (WhitenedCSE).
    Choose it when codes crowd in a narrow cone, as those of report encoders do, and retrieval matters.
    """
    if views.ndim != 3 or permutations.ndim != 2 or len(permutations) < 2:
        raise ValueError(
            f"views {tuple(views.shape)} and permutations {tuple(permutations.shape)}: not (V, B, D), (R >= 2, D)"
        )
    whitened = [
        [
            group_whitening(view, shuffle, groups=groups, eps=eps, stop_gradient=stop_gradient, gather=gather)
            for shuffle in permutations
        ]
        for view in views
    ]
    neg_mask = None if subject is None else ~SamePatient(subject, gather.rows(subject)[0])
    pairs = [(0, 0)] if len(views) == 1 else list(itertools.permutations(range(len(views)), 2))
    outputs = [
        info_nce(
            whitened[first][0],
            other,
            temperature=temperature,
            neg_mask=neg_mask,
            reduction=reduction,
            gather=gather,
        )
        for first, second in pairs
        for other in whitened[second][1:]
    ]
    copies = len(permutations) - 1
    per_anchor = torch.stack([output.per_anchor for output in outputs]).view(len(pairs), copies, -1).mean(1).flatten()
    return scaled(mean_of(outputs, per_anchor, reduction, repeats=copies), copies)


def inverse_root(matrices: Tensor) -> Tensor:
    """``S^{-1/2}`` of symmetric positive definite ``matrices (G, d, d)``; its gradient is stable where eigenvalues are nearly equal.

    Raises ConfigError for a singular matrix.
    """
    root: Tensor = _InverseRoot.apply(matrices)  # type: ignore[no-untyped-call]
    return root


class _InverseRoot(torch.autograd.Function):
    """The gradient solves the Sylvester equation in the eigenbasis: its divisor is a sum of roots, never a difference."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        least = values[..., -1] * matrices.shape[-1] * torch.finfo(values.dtype).eps
        if not (values[..., 0] > least).all():
            raise ConfigError(
                "whitening: a group of channels has a singular covariance (a collapsed code, or channels that repeat each "
                "other); set eps to more than 0, or use smaller groups"
            )
        roots = values.sqrt()
        ctx.save_for_backward(roots, vectors)
        inverse: Tensor = (vectors / roots[..., None, :]) @ vectors.mT
        return inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        rows, columns = roots[..., :, None], roots[..., None, :]
        inner = vectors.mT @ ((gradients[0] + gradients[0].mT) / 2) @ vectors
        found: Tensor = vectors @ (-inner / (rows * columns * (rows + columns))) @ vectors.mT
        return found


class GroupWhitening(Stateful):
    """Whitens ``rows (B, D)`` by the moments of the batch in training and keeps running moments of all channels.

    In evaluation the rows are left untouched, or whitened by the running moments with ``whiten_at_inference``. The moments are
    kept for all channels together, so that they serve every shuffle.   ``momentum``: share of a new batch in them.
    Other arguments: of :func:`group_whitening`.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(
        self,
        channels: int,
        *,
        groups: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        stop_gradient: bool = False,
        whiten_at_inference: bool = False,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.momentum = momentum
        self.stop_gradient = stop_gradient
        self.whiten_at_inference = whiten_at_inference
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("covariance", torch.eye(channels))

    def forward(self, rows: Tensor, permutation: Tensor | None = None, gather: Gather = LOCAL) -> Tensor:
        if self.training:
            whitened = group_whitening(
                rows, permutation, groups=self.groups, eps=self.eps, stop_gradient=self.stop_gradient, gather=gather
            )
            self._stage_moments(rows, gather)
            return whitened
        if not self.whiten_at_inference:
            return rows
        with torch.autocast(rows.device.type, enabled=False):
            deviations, order = _grouped(wide(rows) - self.mean, permutation, self.groups)
            blocks = order.view(self.groups, -1)
            covariance = self.covariance[blocks[:, :, None], blocks[:, None, :]]
            return _ungrouped(deviations @ inverse_root(_plus(covariance, self.eps)), order)

    def write(self, staged: list[dict[str, Tensor]]) -> None:
        for values in staged:
            self.mean.lerp_(values["mean"].to(self.mean), self.momentum)
            self.covariance.lerp_(values["covariance"].to(self.covariance), self.momentum)

    @torch.no_grad()
    def _stage_moments(self, rows: Tensor, gather: Gather) -> None:
        with torch.autocast(rows.device.type, enabled=False):
            given = wide(rows)
            deviations, count = centred(given, gather)
            mean = summed(given.sum(0), gather) / count
            self.stage(mean=mean, covariance=summed(deviations.T @ deviations, gather) / count)


def _grouped(rows: Tensor, permutation: Tensor | None, groups: int) -> tuple[Tensor, Tensor]:
    """The shuffled groups of channels ``(G, B, D/G)``, and the shuffle."""
    if rows.ndim != 2 or rows.shape[1] % groups:
        raise ValueError(f"rows {tuple(rows.shape)} are not (B, D) with D a multiple of {groups} groups")
    order = torch.arange(rows.shape[1], device=rows.device) if permutation is None else permutation
    return rows[:, order].view(len(rows), groups, -1).transpose(0, 1), order


def _ungrouped(grouped: Tensor, order: Tensor) -> Tensor:
    """Back from ``(G, B, D/G)`` to ``(B, D)``, the shuffle ``order`` undone."""
    return grouped.transpose(0, 1).flatten(1)[:, order.argsort()]


def _plus(covariance: Tensor, eps: float) -> Tensor:
    return covariance + eps * torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)


def _check_rows(rows: int, width: int) -> None:
    if rows < width + 1:
        raise ConfigError(
            f"whitening: groups of {width} channels need a batch of at least {width + 1}, not {rows}; use smaller groups"
        )


class WhitenedInfoNCE(ObjectiveConfig):
    """Shuffled group whitening (WhitenedCSE): differently whitened copies of a batch attract, its other rows repel."""

    function = staticmethod(whitened_info_nce)
    needs: ClassVar[frozenset[str]] = frozenset()

    name: Literal["whitened_info_nce"] = "whitened_info_nce"
    temperature: TemperatureConfig = 0.05
    copies: int = Field(3, ge=2, description="whitened copies, each of a shuffle of its own (R)")
    group: PositiveInt | None = Field(
        None, description="channels of a group; null: the most that divide the channels and are a quarter of the batch"
    )
    eps: NonNegativeFloat = Field(1e-5, description="added to the variances; 0 in the released code")
    stop_gradient: bool = Field(False, description="the whitening matrix is a constant, as in the released code")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        if self.group is not None and setting.channels % self.group:
            raise ConfigError(f"{self.name}: group={self.group} does not divide the {setting.channels} channels")
        return WhitenedObjective(self, setting)


class WhitenedObjective(nn.Module):
    """The shuffles of a step follow from the seed and the step, and so do not depend on the process."""

    def __init__(self, entry: WhitenedInfoNCE, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.seed = setting.seed

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry, channels = self.entry, codes.z.shape[2]
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "whitening", codes.step or 0))
        shuffles = torch.stack([torch.randperm(channels, generator=draw) for _ in range(entry.copies)])
        return whitened_info_nce(
            codes.z,
            shuffles.to(codes.z.device),
            groups=channels // (entry.group or self._group(codes.z, gather)),
            temperature=self.temperature(codes.step),
            eps=entry.eps,
            stop_gradient=entry.stop_gradient,
            subject=excluded_subjects(entry, codes),
            gather=gather,
        )

    @staticmethod
    def _group(z: Tensor, gather: Gather) -> int:
        """The widest groups that divide the channels and are at most a quarter of the rows of all processes."""
        rows, channels = int(gather.total(torch.tensor(z.shape[1], device=z.device))), z.shape[2]
        return max(width for width in range(1, channels + 1) if channels % width == 0 and width <= max(rows // 4, 1))
