"""Swapped prediction of cluster codes: SwAV (volumetric.md section 5)."""

from __future__ import annotations

import logging
import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, reduce, unit, wide
from medcl.objectives.moments import centred
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.state import Stateful
from medcl.objectives.temperature import Temperature, TemperatureConfig

log = logging.getLogger(__name__)


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Codes Q (n, K) of the ``scores`` (n, K): each row sums to 1, and the columns weigh about the same.

    ``Q = exp(scores / epsilon)``, then ``iterations`` times every column is scaled to 1/K and every row to 1/n.
    Equal scores give 1/K. No gradient.
    """
    # Scaling rows and columns in the log domain: nothing overflows, however small epsilon is.
    flow = wide(scores) / epsilon
    rows, columns = flow.shape
    for _ in range(iterations):
        flow = flow - flow.logsumexp(0, keepdim=True) - math.log(columns)
        flow = flow - flow.logsumexp(1, keepdim=True) - math.log(rows)
    return flow.softmax(1)


def swav_codes(
    views: Tensor,
    prototypes: Tensor,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue: Tensor | None = None,
    gather: Gather = LOCAL,
) -> Tensor:
    """Codes (A, B, K) of ``views (A, B, D)``, unit rows, among the rows of all processes and of the ``queue`` (A, L, D)."""
    found = []
    for number, view in enumerate(views.detach()):
        rows, offset = gather.rows(view)
        before = queue[number] if queue is not None else rows[:0]
        scores = torch.cat([before.to(rows.dtype), rows]) @ prototypes.detach().to(rows.dtype).T
        codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
        found.append(codes[len(before) + offset :][: len(view)])
    return torch.stack(found)


def swav(
    views: Tensor,
    prototypes: Tensor,
    *,
    assign: int = 2,
    temperature: float | Tensor = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_b = mean over i < assign, v != i of -sum over k of q_ibk log softmax_k(z_vb . c_k / t)``: a view predicts the codes of another.

    ``views`` (V, B, D), large crops first; ``prototypes`` (K, D) unit rows.   q: see :func:`swav_codes`, of the first ``assign`` views,
    without gradient.   ``queue`` (assign, L, D): earlier unit rows that take part in the balancing.   ``per_anchor`` (B,).
    Uniform predictions: log K. A loss that stays there learns nothing: fewer prototypes, a shorter queue.
    Source: Caron et al. 2020, equations 2 to 5. Choose it for many small crops of a volume at the price of few large ones, and for
    cohorts with natural groups.
    """
    if not 1 <= assign <= len(views) or len(views) < 2:
        raise ValueError(
            f"assign is {assign}; it must lie between 1 and the number of views, of which there are {len(views)}"
        )
    with torch.autocast(views.device.type, enabled=False):
        rows = unit(wide(views))
        prototypes = prototypes.to(rows.dtype)
        codes = swav_codes(
            rows[:assign], prototypes, epsilon=epsilon, iterations=iterations, queue=queue, gather=gather
        )
        tau = as_temperature(temperature, rows)
        guess = (rows @ prototypes.T / tau).log_softmax(-1)
        terms = -torch.einsum("ibk,vbk->ivb", codes, guess)
        other = ~torch.eye(assign, len(views), dtype=torch.bool, device=views.device)
        per_anchor = terms[other].view(-1, views.shape[1]).mean(0)
    every = torch.ones_like(per_anchor)
    chosen = torch.bincount(codes.argmax(-1).flatten(), minlength=len(prototypes)) > 0
    return LossOutput(
        loss=reduce(per_anchor, every, every, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "code_entropy": torch.special.entr(codes).sum(-1).mean(),
            "prototypes_used": chosen.double().mean(),
            "temperature": tau.detach(),
        },
        all_equal=reduce(
            every * math.log(len(prototypes)), every, every, "mean" if reduction == "none" else reduction, gather
        ),
    )


class SwAV(ObjectiveConfig):
    """SwAV: each view predicts to which prototypes the other belongs; codes are balanced over the batch, nothing repels."""

    function = staticmethod(swav)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    state: ClassVar[str] = "prototypes; with a queue: `queue` rows of `channels` for each assigning view"
    name: Literal["swav"] = "swav"

    prototypes: Annotated[int, Field(ge=2)] = Field(64, description="K: 10 to 20 times the groups expected")
    assign: PositiveInt = Field(2, description="the first views, whose codes the others predict: the large crops")
    temperature: TemperatureConfig = 0.1
    epsilon: PositiveFloat = Field(0.05, description="softness of the codes")
    iterations: PositiveInt = Field(3, description="of the balancing")
    queue: NonNegativeInt = Field(0, description="earlier rows that are balanced with the batch; for batches below 256")
    queue_from: NonNegativeInt = Field(0, description="step from which the queue takes part; it fills before")
    freeze_prototypes: NonNegativeInt = Field(0, description="steps in which the prototypes stay as drawn")
    centred: bool = Field(
        True,
        description="codes of a view lose their mean over the batch first: codes that begin all alike stay in one cluster",
    )

    def build(self, setting: Setting) -> nn.Module:
        return SwAVObjective(self, setting)


class SwAVObjective(Stateful):
    """:func:`swav` with its prototypes, unit rows at every step, and its queue."""

    queue: Tensor
    filled: Tensor

    def __init__(self, entry: SwAV, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.prototypes = nn.Parameter(unit(torch.randn(entry.prototypes, setting.channels)))
        self.register_buffer("queue", torch.zeros(entry.assign, entry.queue, setting.channels))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        if setting.batch and entry.prototypes > setting.batch + entry.queue:
            log.warning(
                "swav: %d prototypes for %d rows at a time; most stay without a row and codes turn uniform. "
                "Set prototypes to at most half of batch and queue",
                entry.prototypes,
                setting.batch + entry.queue,
            )

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        if len(codes.z) < entry.assign:
            raise ConfigError(
                f"swav: assign={entry.assign} of {len(codes.z)} views; set views.slots (or views.local.slots) to have as many"
            )
        if self.training:
            with torch.no_grad():
                self.prototypes.copy_(unit(self.prototypes))
        step = codes.step or 0
        # Held constant they keep a gradient, of zero, so that every process finds one.
        held = self.training and step < entry.freeze_prototypes
        prototypes = self.prototypes.detach() + 0 * self.prototypes if held else self.prototypes
        ready = entry.queue > 0 and step >= entry.queue_from and bool(self.filled > 0)
        views = wide(codes.z)
        if entry.centred:
            with torch.autocast(views.device.type, enabled=False):
                views = centred(views, gather)[0]
        found = swav(
            views,
            prototypes,
            assign=entry.assign,
            temperature=self.temperature(codes.step),
            epsilon=entry.epsilon,
            iterations=entry.iterations,
            queue=self.queue[:, : int(self.filled)] if ready else None,
            gather=gather,
        )
        if entry.queue:
            rows = unit(views[: entry.assign].detach())
            self.stage(rows=gather.rows(rows.transpose(0, 1).contiguous())[0].transpose(0, 1))
        return found

    def write(self, staged: list[dict[str, Tensor]]) -> None:
        new = torch.cat([values["rows"] for values in reversed(staged)], 1).to(self.queue.dtype)
        size = self.queue.shape[1]
        self.queue.copy_(torch.cat([new, self.queue], 1)[:, :size])
        self.filled.copy_((self.filled + new.shape[1]).clamp_max(size))
