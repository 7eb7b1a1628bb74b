"""A table at the end of the run: which reference vectors passed, failed, or are not built yet."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

_ROW = re.compile(r"test_oracles\.py::test_row(?:_not_built)?\[(?:\w+-)?(\w+)/(\w+)(?:-(\w+))?\]")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            match = _ROW.search(report.nodeid)
            if match and (report.when == "call" or report.outcome != "passed"):
                outcomes[match.group(1), match.group(2)].append(f"{match.group(3) or ''} {outcome}".strip())
    if not outcomes:
        return
    terminalreporter.section("reference vectors")
    totals: dict[str, int] = defaultdict(int)
    for (index, name), found in sorted(outcomes.items()):
        state = "not built" if found == ["skipped"] else "FAILED" if any("failed" in f for f in found) else "passed"
        totals[state] += 1
        detail = "" if state == "not built" else f"  ({', '.join(sorted(found))})"
        terminalreporter.write_line(f"{index:12} {name:30} {state}{detail}")
    terminalreporter.write_line(", ".join(f"{count} {state}" for state, count in sorted(totals.items())))
