"""The command line itself: fast help without torch, readable errors, exit codes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from loading import loaded_by

import medcl.cli.main as main_module
from medcl.cli.main import COMMANDS


def _medcl(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medcl.cli.main", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.mark.parametrize("arguments", [("--help",), *[(name, "--help") for name in COMMANDS]])
def test_help_needs_no_torch(arguments: tuple[str, ...]) -> None:
    shown, modules = loaded_by(arguments)
    assert not {"torch", "monai", "lightning", "pandas", "scipy", "matplotlib"} & modules
    assert "Usage: medcl" in shown


def test_help_is_quick() -> None:
    """Best of five: the machine may be busy; the bound itself is DESIGN 1's."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        assert _medcl("pretrain", "--help").returncode == 0
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5


def test_every_command_is_listed() -> None:
    listed = _medcl("--help").stdout
    for name, line in COMMANDS.items():
        assert name in listed
        assert line.split()[0] in listed


def test_problems_are_lines_without_traceback(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text("out: x\ndata: {pth: y}\nsteps: many\n")
    done = _medcl("finetune", str(config), "trainer.devcie=cpu")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: ") for line in lines)
    assert "Traceback" not in done.stderr
    assert "Traceback" in _medcl("finetune", str(config), "--debug").stderr


def test_unknown_command_and_missing_file(tmp_path: Path) -> None:
    assert _medcl("segment").returncode == 2
    done = _medcl("pretrain", "configs/pretrain/nothing.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "no such file" in done.stderr


def test_what_the_system_refuses_is_a_line_too(tmp_path: Path, monkeypatch, capsys) -> None:
    done = _medcl("predict", "x" * 300, "scan.nii.gz", "--out", str(tmp_path / "masks"))
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr

    def exhausted() -> None:
        raise MemoryError

    monkeypatch.setattr(main_module, "app", exhausted)
    monkeypatch.setattr(sys, "argv", ["medcl"])
    with pytest.raises(SystemExit) as ended:
        main_module.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: not enough memory")
    monkeypatch.setattr(sys, "argv", ["medcl", "--debug"])
    with pytest.raises(MemoryError):
        main_module.main()


def test_shipped_configuration_is_found_from_anywhere(tmp_path: Path) -> None:
    done = _medcl(
        "pretrain", "configs/pretrain/hippocampus.yaml", "--print-config", "data.path=x", "out=y", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "stages:" in done.stdout
