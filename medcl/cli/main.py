"""`medcl`: finds the command, runs it, and turns problems into readable lines.

A command's file is imported when that command is called, and its heavy code when it runs, so that ``--help``
answers without torch.
"""

from __future__ import annotations

import importlib
import keyword
import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medcl import __version__
from medcl.allocation import keep_freed_memory
from medcl.errors import MedclError

COMMANDS = {
    "inspect": "What is in a folder of scans, and what is wrong with it.",
    "simulate": "Simulated patients, or small trees of credentialed data sets.",
    "prepare": "Reorient, resample, normalise and store volumes once.",
    "suggest": "Which volumes to label next.",
    "pretrain": "Learn an encoder from unlabelled volumes.",
    "finetune": "Train a segmentation network on a few labelled volumes.",
    "pair": "Put radiographs, ECGs and laboratory values of the same patients together.",
    "text-vocabulary": "Learn the word pieces of your own reports.",
    "align": "Bring images, reports, ECGs and laboratory values into one joint space.",
    "embed": "Codes of records in the joint space of an alignment.",
    "retrieve": "Search and score one modality by another.",
    "zeroshot": "Tell classes by prompts alone, and score that.",
    "ground": "Where in a radiograph a phrase is, against boxes.",
    "probe": "What every layer of a network knows, by linear probes.",
    "explain": "Where in an image and in which words a similarity rests.",
    "predict": "Segment new NIfTI or DICOM scans.",
    "resample": "Make a regular volume of a DICOM series of tilted or uneven slices.",
    "view": "Look at a volume with its masks, in one HTML page.",
    "evaluate": "Score masks against the truth.",
    "compare": "Paired differences between two evaluations.",
    "run": "Run a pipeline of all of these, resumable, ending in one page.",
    "import": "Take over weights of nnU-Net, nnssl, MONAI, timm, Hugging Face or a state dict.",
    "export": "Write a trained network as ONNX, MONAI bundle, torch.export, for nnU-Net or the Hub.",
    "objectives": "Which objectives there are, and when to choose which.",
    "describe": "What a run, a weights file or a data set is, and how it was made.",
    "demo": "The whole path in minutes, offline, on a simulated cohort.",
}
"""Every command with its line in ``medcl --help``; its code is ``medcl/cli/<name>.py``, with ``_`` for ``-`` and after a word of Python."""


class _LazyCommands(TyperGroup):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        file = cmd_name.replace("-", "_") + "_" * keyword.iskeyword(cmd_name)
        module = importlib.import_module(f"medcl.cli.{file}")
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name, help=module.command.__doc__)(module.command)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=_LazyCommands, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"medcl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
) -> None:
    """Learn from unlabelled scans; segment with a handful of labels."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr)


def main() -> None:
    """Entry point of the ``medcl`` command. Exit codes: 0 done, 1 done with problems found, 2 could not be done."""
    keep_freed_memory()
    debug = "--debug" in sys.argv
    if debug:  # allowed anywhere on the line
        sys.argv.remove("--debug")
        sys.argv.insert(1, "--debug")
    try:
        app()
    except (MedclError, OSError, MemoryError) as error:
        if debug:
            raise
        for problem in _problems(error):
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


def _problems(error: MedclError | OSError | MemoryError) -> tuple[str, ...]:
    """What the user can mend, a line each."""
    if isinstance(error, MedclError):
        return error.problems
    if isinstance(error, MemoryError):
        return ("not enough memory; close other programs, or ask for less at a time (batch, workers)",)
    return (f"{error.filename or 'the system'}: {error.strerror or error}",)


if __name__ == "__main__":
    main()
