"""`medcl inspect`: what a data set holds, and what is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medcl.config.inspect import InspectConfig
from medcl.errors import DataError
from medcl.files import write_text
from medcl.modalities.facts import read_all_facts
from medcl.records.checks import check
from medcl.records.facts import VolumeFacts
from medcl.records.findings import Finding
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.types import Progress
from medcl.workflow.inspection_modalities import check_modalities


@dataclass(frozen=True)
class Inspection:
    """A data set, the facts of its files, and the findings; these are empty where no check was asked for."""

    manifest: Manifest
    facts: Mapping[Path, VolumeFacts]
    findings: tuple[Finding, ...]
    out: Path

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def image(self, record: Record) -> VolumeFacts | None:
        """The facts of a record's first channel."""
        return self.facts.get(record.volume[0]) if record.volume else None

    def label(self, record: Record) -> VolumeFacts | None:
        """The facts of a record's label."""
        return self.facts.get(record.label) if record.label else None


def inspect(config: InspectConfig, progress: Progress | None = None) -> Inspection:
    """Open the data set, read every file once, check it if asked, and write ``manifest.jsonl`` (and ``findings.jsonl``).

    Problems of the data are findings, not exceptions; DataError only where there is no data set to inspect.
    """
    manifest = open_data(config.data, config.labels)
    run = RunFolder(config.out)
    _replace_earlier(run)
    with run.started("inspect", config):
        facts = read_all_facts(manifest, config.workers, progress)
        findings: tuple[Finding, ...] = ()
        if config.check:
            findings = (*check(manifest, facts), *check_modalities(manifest, config.workers, progress))
        inspection = Inspection(manifest, facts, findings, config.out)
        if config.label_volumes:
            manifest = with_label_volumes(manifest, facts)
        manifest.write(config.out / "manifest.jsonl")
        if config.check:
            rows = [{**asdict(finding), "file": str(finding.file or "")} for finding in findings]
            write_text(config.out / "findings.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        else:
            (config.out / "findings.jsonl").unlink(missing_ok=True)
        run.record(
            data_digest=manifest.digest,
            records=len(manifest),
            labelled=len(manifest.labelled()),
            findings={"checked": config.check, "errors": inspection.errors, "all": len(findings)},
        )
    return inspection


def with_label_volumes(manifest: Manifest, facts: Mapping[Path, VolumeFacts]) -> Manifest:
    """``manifest`` with targets ``NAME_mm3`` for every label (but 0) and ``foreground_mm3`` for all of them together.

    A record without a label gets none. Raises DataError where a label could not be read.
    """
    names = {value: name for value, name in manifest.label_names.items() if value}
    records, problems = [], []
    for record in manifest.records:
        found = facts.get(record.label) if record.label else None
        if found is not None and found.error is not None:
            problems.append(found.error)
        elif found is not None:
            voxel = math.prod(found.spacing)
            volumes = {
                f"{names.get(value, f'label {value}').lower().replace(' ', '_')}_mm3": found.values.get(value, 0)
                * voxel
                for value in names or [value for value in found.values if value]
            }
            whole = sum(count for value, count in found.values.items() if value) * voxel
            record = replace(record, targets={**record.targets, **volumes, "foreground_mm3": whole})
        records.append(record)
    if problems:
        raise DataError(problems)
    return replace(manifest, records=tuple(records))


def _replace_earlier(run: RunFolder) -> None:
    """Let this inspection take the place of a finished one: looking again is cheap, and runs build on data, not on it."""
    if run.is_finished() and run.read_facts().get("command") == "inspect":
        run.facts.unlink()
