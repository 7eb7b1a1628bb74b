"""How a network is trained: optimiser, precision, devices, logging."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from medcl.config.strict import Strict

Decay = Annotated[float, Field(ge=0, lt=1)]
# On a command line 32 is a number.
Precision = Annotated[Literal["32", "bf16", "auto"], BeforeValidator(lambda value: "32" if value == 32 else value)]


class OptimiserConfig(Strict):
    """One optimiser with a warm-up and a schedule over the stage's steps."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-4
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="of adam and adamw: decay of both moments")
    eps: PositiveFloat = Field(1e-8, description="of adam and adamw")
    schedule: Literal["constant", "cosine", "polynomial"] = "cosine"
    warmup: NonNegativeInt = Field(50, description="steps of linear warm-up")
    clip: PositiveFloat | None = Field(5.0, description="largest gradient norm; null: no clipping")


class TrainerConfig(Strict):
    """Machine and bookkeeping; nothing here changes the mathematics but precision and accumulate."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt = Field(1, description="processes on this machine; more than one trains with DDP")
    nodes: PositiveInt = Field(1, description="machines")
    precision: Precision = Field("32", description="auto: bf16 where the machine has instructions for it, else 32")
    accumulate: PositiveInt = Field(
        1, description="micro-batches per optimiser step (does not enlarge the set of negatives)"
    )
    ema: float | None = Field(None, ge=0, lt=1, description="decay of an exponential moving average of the weights")
    workers: NonNegativeInt = Field(0, description="processes that cut views ahead; 0: in the training process")
    threads: PositiveInt | None = Field(None, description="CPU threads of the network; default: all")
    checkpoint_every: PositiveInt = Field(200, description="steps between checkpoints")
    log_every: PositiveInt = Field(10, description="steps between logged rows")
