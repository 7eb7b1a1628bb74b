"""How what the encoder sees of a view differs from the view itself."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from medcl.config.strict import Strict

Probability = Annotated[float, Field(ge=0, le=1)]


class BlocksCorruption(Strict):
    """Random blocks of a grid are hidden: zeros (masked autoencoder)."""

    hides: ClassVar[bool] = True
    name: Literal["blocks"] = "blocks"
    ratio: Probability = Field(0.6, description="share of the blocks that are hidden")
    block: PositiveInt = Field(8, description="side of a block in voxels")


class BoxCorruption(Strict):
    """One box at a random place is hidden: zeros (inpainting; the study of Chaitanya et al. 2020 hid 100 of 192 pixels a side)."""

    hides: ClassVar[bool] = True
    name: Literal["box"] = "box"
    share: Probability = Field(0.52, description="side of the box as a share of the patch's")


class SwapsCorruption(Strict):
    """Pairs of cubes change places (context restoration, Chen et al. 2019)."""

    hides: ClassVar[bool] = False
    name: Literal["swaps"] = "swaps"
    count: PositiveInt = Field(10, description="pairs that change places, one after the other")
    side: PositiveInt = Field(5, description="side of a cube in voxels, at most the patch's")


class GenesisCorruption(Strict):
    """A random intensity curve, local shuffling, then parts painted over with noise (Models Genesis, Zhou et al. 2019)."""

    hides: ClassVar[bool] = False
    name: Literal["genesis"] = "genesis"
    curve: Probability = Field(0.9, description="chance of a monotone intensity curve")
    falling: Probability = Field(0.5, description="share of the curves that fall: dark becomes bright")
    shuffle: Probability = Field(0.5, description="chance that voxels change places within small windows")
    window: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="largest side of a window as a share of the patch's; two voxels at least"
    )
    paint: Probability = Field(0.9, description="chance that parts are painted over")
    outer: Probability = Field(
        0.8, description="share of the painted views of which all but some boxes is painted; of the others, some boxes"
    )


class TurnsCorruption(Strict):
    """The view is turned about z by 0 to 3 quarter turns (rotation pretext); its patch must be as wide along x as along y."""

    hides: ClassVar[bool] = False
    name: Literal["turns"] = "turns"


Corruption = Annotated[
    BlocksCorruption | BoxCorruption | SwapsCorruption | GenesisCorruption | TurnsCorruption,
    Field(discriminator="name"),
]
