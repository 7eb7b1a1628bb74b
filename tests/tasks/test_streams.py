"""Texts of an alignment: sentences of a report, and reports made wrong."""

from __future__ import annotations

from medcl.config.align import WRONG, ReportConfig
from medcl.encoders.text import learn_vocabulary
from medcl.modalities.wrong_report import KINDS
from medcl.tasks.streams import ReportStream, SentenceStream, WrongStream

SENTENCES = {
    "a": ("Left lung is clear.", "Heart is mildly enlarged.", "Three small nodules are seen.", "1."),
    "b": ("Normal chest.",),
    "c": (" ",),
}
EPOCHS = range(8)


def stream(
    kind: type[ReportStream], train: bool = True, seed: int = 0, shuffle: bool = True, **more: object
) -> ReportStream:
    tokenizer = learn_vocabulary([" ".join(parts) for parts in SENTENCES.values()], 60, 32)
    return kind(SENTENCES, tokenizer, ReportConfig(shuffle=shuffle), seed, train=train, **more)


def test_every_slot_has_another_sentence_that_can_stand_alone() -> None:
    found = stream(SentenceStream)
    drawn = [found.plan(["a", "b"], [epoch, epoch], 4) for epoch in EPOCHS]
    for slots in drawn:
        assert {slot[0] for slot in slots[:3]} == set(SENTENCES["a"][:3])
        assert slots[3][0] == slots[0][0]
        assert all(slot[1] == "Normal chest." for slot in slots)
    assert len({tuple(slot[0] for slot in slots) for slots in drawn}) > 2
    assert not found.has("c")
    again = stream(SentenceStream)
    assert [again.plan(["a"], [epoch], 2) for epoch in EPOCHS] == [found.plan(["a"], [epoch], 2) for epoch in EPOCHS]
    plain = stream(SentenceStream, train=False).plan(["a"], [5], 2)
    assert plain == [["Left lung is clear."], ["Heart is mildly enlarged."]]


def test_a_wrong_report_differs_in_one_point_from_what_the_report_shows() -> None:
    right, wrong = stream(ReportStream), stream(WrongStream)
    assert wrong.has("a")
    assert not wrong.has("b")
    for epoch in EPOCHS:
        (shown,), *slots = right.plan(["a"], [epoch], 1) + wrong.plan(["a"], [epoch], 3)
        for (other,) in slots:
            assert sum(one != two for one, two in zip(shown.split(), other.split(), strict=True)) == 1
        assert len({other for (other,) in slots}) == 3


def test_wrong_reports_of_one_kind() -> None:
    assert WRONG == KINDS
    counted = stream(WrongStream, train=False, kinds=["number"]).plan(["a"], [0], 2)
    assert counted[0] == counted[1]
    assert "Three" not in counted[0][0]
    assert "Left lung is clear. Heart is mildly enlarged." in counted[0][0]
