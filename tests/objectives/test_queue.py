"""Queues: what they hold and mask, MoCo, MoCo v3, NNCLR and MoCHi beside their closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.hard_negatives import HardNegativeSchedule
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import unit
from medcl.objectives.mixing import MoCHi, hardest, mixed_pairs, mixed_queries, mochi
from medcl.objectives.prediction import PredictorConfig
from medcl.objectives.queue import NNCLR, MoCo, MoCoV3, moco, moco_v3, nearest, nnclr
from tests.laws import plain_loops

SETTING = Setting(5, records=100, steps=10, seed=3)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(items: int = 4, seed: int = 0, first: int = 0) -> Codes:
    """Items of records ``first``, ``first`` + 1, ..., two of each patient."""
    record = torch.arange(first, first + items)
    z, teacher = draw(2, 2, items, 5, seed=seed)
    return Codes(z=z, teacher=teacher, record=record, subject=record // 2, step=9)


# The state


def test_queue_wraps_around_in_order() -> None:
    module = MoCo(queue=10).build(SETTING).double()
    keys = []
    for step in range(4):
        codes = batch(4, seed=step, first=4 * step)
        module(codes)
        assert codes.teacher is not None
        keys.append(unit(codes.teacher[1]))
        assert (module.filled, module.pointer) == (min(4 * (step + 1), 10), 4 * (step + 1) % 10)
    expected = torch.cat(keys)[6:]  # the last ten, of which the first six wrapped around
    torch.testing.assert_close(module.rows, torch.cat([expected[4:], expected[:4]]))
    assert module.row_record.tolist() == [*range(10, 16), *range(6, 10)]
    assert module.row_subject.tolist() == [record // 2 for record in module.row_record.tolist()]


def test_rows_that_are_not_filled_take_no_part() -> None:
    found = []
    for junk in (0.0, 7.0):
        module = MoCo(queue=16).build(SETTING).double()
        module(batch())
        module.rows[module.filled :] = junk
        found.append(module(batch(seed=1, first=20)))
    assert found[0].loss == found[1].loss
    assert found[0].all_equal == pytest.approx(math.log(1 + 4))


@pytest.mark.parametrize("entry", [MoCo(queue=16), MoCHi(queue=16)])
def test_an_empty_queue_gives_zero_without_a_direction(entry: MoCo | MoCHi) -> None:
    codes = batch()
    z = codes.z.clone().requires_grad_()
    found = entry.build(SETTING).double()(replace(codes, z=z))
    assert found.loss == 0
    assert found.all_equal is None
    assert not torch.autograd.grad(found.loss, z)[0].any()


@pytest.mark.parametrize(("patients", "removed"), [(True, 2), (False, 1)])
def test_rows_of_the_anchors_record_and_patient_take_no_part(patients: bool, removed: int) -> None:
    module = MoCo(queue=16, exclude_same_subject=patients, symmetric=False).build(SETTING).double()
    module(batch())
    codes = batch(seed=1)  # the same records again
    assert codes.teacher is not None
    found = module(codes)
    assert found.all_equal == pytest.approx(math.log(1 + 4 - removed))
    first = [row for row in range(4) if (row // 2 != 0 if patients else row != 0)]
    terms = plain_loops.info_nce(codes.z[0][:1], codes.teacher[1][:1], 0.2, extra=unit(batch().teacher[1])[first])
    torch.testing.assert_close(found.per_anchor[0], terms[0])


def test_subjects_are_asked_for_where_they_are_needed() -> None:
    codes = replace(batch(), subject=None)
    with pytest.raises(ConfigError, match="moco: exclude_same_subject needs the subjects"):
        MoCo(queue=16).build(SETTING).double()(codes)
    MoCo(queue=16, exclude_same_subject=False).build(SETTING).double()(codes)
    with pytest.raises(ConfigError, match="moco: needs the codes of a teacher"):
        MoCo(queue=16).build(SETTING).double()(replace(codes, teacher=None))


def test_length_follows_the_number_of_records() -> None:
    lengths = {count: MoCo().length(replace(SETTING, records=count)) for count in (150, 1024, 5003, 10**6)}
    assert lengths == {150: 256, 1024: 256, 5003: 1248, 10**6: 65536}
    assert MoCHi().length(replace(SETTING, records=10**6)) == 16384
    assert NNCLR().length(replace(SETTING, records=10**6)) == 98304
    assert MoCo(queue=77).length(SETTING) == 77
    with pytest.raises(ConfigError, match=r"moco: .* set queue to a number"):
        MoCo().length(replace(SETTING, records=0))


def test_a_step_that_the_queue_cannot_hold_is_refused() -> None:
    module = MoCo(queue=6).build(SETTING).double()
    module.auto_commit = False
    module(batch())
    with pytest.raises(ConfigError, match="moco: a step gives 8 or more rows, but its queue has 6"):
        module(batch(seed=1))
    module.eval()(batch(seed=1))


def test_state_is_written_at_commit_and_not_before() -> None:
    module = MoCo(queue=16).build(SETTING).double()
    module.auto_commit = False
    module(batch())
    module(batch(seed=1, first=4))
    assert module.filled == 0
    module.commit()
    assert (module.filled, module.updates) == (8, 1)
    assert module.row_record[:8].tolist() == list(range(8))


def test_backward_after_the_queue_has_moved_on() -> None:
    for entry in (MoCo(queue=8), MoCHi(queue=8), NNCLR(queue=8)):
        module = entry.build(SETTING).double()
        z = batch().z.clone().requires_grad_()
        found = [module(replace(batch(seed=step, first=4 * step), z=z)).loss for step in range(4)]
        assert torch.autograd.grad(torch.stack(found).sum(), z)[0].any()


def test_teacher_and_queue_get_no_gradient() -> None:
    for entry in (MoCo(queue=8), MoCHi(queue=8), MoCoV3()):
        module = entry.build(SETTING).double()
        codes = batch()
        assert codes.teacher is not None
        teacher = codes.teacher.clone().requires_grad_()
        z = codes.z.clone().requires_grad_()
        for seed in (1, 0):
            loss = module(
                replace(codes, z=z, teacher=teacher, record=codes.record + 8 * seed, subject=codes.subject + 8 * seed)
            ).loss
        gradients = torch.autograd.grad(loss, [z, teacher], allow_unused=True)
        assert gradients[0].any()
        assert gradients[1] is None


# MoCo


def test_moco_is_info_nce_with_the_queue_as_negatives() -> None:
    query, key, queue = draw(4, 5), draw(4, 5, seed=1), draw(7, 5, seed=2)
    found = moco(query, key, queue, temperature=0.3)
    rows = [plain_loops.info_nce(query[i : i + 1], key[i : i + 1], 0.3, extra=queue)[0] for i in range(4)]
    torch.testing.assert_close(found.per_anchor, torch.stack(rows))
    torch.testing.assert_close(found.loss, torch.stack(rows).mean())
    equal = moco(torch.ones(4, 5), torch.ones(4, 5), torch.ones(7, 5))
    assert equal.loss == pytest.approx(math.log(8))


def test_moco_in_tiles_equals_dense() -> None:
    query, key, queue = draw(6, 5), draw(6, 5, seed=1), draw(23, 5, seed=2)
    mask = torch.rand(6, 23, generator=torch.Generator().manual_seed(0)) < 0.7
    found = []
    for backend in ("dense", "tiled"):
        asked = query.clone().requires_grad_()
        output = moco(asked, key, queue, neg_mask=mask, backend=backend, tile=4)  # type: ignore[arg-type]
        found.append((output.loss, *torch.autograd.grad(output.loss, asked)))
    torch.testing.assert_close(found[0], found[1])


def test_moco_v3_and_nnclr_are_info_nce() -> None:
    query, key = draw(4, 5), draw(4, 5, seed=1)
    plain = info_nce(query, key, temperature=0.2)
    torch.testing.assert_close(moco_v3(query, key).loss, 0.4 * plain.loss)
    torch.testing.assert_close(moco_v3(query, key, reduction="none").loss, 0.4 * plain.per_anchor)
    torch.testing.assert_close(nnclr(query, key, temperature=0.2).loss, plain.loss)
    ones = torch.ones(4, 5, dtype=torch.float64)
    assert moco_v3(ones, ones, temperature=0.3).loss == pytest.approx(0.6 * math.log(4))
    assert nnclr(ones, ones).loss == pytest.approx(math.log(4))


def test_same_patient_is_never_a_negative_in_the_batch() -> None:
    subject = torch.tensor([0, 0, 1, 2])
    key = draw(4, 5, seed=1).requires_grad_()
    terms = nnclr(draw(4, 5), key, subject=subject, reduction="none").loss
    (gradient,) = torch.autograd.grad(terms[0], key)
    assert not gradient[1].any()
    assert gradient[2].any()
    assert moco_v3(draw(4, 5), key, subject=subject).loss < moco_v3(draw(4, 5), key).loss


# NNCLR


def test_nearest_neighbour_is_of_another_patient() -> None:
    query, support = draw(3, 5), draw(6, 5, seed=1)
    cosine = unit(query) @ unit(support).T
    torch.testing.assert_close(nearest(query, support), unit(support)[cosine.argmax(1)])
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, cosine[0].argmax()] = False
    mask[1] = False
    found = nearest(query, support, mask=mask)
    torch.testing.assert_close(found[0], unit(support)[cosine[0].argsort(descending=True)[1]])
    torch.testing.assert_close(found[1], unit(query)[1])
    torch.testing.assert_close(nearest(query, support[:0]), unit(query))


def test_nnclr_keeps_the_first_view() -> None:
    module = NNCLR(queue=8, predictor=PredictorConfig(hidden=6)).build(SETTING).double()
    codes = batch()
    assert module(codes).loss.requires_grad  # also on an empty support set
    torch.testing.assert_close(module.rows[:4], unit(codes.z[0]))


# MoCHi


def mixing(shares: tuple[float, float] = (0.3, 0.2)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, a queue, and points mixed of its hardest rows."""
    query, key, queue = draw(4, 5), draw(4, 5, seed=1), unit(draw(12, 5, seed=2))
    top, found = hardest(query, queue, 6)
    assert found.tolist() == [6] * 4
    pairs = mixed_pairs(queue, top[:, :3], top[:, 3:], torch.full((4, 3), shares[0], dtype=torch.float64))
    queries = mixed_queries(query, queue, top[:, :2], torch.full((4, 2), shares[1], dtype=torch.float64))
    return query, key, queue, torch.cat([pairs, queries], 1)


