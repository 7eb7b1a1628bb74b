"""Terms on words: what is hidden follows from seed, step and record, padding and absent texts change nothing, and it learns."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcl.config.words import FusionConfig
from medcl.encoders.fusion import Fusion
from medcl.encoders.text import Tokens, learn_vocabulary
from medcl.errors import ConfigError
from medcl.objectives.words import NOTHING
from medcl.tasks.alignment import AlignTask
from medcl.tasks.hidden_words import Hidden, draws_of, hide_words
from medcl.tasks.seen import Seen
from tests.tasks.alignments import TEXTS, config, task_of, tokenizer

MASKED = {"objective": {"name": "masked_words"}, "between": ["report"]}
SHOWN = {"objective": {"name": "masked_words"}, "between": ["report", "radiograph"]}
NEXT = {"objective": {"name": "next_words"}, "between": ["report", "radiograph"]}
CAUSAL = {"causal": True, "pooling": "eos"}


def hidden(tokens: Tokens, *, step: int = 0, share: float = 0.15, seed: int = 0) -> Hidden:
    words = tokenizer()
    draws = draws_of(seed, step, range(len(tokens.ids)), tokens.ids.shape[1])
    return hide_words(tokens, draws, share=share, mask=words.special["mask"], ordinary=torch.tensor(words.ordinary))


def loss(task: AlignTask, number: int = 0, step: int = 0) -> Tensor:
    batch = task.sampler.render(task.sampler.plan(number), "cpu")
    term = task.terms[0]
    found: Tensor = term.objective(term.codes(Seen(task.network, batch), step)).loss
    return found


def trained(task: AlignTask, steps: int) -> list[float]:
    optimiser = torch.optim.Adam(task.parameters(), 0.02)
    found = []
    for step in range(steps):
        optimiser.zero_grad()
        value = loss(task, step, step)
        value.backward()
        optimiser.step()
        found.append(float(value.detach()))
    return found


class TestHiding:
    def test_whole_words_and_nothing_that_is_special(self) -> None:
        pieces = learn_vocabulary(TEXTS, 40, 64)  # nearly every word in pieces
        tokens = pieces([*TEXTS[:4], ""])
        draws = draws_of(0, 0, range(5), tokens.ids.shape[1])
        ordinary = torch.tensor(pieces.ordinary)
        found = hide_words(tokens, draws, share=0.3, mask=pieces.special["mask"], ordinary=ordinary)
        there = found.told != NOTHING
        hides = torch.zeros_like(tokens.valid).scatter(1, found.place, there)
        assert not hides[tokens.word < 0].any()
        assert (tokens.word[:, 1:3] == 0).all(1)[:4].any()  # the first word has pieces
        for row in range(4):
            for word in tokens.word[row].unique():
                of_word = hides[row][tokens.word[row] == word]
                assert of_word.all() or not of_word.any()
            assert hides[row].any()
        assert not hides[4].any()
        assert found.told[there].equal(tokens.ids.gather(1, found.place)[there])
        assert found.tokens.ids[~hides].equal(tokens.ids[~hides])

    def test_shares_are_those_of_bert(self) -> None:
        words = tokenizer()
        tokens = words([" ".join(TEXTS)[:400]] * 400)
        found = hidden(tokens)
        ordinary = tokens.word >= 0
        there = found.told != NOTHING
        assert there.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.03)
        shown = found.tokens.ids.gather(1, found.place)[there]
        assert (shown == words.special["mask"]).float().mean() == pytest.approx(0.8, abs=0.03)
        assert (shown == found.told[there]).float().mean() == pytest.approx(0.1, abs=0.04)
        assert torch.isin(shown, torch.tensor([*words.ordinary, words.special["mask"]])).all()

    def test_another_step_hides_others_and_the_same_step_the_same(self) -> None:
        tokens = tokenizer()(TEXTS)
        one, again, later = hidden(tokens), hidden(tokens), hidden(tokens, step=1)
        assert one.tokens.ids.equal(again.tokens.ids)
        assert not one.tokens.ids.equal(later.tokens.ids)
        assert not one.tokens.ids.equal(hidden(tokens, seed=1).tokens.ids)

    def test_a_record_hides_the_same_beside_longer_ones(self) -> None:
        words = tokenizer()
        alone, beside = hidden(words(TEXTS[:1])), hidden(words([TEXTS[0], " ".join(TEXTS)]))
        length = alone.tokens.ids.shape[1]
        assert beside.tokens.ids[0, :length].equal(alone.tokens.ids[0])
        assert beside.told[0][beside.told[0] != NOTHING].equal(alone.told[0][alone.told[0] != NOTHING])

    def test_a_vocabulary_without_a_mask_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("medcl.encoders.text._SPECIAL", {"pad": ("[PAD]",)})
        with pytest.raises(ConfigError, match=r"masked_words: the vocabulary has no \[MASK\]"):
            task_of(config([MASKED]))


class TestMaskedWords:
    def test_it_learns_and_more_so_where_a_picture_tells_what_the_text_does_not(self) -> None:
        """Size, side and finding of a report do not follow from its other words."""
        much = {"name": "masked_words", "share": 0.4}
        blind, seeing = (trained(task_of(config([{**t, "objective": much}])), 75) for t in (MASKED, SHOWN))
        assert blind[0] == pytest.approx(math.log(len(tokenizer())), rel=0.3)
        assert sum(blind[-10:]) / 10 < 0.45 * blind[0]
        assert sum(seeing[-15:]) < 0.85 * sum(blind[-15:])

    def test_a_teacher_softens_the_targets(self) -> None:
        soft = {**SHOWN, "objective": {"name": "masked_words", "soft": 0.4}}
        task = task_of(config([soft])).eval()
        batch = task.sampler.render(task.sampler.plan(0), "cpu")
        with pytest.raises(ConfigError, match="soft needs a teacher; give the stage a term such as momentum_alignment"):
            task.terms[0].codes(Seen(task.network, batch), 0)
        other = copy.deepcopy(task.network)
        for parameter in other.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        same, differs = (
            task.terms[0].codes(Seen(task.network, batch, teacher=Seen(of, batch)), 0) for of in (task.network, other)
        )
        torch.testing.assert_close(same.teacher, same.z)
        assert not same.teacher.requires_grad
        torch.testing.assert_close(differs.z, same.z)
        hard, value = (task_of(config([SHOWN])).terms[0].objective(differs), task.terms[0].objective(differs))
        assert value.loss != hard.loss
        torch.testing.assert_close(value.loss, 0.6 * hard.loss + 0.4 * value.parts["soft"])

    def test_padding_changes_nothing(self) -> None:
        task = task_of(config([SHOWN])).eval()
        batch = task.sampler.render(task.sampler.plan(0), "cpu")
        value = task.terms[0].objective(task.terms[0].codes(Seen(task.network, batch), 0)).loss
        tokens = batch.inputs["report"][0]
        longer = Tokens(
            *(
                torch.cat([part, torch.full_like(part[:, :5], fill)], 1)
                for part, fill in zip(
                    (tokens.ids, tokens.valid, tokens.segment, tokens.word), (0, 0, 0, -1), strict=True
                )
            )
        )
        padded = replace(batch, inputs={**batch.inputs, "report": (longer,)})
        again = task.terms[0].objective(task.terms[0].codes(Seen(task.network, padded), 0)).loss
        torch.testing.assert_close(again, value)

    @pytest.mark.parametrize("term", [MASKED, SHOWN, NEXT])
    def test_a_record_without_report_or_picture_takes_no_part(self, term: dict) -> None:
        encoder = CAUSAL if term is NEXT else None
        texts = {str(number): TEXTS[number] for number in range(12) if number not in (2, 5)}
        task = task_of(config([term], encoder=encoder), texts=texts, lacking=("7",)).eval()
        batch = task.sampler.render(task.sampler.plan(0), "cpu")
        codes = task.terms[0].codes(Seen(task.network, batch), 0)
        gone = {2, 5} if term is MASKED else {2, 5, 7}
        assert set(codes.record.tolist()) == set(range(12)) - gone
        if term is not MASKED:
            picture = batch.inputs["radiograph"][0].requires_grad_()
            task.terms[0].objective(task.terms[0].codes(Seen(task.network, batch), 0)).loss.backward()
            there = batch.record[batch.present["radiograph"]].tolist()
            assert all((picture.grad[row] != 0).any() == (record not in gone) for row, record in enumerate(there))

    @pytest.mark.parametrize("term", [MASKED, SHOWN, NEXT])
    def test_a_batch_without_reports_costs_nothing(self, term: dict) -> None:
        task = task_of(config([term], encoder=CAUSAL if term is NEXT else None), texts={})
        value = loss(task)
        value.backward()
        assert value.item() == 0


class TestCausal:
    def test_no_word_sees_a_later_one(self) -> None:
        task = task_of(config([NEXT], encoder=CAUSAL)).eval()
        batch = task.sampler.render(task.sampler.plan(0), "cpu")
        tokens = batch.inputs["report"][0]
        place = 6
        other = tokens.ids.clone()
        other[:, place] = tokenizer().ordinary[3]
        changed = replace(batch, inputs={**batch.inputs, "report": (replace(tokens, ids=other),)})
        one, two = (task.terms[0].codes(Seen(task.network, each), 0).z for each in (batch, changed))
        torch.testing.assert_close(one[:place], two[:place], rtol=0, atol=0)
        assert not torch.equal(one[place], two[place])

    def test_without_it_every_word_sees_all(self) -> None:
        network = task_of(config([MASKED])).network.eval()
        tokens = tokenizer()(TEXTS[:2])
        other = replace(tokens, ids=tokens.ids.index_fill(1, torch.tensor([6]), 9))
        assert not torch.equal(network.text.states(tokens)[:, 1], network.text.states(other)[:, 1])

    def test_fusion_lets_nothing_through_from_padding_or_unseen_places(self) -> None:
        torch.manual_seed(0)
        fusion = Fusion(FusionConfig(layers=2, heads=2), 8, {"ecg": 4}, causal=False).eval()
        states, places = torch.randn(2, 5, 8), fusion.adapt("ecg", torch.randn(2, 4, 6))
        valid, seen = torch.ones(2, 5).bool(), torch.ones(2, 6).bool()
        valid[:, 3:], seen[:, 4:] = False, False
        one = fusion(states, valid, places, seen)
        two = fusion(states.masked_fill(~valid[..., None], 9.0), valid, places.masked_fill(~seen[..., None], 9.0), seen)
        torch.testing.assert_close(one[:, :3], two[:, :3])

    def test_it_learns_to_write(self) -> None:
        losses = trained(task_of(config([NEXT], encoder=CAUSAL)), 45)
        assert sum(losses[-5:]) / 5 < 0.4 * losses[0]


class TestMessages:
    @pytest.mark.parametrize(
        ("terms", "encoder", "message"),
        [
            ([NEXT], {}, "next_words: the text encoder sees the word that is to be told"),
            ([MASKED], CAUSAL, "masked_words: words are told from both sides"),
            ([MASKED], {"causal": True}, "causal: the first token sees nothing else; set pooling=eos"),
            ([{**MASKED, "between": ["radiograph"]}], {}, "between names the report, or a section of it"),
            ([{**SHOWN, "between": ["report", "labs"]}], {}, "places to attend to"),
            ([{"objective": {"name": "matching"}, "between": ["report"]}], {}, "what it may belong to"),
            ([SHOWN], {"width": 18, "heads": 3}, "fusion.heads: 4 does not divide the text encoder's width 18"),
        ],
    )
    def test_what_cannot_be_served_is_said_early(self, terms: list[dict], encoder: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            config(terms, encoder=encoder, fusion={"heads": 4})
