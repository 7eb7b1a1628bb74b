"""`medcl export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[
        Path, typer.Argument(help="Run or weights of medcl finetune; for nnunet and hub also of medcl pretrain.")
    ],
    to: Annotated[str, typer.Option(help="onnx, torch (torch.export), bundle (MONAI), nnunet, or hub (Hugging Face).")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Write a trained network for other programs, with all that they need to use it.

    What their masks may differ in from those of medcl predict is said in a line each.

    Example: medcl export runs/seg --to bundle --out bundle/
    """
    from medcl.weights.exports.write import export

    written = export(run, to, out)
    print(f"written: {written.folder}")
    for note in written.notes:
        print(f"- {note}")