def test_mochi_without_points_is_moco() -> None:
    query, key, queue, _ = mixing()
    torch.testing.assert_close(mochi(query, key, queue, query.new_zeros(4, 0, 5)).loss, moco(query, key, queue).loss)
    off = MoCHi(queue=16, pairs=0, queries=0)
    late = MoCHi(queue=16, mixing=HardNegativeSchedule(off=0.95, ramp=0.0))
    losses = []
    for entry in (MoCo(queue=16), off, late):
        module = entry.build(SETTING).double()
        losses.append([float(module(batch(seed=step, first=4 * step)).loss.detach()) for step in range(3)])
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] == pytest.approx(losses[2])


def test_points_make_mochi_harder_than_moco() -> None:
    query, key, queue, mixed = mixing()
    assert (mochi(query, key, queue, mixed).per_anchor > moco(query, key, queue).per_anchor).all()
    terms = [
        plain_loops.info_nce(query[i : i + 1], key[i : i + 1], 0.2, torch.cat([queue, mixed[i]]))[0] for i in range(4)
    ]
    torch.testing.assert_close(mochi(query, key, queue, mixed).per_anchor, torch.stack(terms))


def test_points_are_unit_and_nearer_to_the_query_than_its_rows() -> None:
    query, _, queue, mixed = mixing((0.3, 0.4))
    torch.testing.assert_close(mixed.norm(dim=2), torch.ones(4, 5, dtype=torch.float64))
    top, _ = hardest(query, queue, 2)
    own = unit(query)
    assert (torch.einsum("ad,asd->as", own, mixed[:, 3:]) >= torch.einsum("ad,asd->as", own, queue[top])).all()


