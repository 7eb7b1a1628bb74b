"""SepCLR: closed forms, which part a gradient comes from, and how the entry divides a code (volumetric.md 11, 15)."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.separation import SepCLR, sepclr

KINDS = ("control", "patient")


def test_all_equal_and_silent_is_0() -> None:
    found = sepclr(torch.ones(2, 4, 3), torch.zeros(2, 4, 2), torch.tensor([True, False, True, False]))
    assert float(found.loss) == pytest.approx(0.0, abs=1e-6)
    assert all(abs(float(value)) < 1e-6 for value in found.parts.values())


def test_bounds_of_its_parts() -> None:
    draw = torch.Generator().manual_seed(0)
    common, salient = (torch.randn(2, 8, width, generator=draw) for width in (4, 3))
    parts = sepclr(common, salient, torch.arange(8) % 2 == 0).parts
    assert -math.log(8) <= float(parts["k_jem"]) <= 0
    assert float(parts["common_uniform"]) < 0
    assert float(parts["salient_uniform"]) < 0


def test_salient_codes_of_controls_are_only_silenced() -> None:
    draw = torch.Generator().manual_seed(0)
    common, salient = (torch.randn(2, 6, width, generator=draw, dtype=torch.float64) for width in (4, 3))
    salient.requires_grad_()
    patient = torch.tensor([True, True, True, False, False, False])
    sepclr(common, salient, patient, silent_weight=10.0, tau=0.5).loss.backward()
    silence = (
        10.0 * 0.5 * 2 * salient.detach()[:, 3:] / (2 * 0.5) / 3
    )  # of half the views' mean of |s|^2 / 2 tau over 3 controls
    torch.testing.assert_close(salient.grad[:, 3:], silence)


@pytest.mark.parametrize("patient", [[True] * 4, [False] * 4, [True, False, False, False]])
def test_a_batch_of_one_kind_has_a_value(patient: list[bool]) -> None:
    common, salient = torch.randn(2, 4, 3, requires_grad=True), torch.randn(2, 4, 2, requires_grad=True)
    found = sepclr(common, salient, torch.tensor(patient))
    found.loss.backward()
    assert found.loss.isfinite()
    assert common.grad.isfinite().all()
    assert salient.grad.isfinite().all()


def test_the_entry_takes_the_last_channels_as_the_salient_code() -> None:
    z, labels = torch.randn(2, 4, 5), torch.tensor([0, 1, 0, 1])
    found = SepCLR(salient=2).build(Setting(5, classes=KINDS))(Codes(z=z, labels=labels))
    torch.testing.assert_close(found.loss, sepclr(z[..., :3], z[..., 3:], labels == 1).loss)
    turned = SepCLR(salient=2, controls="patient").build(Setting(5, classes=KINDS))(Codes(z=z, labels=labels))
    torch.testing.assert_close(turned.loss, sepclr(z[..., :3], z[..., 3:], labels == 0).loss)


@pytest.mark.parametrize(
    ("entry", "classes", "message"),
    [
        (SepCLR(salient=5), KINDS, "leaves no common code of the head's 5 channels; set head.out to more"),
        (
            SepCLR(salient=2, controls="healthy"),
            KINDS,
            "controls=healthy is no class beside others; the records have control, pat",
        ),
        (SepCLR(salient=2), ("control",), "is no class beside others"),
    ],
)
def test_what_does_not_fit_is_refused(entry: SepCLR, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        entry.build(Setting(5, classes=classes))
