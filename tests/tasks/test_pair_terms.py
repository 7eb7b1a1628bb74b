"""Terms on pairs: who may be a wrong partner, how hard, and that the verdict is learnt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.gramian import gram_volume
from medcl.objectives.matching import matching, volume_odds
from medcl.tasks.alignment import AlignTask
from medcl.tasks.pair_terms import MatchingTerm, draw
from medcl.tasks.seen import Seen
from tests.tasks.alignments import TEXTS, config, task_of

MATCHING = {"objective": {"name": "matching"}, "between": ["report", "radiograph"]}


def seen_of(task: AlignTask, number: int = 0) -> Seen:
    return Seen(task.network, task.sampler.render(task.sampler.plan(number), "cpu"))


def term_of(task: AlignTask) -> MatchingTerm:
    term = task.terms[0]
    assert isinstance(term, MatchingTerm)
    return term


def drawn(task: AlignTask, step: int) -> tuple[Seen, Tensor, Tensor, Tensor, Tensor]:
    seen, term = seen_of(task), term_of(task)
    rows = term.rows(seen)
    return seen, rows, *term.partners(seen, rows, term.tokens(seen, rows), step)


class TestPartners:
    @pytest.mark.parametrize("odds", ["cosine", "volume"])
    def test_never_the_own_nor_one_of_the_same_group_or_text(self, odds: str) -> None:
        texts = {str(number): TEXTS[number % 6] for number in range(12)}  # every text twice
        groups = [number % 4 for number in range(12)]
        term = {**MATCHING, "objective": {"name": "matching", "odds": odds, "sharpness": 5.0}}
        task = task_of(config([term]), texts=texts, groups=groups).eval()
        met = set()
        for step in range(40):
            seen, rows, image, text, found = drawn(task, step)
            assert found.all()
            records = seen.batch.record[rows]
            for partner in (image, text):
                pairs = list(zip(records.tolist(), records[partner].tolist(), strict=True))
                met |= set(pairs)
                assert all(one % 6 != other % 6 and one % 4 != other % 4 for one, other in pairs)
        assert len(met) == sum(
            one % 6 != other % 6 and one % 4 != other % 4 for one in range(12) for other in range(12)
        )

    def test_a_step_draws_the_same_again(self) -> None:
        task = task_of(config([MATCHING])).eval()
        one, again, later = (drawn(task, step) for step in (3, 3, 4))
        assert one[2].equal(again[2])
        assert one[3].equal(again[3])
        assert not (one[2].equal(later[2]) and one[3].equal(later[3]))

    def test_harder_ones_come_more_often(self) -> None:
        odds = torch.tensor([[0.0, 0.9, 0.1]]).expand(3000, 3)
        found = torch.multinomial(odds, 1, generator=torch.Generator().manual_seed(0))
        assert (found == 1).float().mean() == pytest.approx(0.9, abs=0.03)
        anchor, others = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
        volume = gram_volume(anchor, others[None])
        by_volume = volume_odds(volume)
        assert (by_volume.diagonal() == 0).all()
        ranked = by_volume[0, 1:].argsort(descending=True)
        assert ranked.equal(volume[0, 1:].argsort())

    def test_nobody_left_is_no_pair(self) -> None:
        task = task_of(config([MATCHING]), groups=[0] * 11 + [1]).eval()
        codes = term_of(task).codes(seen_of(task), 0)
        alone = codes.record == 11
        assert codes.present[0].all()
        assert codes.present[1:].all()  # the eleven have the twelfth, and it has them
        task = task_of(config([MATCHING]), groups=[0] * 12).eval()
        codes = term_of(task).codes(seen_of(task), 0)
        assert not codes.present[1:].any()
        assert term_of(task).objective(codes).loss.isfinite()
        assert alone.any()
        assert draw(torch.zeros(3, 3), torch.Generator()).tolist() == [0, 1, 2]

    def test_fewer_than_two_complete_records_cost_nothing(self) -> None:
        task = task_of(config([MATCHING]), texts={"3": TEXTS[3]})
        output = term_of(task).objective(term_of(task).codes(seen_of(task), 0))
        output.loss.backward()
        assert output.loss.item() == 0


class TestVerdict:
    def test_the_true_pair_is_the_first(self) -> None:
        task = task_of(config([MATCHING])).eval()
        seen = seen_of(task)
        codes = term_of(task).codes(seen, 0)
        texts, pictures = seen.encoded("report"), seen.encoded("radiograph")
        fusion, network = task.network.fusion, task.network
        places = fusion.adapt("radiograph", pictures.local)
        fused = fusion(texts.local.movedim(1, 2), texts.valid, places, torch.ones(places.shape[:2]).bool())
        torch.testing.assert_close(codes.z[0], network.matching(fused[:, 0]))

    def test_it_learns_who_belongs_to_whom(self) -> None:
        """One true pair to two wrong ones: what is blind to the picture stays at 0.64."""
        task = task_of(config([{**MATCHING, "objective": {"name": "matching", "sharpness": 10.0}}]))
        optimiser = torch.optim.Adam(task.parameters(), 0.02)
        losses = []
        for step in range(110):
            optimiser.zero_grad()
            output = term_of(task).objective(term_of(task).codes(seen_of(task, step), step))
            output.loss.backward()
            optimiser.step()
            losses.append(float(output.loss.detach()))
        assert output.all_equal == pytest.approx(0.6931, abs=1e-4)
        assert sum(losses[-10:]) / 10 < 0.55

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match="are not"):
            matching(torch.zeros(3, 4, 3), torch.ones(3, 4).bool())

    def test_an_encoder_without_places_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.tasks.alignments.Cells.__init__", _without_places)
        with pytest.raises(
            ConfigError, match="words cannot attend to radiograph: its encoder gives no features of places"
        ):
            task_of(config([MATCHING]))


def _without_places(self: torch.nn.Module) -> None:
    torch.nn.Module.__init__(self)
    self.channels, self.local_channels = 16, None
