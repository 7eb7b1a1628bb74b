"""Terms of an alignment that judge pairs of a report and what it may belong to."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.config.align_stage import AlignTermConfig
from medcl.encoders.joint import JointEncoders
from medcl.encoders.text import Tokens, pool
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gramian import gram_volume
from medcl.objectives.kernel import unit, wide
from medcl.objectives.matching import Matching, volume_odds
from medcl.objectives.momentum_alignment import matching_odds
from medcl.seeds import derive_seed
from medcl.tasks.seen import Seen
from medcl.tasks.word_terms import WordTerm, places_of


class MatchingTerm(WordTerm):
    """Every report with its own image, with a hard image, and its image with a hard report; of the records that have all of ``between``."""

    def __init__(self, config: AlignTermConfig, network: JointEncoders, setting: Setting) -> None:
        super().__init__(config, network, setting)
        assert isinstance(config.objective, Matching)
        self.entry = config.objective
        self.seed = derive_seed(setting.seed, "matching", *config.between)

    def rows(self, seen: Seen) -> Tensor:
        return torch.stack([seen.present(place) for place in self.between]).all(0).nonzero().flatten()

    def codes(self, seen: Seen, step: int | None) -> Codes:
        """``z (3, n, 2)``: the verdicts on the true pair, on the text with another image, on the image with another text."""
        network = seen.network
        assert network.fusion is not None
        assert network.matching is not None
        rows = self.rows(seen)
        if len(rows) < 2:
            z = network.matching(network.matching.weight.new_zeros(3, 0, network.text.channels))
            return Codes(z, present=torch.ones(3, 0, dtype=torch.bool, device=z.device))
        tokens = self.tokens(seen, rows)
        image, text, found = self.partners(seen, rows, tokens, step or 0)
        encoded = seen.encoded(self.between[0])
        assert encoded is not None
        assert encoded.local is not None
        states = encoded.local.movedim(1, 2)[self.among(seen, rows)]
        places, there = places_of(seen, self.between[1:], rows)
        own = torch.arange(len(rows), device=rows.device)
        texts, images = torch.cat([own, own, text]), torch.cat([own, image, own])
        fused = network.fusion(states[texts], tokens.valid[texts], places[images], there[images])
        z = network.matching(pool(fused, tokens.valid[texts], network.text.pooling))
        present = torch.cat([torch.ones_like(found[:1]), found])
        return Codes(z.view(3, len(rows), 2), record=seen.batch.record[rows], present=present, step=step)

    @torch.no_grad()
    def partners(self, seen: Seen, rows: Tensor, tokens: Tokens, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """For every one of ``rows`` the image that is hard for its text, the text that is hard for its image (n,), and whether there are such (2, n)."""
        group = seen.batch.group[rows]
        same = torch.unique(tokens.ids, dim=0, return_inverse=True)[1]
        excluded = (group[:, None] == group) | (same[:, None] == same)
        text, *others = (wide(seen.codes(place))[rows] for place in self.between)
        sharpness = self.entry.sharpness
        if self.entry.odds == "volume":
            volume = gram_volume(text, torch.stack(others))
            odds = [volume_odds(of, temperature=sharpness, excluded=excluded) for of in (volume, volume.T)]
        else:
            data = torch.stack([unit(codes) for codes in others]).sum(0)
            pairs = ((text, data), (data, text))
            odds = [matching_odds(*pair, temperature=sharpness, excluded=excluded) for pair in pairs]
        generator = torch.Generator().manual_seed(derive_seed(self.seed, step))
        drawn = [draw(of.cpu(), generator).to(rows.device) for of in odds]
        return drawn[0], drawn[1], torch.stack([of.sum(1) > 0 for of in odds])


def draw(odds: Tensor, generator: torch.Generator) -> Tensor:
    """One of the columns of every row of ``odds (n, n)``; of a row without any, its own."""
    own = torch.diag((odds.sum(1) <= 0).to(odds.dtype))
    return torch.multinomial(odds + own, 1, generator=generator).flatten()