def test_hardest_rows_come_in_order_and_are_allowed() -> None:
    query, queue = draw(3, 5), unit(draw(8, 5, seed=1))
    mask = torch.rand(3, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[2] = False
    top, found = hardest(query, queue, 20, mask=mask)
    assert found.tolist() == mask.sum(1).tolist()
    for row in range(3):
        chosen = top[row, : found[row]]
        assert mask[row, chosen].all()
        cosines = queue[chosen] @ query[row]
        assert (cosines.diff() <= 0).all()


def test_an_anchor_without_negatives_has_no_points_either() -> None:
    query, key, queue, mixed = mixing()
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[1] = False
    found = mochi(query, key, queue, mixed, neg_mask=mask)
    assert found.per_anchor[1] == 0
    assert (found.per_anchor[[0, 2, 3]] > 0).all()


def test_gradient_of_mochi_holds_the_points_constant() -> None:
    query, key, queue, mixed = mixing()
    assert torch.autograd.gradcheck(lambda q: mochi(q, key, queue, mixed).loss, [query.requires_grad_()])


def test_points_grow_along_the_schedule() -> None:
    entry = MoCHi(queue=32, hardest=8, pairs=10, queries=6, mixing=HardNegativeSchedule(off=0.2, ramp=0.4))
    counts = []
    for step in (0, 4, 9):
        module = entry.build(SETTING).double()
        module(batch(first=20))
        level = module(replace(batch(), step=step)).all_equal
        counts.append(round(float(level.exp())) - 1 - 4)
    assert counts == [0, 8, 16]


def test_draws_follow_from_the_seed_and_the_update() -> None:
    def trace(seed: int) -> list[float]:
        module = MoCHi(queue=32, hardest=8).build(replace(SETTING, seed=seed)).double()
        module(batch(first=20))
        module.eval()
        losses = [float(module(batch()).loss) for _ in range(2)]
        module.updates += 1
        return [*losses, float(module(batch()).loss)]

    first, again, other = trace(1), trace(1), trace(2)
    assert first == again
    assert first[0] == first[1]
    assert len({first[0], first[2], other[0]}) == 3
