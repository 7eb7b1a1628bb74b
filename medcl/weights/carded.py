"""Tensors and the YAML card beside them, which names their digest: a pair that was torn apart is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from medcl import __version__
from medcl.config.plain_yaml import load_plain, read_yaml_text
from medcl.config.strict import Strict
from medcl.errors import ConfigError, WeightsError
from medcl.files import atomic_path
from medcl.weights.read import MOST_SHEET_BYTES, sha256


class Card(Strict):
    """The facts of a file of tensors that these do not tell."""

    sha256: str = ""


AnyCard = TypeVar("AnyCard", bound=Card)
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def save_carded(state: Mapping[str, Tensor], tensors: Path, sheet: Path, card: Card) -> None:
    """Write ``state`` as ``tensors`` and ``card`` with their digest as ``sheet``; both are complete before either appears."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(sheet) as card_part, atomic_path(tensors) as part:
        save_file(whole, part, metadata={"format": "pt", "medcl": __version__})
        content = card.model_copy(update={"sha256": sha256(part)}).model_dump(mode="json")
        card_part.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")


def load_whole(module: AnyModule, state: Mapping[str, Tensor], tensors: Path, sheet: str) -> AnyModule:
    """``module`` with exactly the tensors ``state`` of the file ``tensors``, in evaluation mode. Raises WeightsError where they are not its own."""
    missing, surplus = module.load_state_dict(state, strict=False)
    if missing or surplus:
        raise WeightsError(
            f"{tensors}: {len(missing)} tensors of the network are missing and {len(surplus)} are not of it; "
            f"the file or {sheet} was changed"
        )
    return module.eval()


def read_card(kind: type[AnyCard], sheet: Path, tensors: Path) -> AnyCard:
    """The card ``sheet`` of ``tensors``. Raises WeightsError with one line a problem where it is damaged or of another file."""
    try:
        card = kind.model_validate(load_plain(read_yaml_text(sheet, MOST_SHEET_BYTES), sheet))
    except ValidationError as error:
        raise WeightsError([f"{sheet}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]) from None
    except ConfigError as error:
        raise WeightsError([f"{problem}; take it anew from the run" for problem in error.problems]) from None
    if not tensors.is_file() or card.sha256 != sha256(tensors):
        raise WeightsError(
            f"{tensors}: is not the file that {sheet.name} beside it describes; copy both from the same run"
        )
    return card
