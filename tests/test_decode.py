"""Contrastive search: its closed forms, and the whole search against one that reads everything anew at every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medcl.decode import Step, candidate_scores, contrastive_search

VOCABULARY, WIDTH = 11, 6


class _Recurrent(nn.Module):
    """A little recurrent language model; its state is the hidden state of its cell."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.cell = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        nn.init.normal_(self.head.weight, std=1.0)
        self.tokens_read = 0

    def read(self, tokens: Tensor, state: Tensor | None = None) -> Step[Tensor]:
        self.tokens_read += tokens.numel()
        hidden, last = self.cell(self.embedding(tokens), state)
        return Step(self.head(hidden[:, -1]), hidden, last)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[:, rows].contiguous()


def _prompt(rows: int = 3, length: int = 4) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _plain(model: _Recurrent, prompt: list[int], length: int, k: int, alpha: float) -> list[int]:
    tokens = list(prompt)
    for _ in range(length):
        read = model.read(torch.tensor([tokens]))
        probability = read.logits[0].softmax(0)
        best, chosen = -torch.inf, -1
        for token in probability.topk(k).indices.tolist():
            hidden = model.read(torch.tensor([[*tokens, token]])).hidden[0]
            alike = max(float(torch.cosine_similarity(hidden[-1], before, dim=0)) for before in hidden[:-1])
            score = (1 - alpha) * float(probability[token]) - alpha * alike
            if score > best:
                best, chosen = score, token
        tokens.append(chosen)
    return tokens


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.6), (3, 0.4), (2, 1.0), (VOCABULARY, 0.8)])
def test_search_equals_plain_loops(k: int, alpha: float) -> None:
    model, prompt = _Recurrent(), _prompt()
    found = contrastive_search(model, prompt, length=12, k=k, alpha=alpha)
    assert found.tolist() == [_plain(model, row, 12, k, alpha) for row in prompt.tolist()]


def test_without_penalty_it_is_greedy() -> None:
    model, prompt = _Recurrent(), _prompt()
    greedy = contrastive_search(model, prompt, length=10, k=1)
    assert torch.equal(contrastive_search(model, prompt, length=10, alpha=0.0), greedy)
    assert not torch.equal(contrastive_search(model, prompt, length=10), greedy)


def test_nothing_is_read_twice() -> None:
    model, prompt = _Recurrent(), _prompt(3, 4)
    contrastive_search(model, prompt, length=10, k=5)
    assert model.tokens_read == 3 * (4 + 10 * 5)


def test_rows_end_on_their_own() -> None:
    model, prompt = _Recurrent(), _prompt(6)
    free = contrastive_search(model, prompt, length=12)
    end = int(free[0, 7])
    ended = contrastive_search(model, prompt, length=12, end=end)
    for found, without in zip(ended.tolist(), free.tolist(), strict=True):
        new = without[4:]
        stop = new.index(end) + 1 if end in new else len(new)
        expected = new[:stop] + [end] * (ended.shape[1] - 4 - stop)
        assert found[4:] == expected
    one = contrastive_search(model, prompt[:1], length=12, end=end)
    assert one[0, -1] == end
    assert one.shape[1] <= 8


def test_a_repeated_state_is_avoided() -> None:
    context = torch.eye(3)[None, :2]
    candidates = torch.eye(3)[None, 1:]
    probability = torch.tensor([[0.6, 0.3]])
    torch.testing.assert_close(candidate_scores(context, candidates, probability), torch.tensor([[-0.36, 0.12]]))
    torch.testing.assert_close(candidate_scores(context * 9, candidates * 0.1, probability, alpha=0.0), probability)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        candidate_scores(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 2), alpha=1.5)
    with pytest.raises(ValueError, match="k is 0"):
        contrastive_search(_Recurrent(), _prompt(), length=3, k=0)
