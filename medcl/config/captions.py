"""How labels become captions: the wording for one kind of image and its labels, a file of its own."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from medcl.config.load import load_config
from medcl.config.shipped import find_config
from medcl.config.strict import Strict

_FINDINGS = "findings"
_PLACES = ("modality", "anatomy", _FINDINGS)


class LabelWording(Strict):
    """How one label is put into words."""

    phrase: str = Field("", description="what stands in sentences; default: the label's name in lower case")
    captions: tuple[str, ...] = Field(
        (), description="whole captions, drawn as well where the label is the only one that is present"
    )


class CaptionsConfig(Strict):
    """Captions of records without a report, from their ``targets``: 1 present, 0 absent, -1 uncertain, or the name of a class.

    Absent findings are never stated, uncertain ones are hedged. A template holds {modality}, {anatomy} and {findings}; an empty list
    takes medcl's own.
    """

    version: Literal[1] = 1
    modality: str = Field(description="such as X-ray")
    anatomy: str = Field(description="such as chest")
    normal: str | None = Field(None, description="the label which says that nothing is wrong, such as No Finding")
    most: PositiveInt = Field(3, description="findings of one caption; of more, some are drawn")
    labels: dict[str, LabelWording] = Field(min_length=1, description="the targets that are labels")
    present: tuple[str, ...] = Field((), description="templates for findings that are there")
    uncertain: tuple[str, ...] = Field((), description="templates for findings that may be there")
    healthy: tuple[str, ...] = Field((), description="templates where the label `normal` is present")
    silent: tuple[str, ...] = Field((), description="templates where the labels state nothing")

    @model_validator(mode="after")
    def _fits(self) -> CaptionsConfig:
        if self.normal is not None and self.normal not in self.labels:
            raise ValueError(f"normal: '{self.normal}' is none of the labels")
        for name in ("present", "uncertain", "healthy", "silent"):
            for template in getattr(self, name):
                _check(name, template, findings=name in ("present", "uncertain"))
        return self


def _check(name: str, template: str, *, findings: bool) -> None:
    try:
        places = {place for _, place, _, _ in Formatter().parse(template) if place is not None}
    except ValueError as error:
        raise ValueError(f"{name}: '{template}' is no template ({error})") from None
    if unknown := places - {*_PLACES}:
        raise ValueError(
            f"{name}: '{template}' has {{{unknown.pop()}}}; a template knows {{modality}}, {{anatomy}}, {{findings}}"
        )
    if (_FINDINGS in places) != findings:
        raise ValueError(f"{name}: '{template}' {'lacks' if findings else 'states'} {{findings}}")


def read_captions(path: Path | str) -> CaptionsConfig:
    """The captions of a file, or of one that comes with medcl (``configs/captions/chexpert.yaml``). ConfigError names file and line."""
    return load_config(CaptionsConfig, find_config(path))
