"""Contrast with the whole data set from small batches: SogCLR and iSogCLR, for one modality and for two (objectives.md 4.4, 4.5).

Every record keeps a moving average u of what its negatives add up to, so that the gradient estimates that of negatives from all
records; the individual forms also keep a temperature for every record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import masked_logsumexp, masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.state import StatefulObjective, gathered, mean_by_id


@dataclass(frozen=True)
class Averaged:
    """What a step computes: the surrogate loss, and the new state of the batch's own items.

    ``log_u`` (K, B): logarithm of the moving averages, one row a side (:func:`sog_clr` has one, :func:`sog_clip` two).
    ``slope`` (K, B): derivative of the temperature's own objective, for the individual and the global temperature.
    """

    output: LossOutput
    log_u: Tensor
    slope: Tensor


def sog_clr(
    views: Tensor,
    *,
    log_u: Tensor,
    first_visit: Tensor,
    gamma: float = 0.9,
    temperature: float | Tensor = 0.1,
    rho: float = 0.3,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> Averaged:
    """``l_i = sum over both views of [ mean_j sg(exp(s_ij / t_i) / u_i) s_ij - s_i+ ]``, a surrogate whose gradient counts.

    ``g = mean_j exp(s_ij / t_i)`` over the 2(B - 1) rows of other instances; ``u = (1 - gamma) u + gamma g``, g itself on the
    first visit. ``views`` (2, B, D).   ``log_u`` (B,): of the items' records;   ``first_visit`` (B,): they have none yet.
    ``temperature``: number or (B,).   ``rho``: radius in ``slope = log u + rho - mean_j exp(s/t)/u s/t``.
    ``subject`` (B,): other items of one patient are no negatives.   ``per_anchor`` (B,); ``parts`` hold ``nll``, to look at.
    gamma = 1: the gradient of 2 t DCL. All rows equal: 0, u = exp(1/t), slope rho.
    Source: Yuan et al. 2022 (SogCLR); Qiu et al. 2023 (iSogCLR, whose temperatures settle where the divergence of the
    negatives' weights from uniform is rho). Choose ``sog_clr`` when memory allows small batches only; ``isog_clr`` when the
    cohort is long-tailed besides (rare findings, scanners). Both need records that come again, ten times or more.
    """
    if views.ndim != 3 or len(views) != 2:
        raise ValueError(f"views are {tuple(views.shape)}; two views are (2, B, D)")
    with torch.autocast(views.device.type, enabled=False):
        own = unit(wide(views)) if normalize else wide(views)
        every, offset = gather.rows(own.transpose(0, 1))
        others = _others(own.shape[1], len(every), offset, subject, gather).repeat(1, 2)
        similarity = own @ every.transpose(0, 1).flatten(0, 1).T  # (2, B, 2T)
        positive = (own[0] * own[1]).sum(1)
        tau = _column(temperature, similarity)
        new, weight = _moved(similarity / tau, others, log_u, first_visit, gamma)
        attracted = (weight * similarity).sum(-1)  # (2, B)
        slope = (new + rho - (weight * similarity.detach() / tau.detach()).sum(-1)).mean(0)
        value = attracted.sum(0) - 2 * positive
        both = torch.logaddexp(new[0], new[1]) - math.log(2)
        nll = (both - positive.detach() / tau.detach().squeeze(-1)).mean()
        output = _finish(value, others.any(1), positive, similarity, others, tau, nll, reduction, gather)
    return Averaged(output, both[None], slope[None])


def sog_clip(
    first: Tensor,
    second: Tensor,
    *,
    log_u: Tensor,
    first_visit: Tensor,
    gamma: float = 0.9,
    temperature: float | Tensor = 0.05,
    rho: float = 3.0,
    published_scale: bool = False,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> Averaged:
    """``l_i = 1/2 mean over j != i of sg(exp(d_ij / t_i) / u_i) d_ij``, ``d_ij = s(x_i, t_j) - s(x_i, t_i)``, both ways added.

    ``first``, ``second`` (B, D).   ``log_u``, ``temperature`` (2, B): of each direction, the temperature also a number.
    ``published_scale``: times B - 1, as the authors' code returns. Other arguments as of :func:`sog_clr`.
    ``per_anchor`` (B,). All rows equal: 0. Source: Yuan et al. 2022, Qiu et al. 2023. Choose them when encoders of image and
    report, or of image and table, train with batches of 16 to 128.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"first {tuple(first.shape)} and second {tuple(second.shape)} are not (B, D) both")
    with torch.autocast(first.device.type, enabled=False):
        own = torch.stack([wide(first), wide(second)])
        own = unit(own) if normalize else own
        every, offset = gather.rows(own.transpose(0, 1))
        others = _others(own.shape[1], len(every), offset, subject, gather)
        similarity = own @ every.transpose(0, 1).flip(0).mT  # (2, B, T)
        positive = (own[0] * own[1]).sum(1)
        apart = similarity - positive[:, None]
        tau = _column(temperature, similarity)
        new, weight = _moved(apart / tau, others, log_u, first_visit, gamma)
        slope = new + rho - (weight * apart.detach() / tau.detach()).sum(-1)
        value = (weight * apart).sum(-1).sum(0) / 2
        output = _finish(value, others.any(1), positive, similarity, others, tau, new.mean(), reduction, gather)
        if published_scale:
            scale = len(every) - 1
            output = LossOutput(output.loss * scale, output.per_anchor * scale, output.parts)
    return Averaged(output, new, slope)


