"""What a command loads, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

_CODE = """
import sys
sys.argv = ['medcl', *{arguments!r}]
from medcl.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(sys.modules), file=sys.stderr)
"""


def loaded_by(arguments: Sequence[str]) -> tuple[str, set[str]]:
    """What ``medcl`` with ``arguments`` prints, and the modules that are there at its end. Fails where the command does."""
    code = _CODE.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split())
