"""Contrastive search: how a report generator picks its next token (objectives.md 6.6).

Greedy and beam search repeat themselves; sampling drifts off. Contrastive search picks, among the k most probable
tokens, the one whose hidden state is least like any state before it. Source: Su and Collier 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from medcl.objectives.kernel import unit, wide

State = TypeVar("State")


@dataclass(frozen=True)
class Step(Generic[State]):
    """What a decoder gives after reading tokens.

    ``logits`` (B, V): of the next token.   ``hidden`` (B, T, E): last-layer states of the T tokens just read.
    ``state``: whatever the decoder keeps so that nothing is read twice (keys and values, what it attends to).
    """

    logits: Tensor
    hidden: Tensor
    state: State


class Decoder(Protocol[State]):
    """A language model that is driven token by token."""

    def read(self, tokens: Tensor, state: State | None = None) -> Step[State]:
        """Read ``tokens (B, T)`` after what ``state`` has seen."""
        ...

    def select(self, state: State, rows: Tensor) -> State:
        """The state of a batch that holds the given ``rows`` of the batch of ``state``; a row may come several times."""
        ...


def candidate_scores(context: Tensor, candidates: Tensor, probability: Tensor, *, alpha: float = 0.6) -> Tensor:
    """``(B, K)``: ``(1 - alpha) p(v | x) - alpha max over j of cos(h_v, h_j)``; the highest is the next token.

    ``context`` (B, S, E): states of all tokens before.   ``candidates`` (B, K, E): states of the k candidates.
    ``probability`` (B, K): as the model gives them.   ``alpha`` in [0, 1]: 0 is greedy search.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it lies between 0 and 1")
    with torch.autocast(context.device.type, enabled=False):
        cosine = unit(wide(candidates)) @ unit(wide(context)).transpose(1, 2)
        return (1 - alpha) * wide(probability) - alpha * cosine.amax(2)


@torch.no_grad()
def contrastive_search(
    decoder: Decoder[State], prompt: Tensor, *, length: int, end: int | None = None, k: int = 5, alpha: float = 0.6
) -> Tensor:
    """Continue ``prompt (B, T)`` by up to ``length`` tokens; returns ``(B, T + n)``.

    ``k`` 5 and ``alpha`` 0.6 suit open-ended text, 3 to 5 and 0.4 where wording is bound. A row that has reached the
    token ``end`` is filled up with it. Every step reads k tokens a row and compares them with all S states: k S E products.
    Choose it for report generators that repeat sentences under greedy search.
    """
    if k < 1 or prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(f"k is {k} and the prompt {tuple(prompt.shape)}; both must hold a token at least")
    step = decoder.read(prompt)
    tokens, context = prompt, step.hidden
    batch = torch.arange(len(prompt), device=prompt.device)
    finished = torch.zeros_like(batch, dtype=torch.bool)
    for _ in range(length):
        probability, candidates = wide(step.logits).softmax(-1).topk(min(k, step.logits.shape[-1]), -1)
        wide_batch = batch.repeat_interleave(candidates.shape[1])
        step = decoder.read(candidates.reshape(-1, 1), decoder.select(step.state, wide_batch))
        hidden = step.hidden.view(*candidates.shape, -1)
        best = candidate_scores(context, hidden, probability, alpha=alpha).argmax(1)
        chosen = candidates[batch, best]
        if end is not None:
            chosen = chosen.masked_fill(finished, end)
            finished = finished | (chosen == end)
        tokens = torch.cat([tokens, chosen[:, None]], 1)
        if finished.all():
            break
        rows = batch * candidates.shape[1] + best
        context = torch.cat([context, hidden[batch, best][:, None]], 1)
        step = Step(step.logits[rows], step.hidden[rows], decoder.select(step.state, rows))
    return tokens
