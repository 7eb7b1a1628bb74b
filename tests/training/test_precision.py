"""The precision a machine computes in."""

import logging

import pytest
import torch

from medcl.training.precision import resolve_precision


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [({}, "32"), ({"avx512_bf16": False}, "32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_auto_is_bf16_where_a_cpu_has_instructions_for_it(instructions, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert resolve_precision("auto", gpu=False) == expected


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_named_precision_is_kept_and_slow_bf16_is_warned_of(precision, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    with caplog.at_level(logging.WARNING):
        assert resolve_precision(precision, gpu=False) == precision
    assert ("set it to auto" in caplog.text) == (precision == "bf16")
