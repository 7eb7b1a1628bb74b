"""Every configuration that comes with medcl is valid and short."""

from pathlib import Path

import pytest

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import AlignConfig
from medcl.config.captions import CaptionsConfig
from medcl.config.load import load_one_of
from medcl.config.pipeline import PipelineConfig
from medcl.config.pretrain import PretrainConfig
from medcl.config.prompt_tuning import DescriptionsConfig
from medcl.config.prompts import PromptBank
from medcl.config.shipped import find_config, shipped_configs, shipped_folder
from medcl.config.split import SplitConfig
from medcl.config.tasks import FINETUNING
from medcl.errors import ConfigError
from medcl.tasks.requirements import check_requirements

MODELS = {
    "pretrain": ("", {"": PretrainConfig}),
    "finetune": ("task", FINETUNING),
    "align": ("", {"": AlignConfig}),
    "pipelines": ("", {"": PipelineConfig}),
    "splits": ("", {"": SplitConfig}),
    "descriptions": ("", {"": DescriptionsConfig}),
    "captions": ("", {"": CaptionsConfig}),
    "prompts": ("", {"": PromptBank}),
}


def kind_of(path: Path) -> str:
    """``pipelines``, or the folder in ``configs``."""
    first, second, *_ = path.relative_to(shipped_folder()).parts
    return first if first == "pipelines" else second


@pytest.mark.parametrize("path", shipped_configs(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_is_valid_and_short(path: Path) -> None:
    kind = kind_of(path)
    key, models = MODELS[kind]
    rest = [] if kind in ("splits", "captions", "descriptions", "prompts") else ["data.path=scans", "out=run"]
    config = load_one_of(models, key, path, rest)
    arms = len(config.arms) if isinstance(config, PipelineConfig) else 0
    assert len(path.read_text().splitlines()) - arms < 60, "a line for each arm, and little else"
    if isinstance(config, PretrainConfig):
        check_requirements(config)


def test_there_are_some_of_each_kind() -> None:
    assert {kind_of(path) for path in shipped_configs()} == set(MODELS)


def test_found_by_relative_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/finetune/segment.yaml") == shipped_folder() / "configs/finetune/segment.yaml"
    with pytest.raises(ConfigError, match="no such file"):
        find_config("../../etc/passwd")
