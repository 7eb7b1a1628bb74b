"""What `medcl pretrain`, `medcl finetune` and `medcl align` share: reading the configuration and running it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from medcl.config.align import AlignConfig
from medcl.config.load import load_one_of
from medcl.config.pretrain import PretrainConfig
from medcl.config.shipped import find_config
from medcl.config.show import commented, commented_defaults
from medcl.config.strict import Strict
from medcl.config.tasks import FINETUNING

MODELS: dict[str, tuple[str, Mapping[str, type[Strict]]]] = {
    "pretrain": ("", {"": PretrainConfig}),
    "finetune": ("task", FINETUNING),
    "align": ("", {"": AlignConfig}),
}
"""The key that chooses the model of a command's configuration, and the models by its values."""


def run_training(name: str, config: Path | None, overrides: list[str], *, resume: bool, print_config: bool) -> None:
    """Read the configuration of ``name`` and run it; the first argument may already be an override."""
    key, models = MODELS[name]
    if config is not None and "=" in str(config):
        config, overrides = None, [str(config), *overrides]
    if print_config and config is None and not overrides:
        print(commented_defaults(next(iter(models.values()))), end="")
        return
    importlib.import_module("medcl.objectives")  # announces the objectives that a configuration may name
    resolved = load_one_of(models, key, find_config(config) if config else None, overrides)
    if print_config:
        print(commented(resolved), end="")
        return
    workflow = importlib.import_module(f"medcl.workflow.{name}")
    run = getattr(workflow, name)(resolved, resume=resume)
    state = run.read_facts().get("status")
    print(f"{'finished' if state == 'finished' else 'stopped; go on with --resume'}: {run.path}")
