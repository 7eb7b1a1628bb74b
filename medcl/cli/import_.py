"""`medcl import`; the module is called import_, as import is a word of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Results folder of nnU-Net v2 (plans.json, dataset.json, fold_0) or its checkpoint; checkpoint of nnssl; state dict."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the weights.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value: what a state dict does not say, such as encoder.name=vit recipe.spacing=[1,1,1]"
        ),
    ] = None,
    fold: Annotated[str, typer.Option(help="Which fold of a results folder of nnU-Net: a number or all.")] = "0",
) -> None:
    """Take over a network that another program trained, with its preparation as recipe.

    What was loaded, adapted and left random is listed; medcl finetune init= takes the folder, and medcl predict that of nnU-Net.

    Example: medcl import nnUNet_results/Dataset004/nnUNetTrainer__nnUNetPlans__3d_fullres --out weights/

    Example: medcl import model_swinvit.pt encoder.name=swin_unetr encoder.features=48 recipe.spacing=[1.5,1.5,2] --out weights/
    """
    from medcl.config.load import load_config
    from medcl.weights.imports.config import ImportConfig
    from medcl.weights.imports.source import import_weights

    imported = import_weights(checkpoint, out, load_config(ImportConfig, overrides=overrides or []), fold=fold)
    print(imported.report)
    print(f"written: {imported.folder}")
    for note in imported.notes:
        print(f"- {note}")
