"""What every import ends in, and what is asked of a network before it is taken for the one that the user named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from medcl.errors import WeightsError
from medcl.weights.load import LoadReport, summary


@dataclass(frozen=True)
class Imported:
    """The folder of weights that was written, what of the checkpoint went where, and what differs from the program it came from."""

    folder: Path
    report: LoadReport
    notes: tuple[str, ...]


@contextmanager
def about(file: Path) -> Iterator[None]:
    """Inside, every problem of weights names ``file``."""
    try:
        yield
    except WeightsError as error:
        named = [line if str(file) in line else f"{file}: {line}" for line in error.problems]
        raise WeightsError(named) from None


def input_channels(state: Mapping[str, Tensor], stems: Sequence[str]) -> int:
    """How many channels the network of ``state`` reads. Raises WeightsError where its first convolution, one of ``stems``, is not there."""
    stem = next((state[name] for name in stems if name in state), None)
    if stem is None or stem.ndim < 3 or not stem.numel():
        raise WeightsError(f"has no convolution {' or '.join(stems)} that reads the image; give the whole state dict")
    return int(stem.shape[1])


def refuse_leftovers(report: LoadReport, hint: str) -> None:
    """Raise WeightsError where tensors of the file's encoder have no place in the network, which then would compute something else."""
    left = [name for name in report.unused if name.startswith("encoder.")]
    if left:
        raise WeightsError(
            f"{len(left)} tensors of its encoder have no place in the network that was named ({summary(left)}); {hint}"
        )


def told_channels(report: LoadReport, theirs: int, ours: int) -> tuple[str, ...]:
    """The note on input channels; none where nothing was fitted."""
    if theirs == ours or not report.adapted:
        return ()
    return (
        f"{theirs} input channel{'s' * (theirs > 1)} became {ours}: the mean of the kernels, times {theirs}/{ours}, so that equal "
        "channels give what they gave",
    )
