"""`medcl text-vocabulary`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[
        Path, typer.Argument(help="A data set with reports, of any layout; or a text file, one text a line.")
    ],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.")],
    size: Annotated[int, typer.Option(min=64, help="Pieces at most.")] = 30522,
) -> None:
    """Learn a WordPiece vocabulary from reports, for modalities.report.encoder.vocabulary of medcl align.

    Reports of records that the data set declares as validation or test are left out.

    Example: medcl text-vocabulary records.jsonl --size 8000 --out vocabulary.json
    """
    from medcl.workflow.text_vocabulary import write_vocabulary

    found = write_vocabulary(data, out, size)
    print(f"written: {out} ({found.pieces} pieces of {found.texts} texts)")
