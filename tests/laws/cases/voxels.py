from __future__ import annotations

from medcl.objectives.voxels import VoxelInfoNCE
from tests.laws.case import Case

# All cells are drawn, so that the order of items does not decide which.
CASES = {
    "voxel_info_nce": Case(VoxelInfoNCE(), space=(4, 5)),
    "voxel_info_nce, across, 3D": Case(VoxelInfoNCE(across=True, sigma=3.0), views=3, space=(3, 2, 4)),
    "voxel_info_nce, hard": Case(VoxelInfoNCE(target="hard"), space=(3, 2, 4)),
}