def _others(batch: int, total: int, offset: int, subject: Tensor | None, gather: Gather) -> Tensor:
    """``(B, T)``: which instances are negatives of the own ones."""
    if total < 2:
        raise ConfigError("sog: a batch of 1 has no negatives; set batch to 2 or more")
    device = subject.device if subject is not None else None
    others = (torch.arange(batch, device=device) + offset)[:, None] != torch.arange(total, device=device)
    return others if subject is None else others & (subject[:, None] != gather.rows(subject)[0][None])


def _column(temperature: float | Tensor, like: Tensor) -> Tensor:
    """The temperature to divide ``(2, B, N)`` logits by."""
    if not isinstance(temperature, Tensor):
        return like.new_full((), temperature)
    return temperature.to(like.dtype)[..., None] if temperature.ndim else temperature.to(like.dtype)


@torch.no_grad()
def _moved(logits: Tensor, others: Tensor, log_u: Tensor, first_visit: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """The moved averages ``(2, B)`` in log form, and the constant weights ``exp(logit) / u / count`` ``(2, B, N)``."""
    others = others.to(logits.device)
    count = others.sum(1).clamp_min(1).to(logits.dtype)
    log_g = masked_logsumexp(logits, others.expand_as(logits)) - count.log()
    known = torch.logaddexp(_log(1 - gamma) + log_u.to(logits.dtype), _log(gamma) + log_g)
    new = torch.where(first_visit, log_g, known)
    weight = (logits - new[..., None]).exp().masked_fill(~others, 0.0) / count[:, None]
    return new, weight


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf


def _finish(
    value: Tensor,
    valid: Tensor,
    positive: Tensor,
    similarity: Tensor,
    others: Tensor,
    tau: Tensor,
    nll: Tensor,
    reduction: Reduction,
    gather: Gather,
) -> LossOutput:
    per_anchor = torch.where(valid, value, 0.0)
    ones = torch.ones_like(per_anchor)
    return LossOutput(
        loss=reduce(per_anchor, ones, valid.to(per_anchor.dtype), reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": positive.detach().mean(),
            "negative_cosine": masked_mean(similarity.detach(), others.expand_as(similarity)),
            "temperature": tau.detach().mean(),
            "nll": nll.detach(),
            "valid_terms": valid.sum(),
            "without_positive": torch.zeros_like(nll).detach(),
            "anchors_skipped": (~valid).sum(),
        },
    )


class _Entry(ObjectiveConfig):
    """What all four share."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "sample_ids"})
    compares: ClassVar[int | None] = 2

    gamma: float = Field(
        0.9, gt=0, le=1, description="weight of the batch in the moving average; 0.8 in the papers' scripts"
    )
    gamma_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: from 1 to gamma over the first half of the stage"
    )
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def gamma_at(self, step: int, steps: int) -> float:
        """The weight at optimiser step number ``step`` of ``steps``."""
        if self.gamma_schedule == "constant":
            return self.gamma
        done = min(2 * step / max(steps, 1), 1.0)
        return self.gamma + (1 - self.gamma) * (1 + math.cos(math.pi * done)) / 2

    def build(self, setting: Setting) -> nn.Module:
        assert isinstance(self, SogCLR | SogCLIP | ISogCLR | ISogCLIP)
        return AveragedObjective(self, setting)


def _check_inside(temperature: float, bounds: tuple[float, float]) -> None:
    if not bounds[0] <= temperature <= bounds[1]:
        raise ValueError(f"temperature {temperature} lies outside of range {list(bounds)}")


class SogCLR(_Entry):
    """Contrast with all records by moving averages, one temperature."""

    function = staticmethod(sog_clr)
    state: ClassVar[str] = "2 numbers a record"
    name: Literal["sog_clr"] = "sog_clr"
    temperature: PositiveFloat = 0.1


class SogCLIP(_Entry):
    """Contrast of two modalities with all records by moving averages; the temperature may be learned for all."""

    function = staticmethod(sog_clip)
    state: ClassVar[str] = "3 numbers a record"
    name: Literal["sog_clip"] = "sog_clip"
    temperature: PositiveFloat = Field(0.05, description="0.01 on web-scale pairs")
    temperature_mode: Literal["fixed", "global"] = Field(
        "fixed", description="global: learned, within range, towards rho"
    )
    rho: PositiveFloat = Field(3.0, description="radius for the learned temperature; 6 on web-scale pairs")
    range: tuple[PositiveFloat, PositiveFloat] = Field((0.01, 0.2), description="of the learned temperature")
    published_scale: bool = Field(False, description="times B - 1, as the authors' code")

    @model_validator(mode="after")
    def _inside(self) -> SogCLIP:
        if self.temperature_mode == "global":
            _check_inside(self.temperature, self.range)
        return self


class _Individual(_Entry):
    """A temperature of every record."""

    temperature: PositiveFloat
    range: tuple[PositiveFloat, PositiveFloat]
    eta: PositiveFloat = Field(0.01, description="learning rate of the temperatures; 0.01 to 0.03")
    beta: float = Field(0.9, gt=0, le=1, description="weight of the batch in the temperatures' momentum")

    @model_validator(mode="after")
    def _inside(self) -> _Individual:
        _check_inside(self.temperature, self.range)
        return self


class ISogCLR(_Individual):
    """Contrast with all records by moving averages, with a temperature of every record."""

    function = staticmethod(sog_clr)
    state: ClassVar[str] = "4 numbers a record"
    name: Literal["isog_clr"] = "isog_clr"
    temperature: PositiveFloat = Field(0.1, description="of every record, at the start")
    range: tuple[PositiveFloat, PositiveFloat] = Field((0.05, 0.7), description="of the temperatures")
    rho: float = Field(0.3, ge=0, description="how far the negatives' weights may be from uniform")
    grad_clip: PositiveFloat | None = Field(3.0, description="largest slope of a temperature; null: none, as LibAUC")


class ISogCLIP(_Individual):
    """Contrast of two modalities with all records, with two temperatures of every record."""

    function = staticmethod(sog_clip)
    state: ClassVar[str] = "7 numbers a record"
    name: Literal["isog_clip"] = "isog_clip"
    temperature: PositiveFloat = Field(0.05, description="of every record, at the start; 0.01 on web-scale pairs")
    range: tuple[PositiveFloat, PositiveFloat] = Field((0.01, 0.2), description="0.005 to 0.05 on web-scale pairs")
    rho: float = Field(
        3.0, ge=0, description="how far the negatives' weights may be from uniform; 6 on web-scale pairs"
    )
    grad_clip: PositiveFloat | None = Field(5.0, description="largest slope of a temperature; null: none, as LibAUC")
    published_scale: bool = Field(False, description="times B - 1, as the authors' code")


class AveragedObjective(StatefulObjective):
    """:func:`sog_clr` or :func:`sog_clip` with its state: ``log_u``, ``tau``, ``tau_momentum`` (K, N) and ``visits`` (N,)."""

    log_u: Tensor
    visits: Tensor
    tau: Tensor | None
    tau_momentum: Tensor | None

    def __init__(self, entry: SogCLR | SogCLIP | ISogCLR | ISogCLIP, setting: Setting) -> None:
        super().__init__(setting)
        if setting.records < 1:
            raise ConfigError(f"{entry.name}: keeps a state of every record and must know how many there are")
        self.entry = entry
        self.steps = setting.steps
        self.sides = 2 if isinstance(entry, SogCLIP | ISogCLIP) else 1
        shape = (self.sides, setting.records)
        individual = isinstance(entry, _Individual)
        self.register_buffer("log_u", torch.zeros(shape))
        self.register_buffer("visits", torch.zeros(setting.records, dtype=torch.long))
        self.register_buffer("tau", torch.full(shape, entry.temperature) if individual else None)
        self.register_buffer("tau_momentum", torch.zeros(shape) if individual else None)
        learned = isinstance(entry, SogCLIP) and entry.temperature_mode == "global"
        self.global_tau = nn.Parameter(torch.tensor(entry.temperature)) if learned else None
        self.examined = False

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        record = required(codes.record, entry.name, "needs the record of every item")
        self._examine(record)
        temperature: float | Tensor = entry.temperature
        if self.tau is not None:
            temperature = self.tau[:, record]
        elif self.global_tau is not None and isinstance(entry, SogCLIP):
            temperature = self.global_tau.detach().clamp(*entry.range)
        log_u, first_visit = self.log_u[:, record], self.visits[record] == 0
        gamma = entry.gamma_at(codes.step or 0, self.steps)
        subject = excluded_subjects(entry, codes)
        rho = 0.0 if isinstance(entry, SogCLR) else entry.rho
        if isinstance(entry, SogCLIP | ISogCLIP):
            found = sog_clip(
                codes.z[0],
                codes.z[1],
                log_u=log_u,
                first_visit=first_visit,
                gamma=gamma,
                temperature=temperature,
                rho=rho,
                published_scale=entry.published_scale,
                subject=subject,
                gather=gather,
            )
        else:
            found = sog_clr(
                codes.z,
                log_u=log_u[0],
                first_visit=first_visit,
                gamma=gamma,
                temperature=temperature[0] if isinstance(temperature, Tensor) else temperature,
                rho=rho,
                subject=subject,
                gather=gather,
            )
        rows = gathered(gather, record=record, log_u=found.log_u.T.contiguous(), slope=found.slope.T.contiguous())
        self.stage(**rows)
        if self.global_tau is None:
            return found.output
        # The value stays that of the embeddings' loss; the parameter's gradient is the mean slope.
        slope = rows["slope"].mean() * (self.global_tau - self.global_tau.detach())
        scaled = found.output.loss * temperature
        return LossOutput(scaled + slope, found.output.per_anchor * temperature, found.output.parts)

    @torch.no_grad()
    def write(self, staged: list[dict[str, Tensor]]) -> None:
        record, log_u, slope = (torch.cat([rows[name] for rows in staged]) for name in ("record", "log_u", "slope"))
        distinct, averaged = _log_mean_by_id(record, log_u)
        self.log_u[:, distinct] = averaged.T.to(self.log_u.dtype)
        self.visits[distinct] += 1
        entry = self.entry
        if isinstance(entry, ISogCLR | ISogCLIP) and self.tau is not None and self.tau_momentum is not None:
            if entry.grad_clip is not None:
                slope = slope.clamp(-entry.grad_clip, entry.grad_clip)
            _, slopes = mean_by_id(record, slope)
            momentum = (1 - entry.beta) * self.tau_momentum[:, distinct] + entry.beta * slopes.T.to(self.tau.dtype)
            self.tau_momentum[:, distinct] = momentum
            self.tau[:, distinct] = (self.tau[:, distinct] - entry.eta * momentum).clamp(*entry.range)

    def _examine(self, record: Tensor) -> None:
        """Look at the ids of the first batch only: reading values waits for the device."""
        if not self.examined and int(record.max()) >= self.records:
            raise ConfigError(f"{self.entry.name}: record {int(record.max())} is not among the {self.records} records")
        self.examined = True


def _log_mean_by_id(ids: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids (U,) and the logarithm of the mean of ``exp(logs) (n, K)`` of each (U, K)."""
    distinct, where = torch.unique(ids, return_inverse=True)
    top = logs.new_full((len(distinct), logs.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, where[:, None].expand_as(logs), logs, "amax")
    _, mean = mean_by_id(ids, (logs - top[where]).exp())
    return distinct, top + mean.log()
