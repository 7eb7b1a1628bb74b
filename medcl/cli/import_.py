"""`medcl import`; the module is called import_, as import is a word of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    checkpoint: Annotated[
        Path, typer.Argument(help="Results folder of nnU-Net v2 (plans.json, dataset.json, fold_0), or its checkpoint.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the weights.")],
    fold: Annotated[str, typer.Option(help="Which fold of a results folder: a number or all.")] = "0",
) -> None:
    """Take over a network that another program trained, with its preparation as recipe.

    What was loaded, adapted and left random is listed; medcl predict and medcl finetune init= take the folder.

    Example: medcl import nnUNet_results/Dataset004/nnUNetTrainer__nnUNetPlans__3d_fullres --out weights/
    """
    from medcl.weights.imports.nnunet import import_nnunet

    imported = import_nnunet(checkpoint, out, fold=fold)
    print(imported.report)
    print(f"written: {imported.folder}")
    for note in imported.notes:
        print(f"- {note}")
