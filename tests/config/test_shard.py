"""What a shard is and what it is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.load import load_config
from medcl.config.prepare import PrepareConfig
from medcl.config.shard import Shard
from medcl.errors import ConfigError
from medcl.runs import dump_config


@given(st.lists(st.text("ab01_", max_size=4)), st.integers(1, 9))
def test_shards_are_disjoint_complete_and_of_nearly_one_size(names: list[str], count: int) -> None:
    shares = [Shard(number, count).share(names) for number in range(1, count + 1)]
    assert sorted(name for share in shares for name in share) == sorted(set(names))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares == [Shard(number, count).share(reversed(names)) for number in range(1, count + 1)]


@pytest.mark.parametrize("text", ["0/4", "5/4", "a/b", "3", "1/0", "-1/4", "1/4/2", "", "1.5/4", "\u0661/4"])
def test_a_wrong_shard_is_one_clear_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Shard.parse(text)
    assert caught.value.problems == (f"shard: write i/n with i from 1 to n, such as 3/8 (given: '{text}')",)


@pytest.mark.parametrize("command", ["predict", "prepare", "run"])
def test_every_command_refuses_it_with_that_line(command: str, tmp_path) -> None:
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "pipeline.yaml").write_text("name: x\ndata: {path: data, test: 1}\narms: {scratch: {}}\nout: o\n")
    first = {"predict": [str(tmp_path), "scans"], "prepare": ["scans"], "run": [str(tmp_path / "pipeline.yaml")]}
    rest = [] if command == "run" else ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [command, *first[command], *rest, "--shard", "5/4"])
    assert isinstance(done.exception, ConfigError), done.output
    (line,) = done.exception.problems
    assert line.endswith("shard: write i/n with i from 1 to n, such as 3/8 (given: '5/4')")
    assert not (tmp_path / "out").exists()


def test_a_configuration_with_a_shard_is_written_and_read_again(tmp_path) -> None:
    config = load_config(PrepareConfig, overrides=["data.path=scans", "out=o", "shard=3/8"])
    assert config.shard == Shard(3, 8)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(PrepareConfig, tmp_path / "config.yaml") == config
