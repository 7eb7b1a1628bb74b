"""Which configuration a fine-tuning has: its ``task`` says."""

from __future__ import annotations

from medcl.config.classification import ClassificationConfig
from medcl.config.finetune import FinetuneConfig
from medcl.config.prompt_tuning import PromptTuningConfig
from medcl.config.regression import RegressionConfig
from medcl.config.super_resolution import SuperResolutionConfig

AnyFinetune = FinetuneConfig | RegressionConfig | SuperResolutionConfig | PromptTuningConfig | ClassificationConfig

FINETUNING: dict[str, type[AnyFinetune]] = {
    "segmentation": FinetuneConfig,
    "regression": RegressionConfig,
    "super_resolution": SuperResolutionConfig,
    "prompts": PromptTuningConfig,
    "classification": ClassificationConfig,
}
"""The first is the one of files that name no task."""
