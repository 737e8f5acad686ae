"""`manifest.json`: what a dataset is made of, and all by which it can be checked."""

import dataclasses

from ixi_tfds.errors import UserError


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What the volumes of a dataset are like, for scans from elsewhere that meet its models.

    Attributes:
      shape: median voxels along posterior, superior and right.
      zooms: median sides of a voxel along these axes, in mm.
    """

    shape: tuple[int, int, int]
    zooms: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(0 < side < 1e6 for side in (*self.shape, *self.zooms)):
            raise UserError(f"{self.shape} and {self.zooms} are not voxels and their sides in mm")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Volumes and slices of a split."""

    volumes: int
    slices: int
