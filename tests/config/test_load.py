"""Reading configurations: values, overrides, and messages."""

from pathlib import Path

import pytest
import yaml

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.finetune import FinetuneConfig
from medcl.config.load import load_config
from medcl.config.pretrain import PretrainConfig
from medcl.config.show import commented, commented_defaults
from medcl.errors import ConfigError
from medcl.runs import dump_config

MINIMAL = """
out: runs/pre
data:
  path: scans
stages:
  - name: global
    steps: 10
    terms:
      - objective: {name: nt_xent, temperature: 0.2}
"""


def _written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def _problems(tmp_path: Path, text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(PretrainConfig, _written(tmp_path, text), overrides)
    return list(caught.value.problems)


def test_file_and_overrides(tmp_path: Path) -> None:
    config = load_config(
        PretrainConfig,
        _written(tmp_path, MINIMAL),
        ["data.path=other", "stages.0.steps=7", "stages.0.terms.0.objective.temperature=0.5", "recipe.spacing=[1,1,2]"],
    )
    assert config.data.path == Path("other")
    assert config.stages[0].steps == 7
    assert config.stages[0].terms[0].objective.temperature == 0.5
    assert config.recipe.spacing == (1, 1, 2)


def test_a_precision_may_be_given_as_a_number(tmp_path: Path) -> None:
    config = load_config(PretrainConfig, _written(tmp_path, MINIMAL), ["trainer.precision=32"])
    assert config.trainer.precision == "32"
    with pytest.raises(ConfigError, match=r"trainer\.precision"):
        load_config(PretrainConfig, _written(tmp_path, MINIMAL), ["trainer.precision=16"])


def test_only_true_and_false_are_booleans(tmp_path: Path) -> None:
    text = MINIMAL.replace("path: scans", "path: on")
    assert load_config(PretrainConfig, _written(tmp_path, text)).data.path == Path("on")
    config = load_config(PretrainConfig, _written(tmp_path, MINIMAL), ["assume_aligned=true", "data.labels=no"])
    assert config.assume_aligned is True
    assert config.data.labels == Path("no")


def test_objective_by_name_alone(tmp_path: Path) -> None:
    text = MINIMAL.replace("objective: {name: nt_xent, temperature: 0.2}", "weight: 1.0")
    config = load_config(PretrainConfig, _written(tmp_path, text), ["objective.name=nt_xent"])
    assert config.objective is not None
    assert config.objective.name == "nt_xent"


def test_every_problem_at_once_with_line_and_suggestion(tmp_path: Path) -> None:
    text = MINIMAL.replace("path: scans", "pth: scans").replace("steps: 10", "steps: -1").replace("nt_xent", "nt_xnet")
    problems = _problems(tmp_path, text, ("trainer.devcie=cpu",))
    assert len(problems) == 5
    assert any("config.yaml:4: data.pth: no such key; did you mean 'path'?" in p for p in problems)
    assert any("data.path: is missing" in p for p in problems)
    assert any("config.yaml:7: stages.0.steps" in p and "-1" in p for p in problems)
    assert any("no objective 'nt_xnet'; did you mean 'nt_xent'?" in p for p in problems)
    assert "trainer.devcie: no such key; did you mean 'device'?" in problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("- 1\n- 2\n", "keys and values"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("version: 9\n", "version: 9 is not known"),
        ("out: a\nout: b\n", "key 'out' stands twice"),
        ("a: " + "[" * 60 + "]" * 60, "deep"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_hostile_or_broken_yaml(tmp_path: Path, text: str, message: str) -> None:
    (problem, *_) = _problems(tmp_path, text)
    assert message in problem
    assert "config.yaml" in problem


def test_missing_file_and_bad_override(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(PretrainConfig, tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="write key=value"):
        load_config(PretrainConfig, _written(tmp_path, MINIMAL), ["data.path"])
    with pytest.raises(ConfigError, match=r"stages\.5\.steps"):
        load_config(PretrainConfig, _written(tmp_path, MINIMAL), ["stages.5.steps=1"])


def test_resolved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(PretrainConfig, _written(tmp_path, MINIMAL))
    assert load_config(PretrainConfig, _written(tmp_path, dump_config(config))) == config
    assert load_config(PretrainConfig, _written(tmp_path, commented(config))) == config


def test_commented_defaults_are_yaml_and_say_what_is_required() -> None:
    text = commented_defaults(FinetuneConfig)
    values = yaml.safe_load(text)
    assert values["steps"] == FinetuneConfig.model_fields["steps"].default
    assert "out: ???" in text
    assert set(values) == set(FinetuneConfig.model_fields)


def test_the_usual_network_need_not_be_named(tmp_path: Path) -> None:
    path = _written(tmp_path, MINIMAL)
    assert load_config(PretrainConfig, path, ["encoder.size=base"]).encoder.size == "base"
    with pytest.raises(ConfigError, match=r"encoder\.filters: no such key"):
        load_config(PretrainConfig, path, ["encoder.filters=16"])
