"""Terms of an alignment that tell words: hidden ones, or the next one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medcl.config.align_stage import AlignTermConfig
from medcl.encoders.joint import JointEncoders
from medcl.encoders.text import Tokens
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.words import NOTHING, MaskedWords
from medcl.seeds import derive_seed
from medcl.tasks.alignment_terms import AlignTerm
from medcl.tasks.hidden_words import Hidden, draws_of, hide_words
from medcl.tasks.seen import Seen, modality_of


class WordTerm(AlignTerm):
    """What terms on words share: the report comes first, what its words attend to after it."""

    def rows(self, seen: Seen) -> Tensor:
        """The records (n,) that have the report and, where the words attend to something, any of that."""
        text, *others = (seen.present(place) for place in self.between)
        return (text & torch.stack(others).any(0) if others else text).nonzero().flatten()

    def tokens(self, seen: Seen, rows: Tensor) -> Tokens:
        """The words of the records ``rows``, which have the report."""
        every: Tokens = seen.inputs(self.between[0])
        return every[self.among(seen, rows)]

    def among(self, seen: Seen, rows: Tensor) -> Tensor:
        """Where the records ``rows`` stand among those that have the report."""
        there = seen.present(self.between[0])
        return (there.long().cumsum(0) - 1)[rows]

    def fused(self, seen: Seen, states: Tensor, tokens: Tokens, rows: Tensor) -> Tensor:
        """States ``(n, T, C)`` of the words of ``rows``, after attention to the places of the others in ``between``."""
        if len(self.between) == 1:
            return states
        assert seen.network.fusion is not None
        found: Tensor = seen.network.fusion(states, tokens.valid, *places_of(seen, self.between[1:], rows))
        return found

    def nothing(self, seen: Seen) -> Codes:
        """Codes of no text, attached to the graph."""
        network = seen.network
        assert network.language is not None
        vectors = network.text.vectors
        z = network.language(vectors.new_zeros(1, 0, network.text.channels), vectors)
        return Codes(z, words=torch.zeros(1, 0, dtype=torch.long, device=z.device))


class MaskedWordsTerm(WordTerm):
    """Hidden words of a report. The encoder reads the report once more, with these words hidden."""

    def __init__(self, config: AlignTermConfig, network: JointEncoders, setting: Setting) -> None:
        super().__init__(config, network, setting)
        assert isinstance(config.objective, MaskedWords)
        self.share = config.objective.share
        self.soft = config.objective.soft > 0
        self.seed = derive_seed(setting.seed, "hidden", *config.between)
        tokenizer = network.text.tokenizer
        if "mask" not in tokenizer.special:
            raise ConfigError(
                "masked_words: the vocabulary has no [MASK]; take one of medcl text-vocabulary, or a BERT's"
            )
        self.mask = tokenizer.special["mask"]
        self.register_buffer("ordinary", torch.tensor(tokenizer.ordinary), persistent=False)

    ordinary: Tensor

    def codes(self, seen: Seen, step: int | None) -> Codes:
        """``z (H, n, W)``: of up to H hidden tokens of n reports, a number for every token of the vocabulary."""
        rows = self.rows(seen)
        if not len(rows):
            return self.nothing(seen)
        tokens = self.tokens(seen, rows)
        tokens = replace(tokens, word=seen.network.text.tokenizer.words(tokens))
        draws = draws_of(self.seed, step or 0, seen.batch.record[rows].tolist(), tokens.ids.shape[1])
        hidden = hide_words(
            tokens, draws.to(tokens.ids.device), share=self.share, mask=self.mask, ordinary=self.ordinary
        )
        teacher = None
        if self.soft:
            of = required(
                seen.teacher, self.name, "soft needs a teacher; give the stage a term such as momentum_alignment"
            )
            with torch.no_grad():
                teacher = self.told(of, hidden, rows)
        z = self.told(seen, hidden, rows)
        return Codes(z, teacher=teacher, record=seen.batch.record[rows], words=hidden.told.T, step=step)

    def told(self, seen: Seen, hidden: Hidden, rows: Tensor) -> Tensor:
        """What a network says of the hidden tokens ``(H, n, W)``."""
        network = seen.network
        assert network.language is not None
        states = self.fused(seen, network.text.states(hidden.tokens), hidden.tokens, rows)
        at = states.gather(1, hidden.place[..., None].expand(-1, -1, states.shape[2]))
        return network.language(at, network.text.vectors).transpose(0, 1)


class NextWordsTerm(WordTerm):
    """The next word of a report, at every word."""

    def codes(self, seen: Seen, step: int | None) -> Codes:
        """``z (T - 1, n, W)``: after each token of n reports but the last, a number for every token of the vocabulary."""
        rows = self.rows(seen)
        if not len(rows):
            return self.nothing(seen)
        tokens = self.tokens(seen, rows)
        encoded = seen.encoded(self.between[0])
        network = seen.network
        assert network.language is not None
        assert encoded is not None
        assert encoded.local is not None
        states = self.fused(seen, encoded.local.movedim(1, 2)[self.among(seen, rows)], tokens, rows)
        z = network.language(states[:, :-1], network.text.vectors)
        told = torch.where(tokens.valid[:, 1:], tokens.ids[:, 1:], NOTHING)
        return Codes(z.transpose(0, 1), record=seen.batch.record[rows], words=told.T, step=step)


def places_of(seen: Seen, places: tuple[str, ...], rows: Tensor) -> tuple[Tensor, Tensor]:
    """What words may attend to in the records ``rows``: the places of all modalities ``(n, P, C)``, and which of them are there ``(n, P)``."""
    fusion = seen.network.fusion
    assert fusion is not None
    features, there = [], []
    for place in places:
        encoded = seen.encoded(place)
        if encoded is None:
            continue
        assert encoded.local is not None
        adapted = fusion.adapt(modality_of(place), encoded.local)
        real = torch.ones(adapted.shape[:2], dtype=torch.bool, device=adapted.device)
        if encoded.valid is not None:
            real = encoded.valid.flatten(1)
        features.append(seen.placed(adapted, place)[rows])
        there.append(seen.placed(real, place)[rows])
    return torch.cat(features, 1), torch.cat(there, 1)
