"""Prompt banks: classes and the sentences that name them, for classification without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medcl.config.load import load_config
from medcl.config.shipped import find_config
from medcl.config.strict import Strict

Prompt = Annotated[str, Field(pattern=r"\w")]


class PromptClass(Strict):
    """A class: what says that it is present and, where there are some, what says that it is not."""

    prompts: tuple[Prompt, ...] = Field(min_length=1, description="sentences of which each says that it is present")
    negatives: tuple[Prompt, ...] = Field((), description="sentences of which each says that it is absent")
    target: str | None = Field(None, description="findings: the target of the records that says so; default: the name")
    values: tuple[str, ...] = Field((), description="one_of: values of the target that mean it; default: the name")


class PromptBank(Strict):
    """The classes that `medcl zeroshot` tells."""

    version: Literal[1] = 1
    about: str = Field("", description="a sentence for the page: whose classes, in whose words")
    kind: Literal["findings", "one_of"] = Field(
        "findings", description="findings: each is present or not; one_of: a record is of exactly one class"
    )
    target: str | None = Field(None, description="one_of: the target or attribute of the records that names the class")
    classes: dict[str, PromptClass] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> PromptBank:
        if self.kind == "one_of":
            if self.target is None:
                raise ValueError("kind one_of needs target, the target of the records that names their class")
            if len(self.classes) < 2:
                raise ValueError("kind one_of needs two classes or more")
            if wrong := [name for name, entry in self.classes.items() if entry.target is not None]:
                raise ValueError(f"classes {', '.join(wrong)} have a target of their own; that is for kind findings")
        else:
            if self.target is not None:
                raise ValueError("target is for kind one_of; findings have a target each")
            if wrong := [name for name, entry in self.classes.items() if entry.values]:
                raise ValueError(f"classes {', '.join(wrong)} have values; they are for kind one_of")
        return self

    @property
    def has_negatives(self) -> bool:
        """Whether every class has negative prompts."""
        return all(entry.negatives for entry in self.classes.values())


def read_prompts(path: Path) -> PromptBank:
    """The bank at ``path`` or of that name among those that come with medcl. ConfigError names file and line of what is wrong."""
    return load_config(PromptBank, find_config(path))
