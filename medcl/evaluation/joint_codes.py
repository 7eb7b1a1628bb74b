"""Codes of records in the joint space of an alignment, modality by modality, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medcl.errors import DataError
from medcl.files import atomic_path
from medcl.records.record import pseudonym

_FORMAT = "medcl joint codes 1"
_FACTS = "facts"


@dataclass(frozen=True)
class JointCodes:
    """``codes`` (N, D) float32 of every modality, not normalised, 0 where ``present`` (N,) is False; row n is of record ``ids[n]``.

    ``subjects`` (N,): of the records.   ``weights``: SHA-256 of the weights that made them.   ``data``: digest of the manifest.
    """

    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    codes: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    weights: str
    data: str

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.codes)

    def patterns(self) -> list[str]:
        """Of every record the modalities that it has, joined by +."""
        columns = {name: present.tolist() for name, present in self.present.items()}
        return [
            "+".join(name for name, column in columns.items() if column[row]) or "none" for row in range(len(self.ids))
        ]

    def select(self, ids: Sequence[str]) -> JointCodes:
        """Those of the records ``ids``, in that order. DataError names one that is not there."""
        places = {name: row for row, name in enumerate(self.ids)}
        if missing := [name for name in ids if name not in places]:
            raise DataError(
                f"the codes hold no record '{missing[0]}' ({len(missing)} are missing); make them anew with medcl embed"
            )
        rows = [places[name] for name in ids]
        return JointCodes(
            tuple(ids),
            tuple(self.subjects[row] for row in rows),
            {name: codes[rows] for name, codes in self.codes.items()},
            {name: present[rows] for name, present in self.present.items()},
            self.weights,
            self.data,
        )

    def with_subjects(self, subjects: Sequence[str]) -> JointCodes:
        """The same with other names of the subjects."""
        return replace(self, subjects=tuple(subjects))

    def write(self, path: Path) -> None:
        """Write ``.safetensors`` or ``.npz``, atomically: ``codes.NAME`` and ``present.NAME``, and ids and digests as JSON in ``facts``.

        Subjects are written under pseudonyms.
        """
        arrays = {f"codes.{name}": codes.float().cpu().contiguous() for name, codes in self.codes.items()}
        arrays |= {f"present.{name}": present.cpu().contiguous() for name, present in self.present.items()}
        facts = {
            "format": _FORMAT,
            "ids": self.ids,
            "subjects": [pseudonym(name) for name in self.subjects],
            "modalities": self.modalities,
            "weights": self.weights,
            "data": self.data,
        }
        with atomic_path(path) as part:
            if path.suffix == ".npz":
                plain: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
                np.savez(part, **{**plain, _FACTS: np.array(json.dumps(facts))})
            else:
                save_file(arrays, part, metadata={_FACTS: json.dumps(facts)})

    @classmethod
    def read(cls, path: Path) -> JointCodes:
        """Read what :meth:`write` wrote. Raises DataError where it is something else."""
        try:
            text, arrays = _arrays_of(path)
            facts: dict[str, Any] = json.loads(text)
            if facts["format"] != _FORMAT:
                raise ValueError("another format")
            return cls(
                tuple(facts["ids"]),
                tuple(facts["subjects"]),
                {name: arrays[f"codes.{name}"] for name in facts["modalities"]},
                {name: arrays[f"present.{name}"] for name in facts["modalities"]},
                facts["weights"],
                facts["data"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{path}: no codes of medcl embed ({error}); write them anew") from error


def _arrays_of(path: Path) -> tuple[str, dict[str, Tensor]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files if name != _FACTS}
            return str(stored[_FACTS]), arrays
    with safe_open(path, framework="pt") as stored:
        return (stored.metadata() or {})[_FACTS], {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
