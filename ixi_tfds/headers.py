"""Headers of NIfTI files and pairs, bounds for what they declare, and their geometry."""

import logging
import math
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.analyze import AnalyzeHeader
from nibabel.spatialimages import HeaderDataError

from ixi_tfds.content import what_it_is
from ixi_tfds.system.errors import ScanError

AXES = "PSR"
"""Axis codes of the IXI volumes: posterior, superior, right; the last counts sagittal slices."""

MOST_BYTES = 1 << 31
"""Largest size of a file, and of its voxels as 32-bit floats: 4 times a head of 0.5 mm voxels."""

_MOST_SIDE = 4096
_MAX_DEFLATE_RATIO = 1032
# nibabel logs each repair of a header; only errors that it cannot repair matter here.
SILENT = logging.Logger("silent", logging.CRITICAL + 1)


def parse_header(
    path: str, head: bytes | memoryview, stored: bytes, *, magic: bytes
) -> nib.Nifti1Header:
    """The header at the start of `head`, NIfTI-1 or NIfTI-2, in either byte order.

    Args:
      path: the file, for messages.
      head: its first bytes, inflated.
      stored: the file as it is.
      magic: what the header's magic begins with: `n+` in a file with voxels, `ni` in one of a pair.

    Raises:
      ScanError: with reason not_nifti.
    """
    size = head[:4]
    try:
        header_class = {348: nib.Nifti1Header, 540: nib.Nifti2Header}[
            min(int.from_bytes(size, "little"), int.from_bytes(size, "big"))
        ]
        header = header_class(bytes(head[: header_class.template_dtype.itemsize]), check=False)
        header.check_fix(SILENT)
        header.get_data_dtype()
        header.get_data_shape()
    # A broken header makes nibabel's checks raise errors of any kind; none is a bug of ours.
    except Exception as error:
        raise ScanError("not_nifti", path, what_it_is(path, head, stored)) from error
    if not bytes(header["magic"]).startswith(magic):
        held = "with" if magic == b"ni" else "without"
        raise ScanError("not_nifti", path, f"is a NIfTI header {held} its data in the same file")
    return header


def check_declared(
    path: str, shape: Sequence[int], dtype: np.dtype, offset: float, stored: bytes, packed: bool
) -> int:
    """Size in bytes of the inflated file that a header declares.

    Args:
      path: the file with the voxels.
      shape: of the voxels, all dimensions.
      dtype: of the voxels.
      offset: bytes before the voxels.
      stored: the file as it is.
      packed: whether it is a gzip file, or compressed alike inside.

    Raises:
      ScanError: with reason not_nifti, corrupt_data (the file cannot hold as much) or too_large.
    """
    sides = [int(side) for side in shape]
    if min(sides, default=0) < 1 or not 0 <= offset < 2**40:
        raise ScanError("not_nifti", path, f"declares the shape {tuple(sides)}")
    expected = int(offset) + math.prod(sides) * dtype.itemsize
    most = len(stored) * _MAX_DEFLATE_RATIO if packed else len(stored)
    if expected > most:
        raise ScanError(
            "corrupt_data",
            path,
            f"declares {expected} bytes of data, more than its {len(stored)} bytes can hold",
        )
    if max(sides[:3]) > _MOST_SIDE or max(expected, 4 * math.prod(sides)) > MOST_BYTES:
        raise ScanError(
            "too_large",
            path,
            f"declares {'x'.join(map(str, sides))} voxels, {expected} bytes; of a head at most "
            f"{_MOST_SIDE} voxels a side and {MOST_BYTES // 4} in all are read",
        )
    return expected


def spatial_shape(path: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """The three spatial sides; trailing axes of length 1 are dropped.

    Raises:
      ScanError: with reason not_3d.
    """
    sides = [int(side) for side in shape]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) != 3 or min(sides) < 2:
        raise ScanError("not_3d", path, f"is not a 3-D volume: its shape is {tuple(shape)}")
    return sides[0], sides[1], sides[2]


def scaling(path: str, header: AnalyzeHeader) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where the header has none.

    Raises:
      ScanError: with reason other_modality or not_nifti.
    """
    if header.get_data_dtype().kind not in "iuf":
        raise ScanError("other_modality", path, "holds colours or complex numbers, not one value")
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise ScanError("not_nifti", path, f"has an impossible scaling ({error})") from error
    return (1.0, 0.0) if slope is None else (float(slope), float(inter or 0.0))


def affine_of(path: str, header: nib.Nifti1Header) -> np.ndarray:
    """The header's best affine.

    Raises:
      ScanError: with reason not_nifti.
    """
    with np.errstate(all="ignore"):
        try:
            return header.get_best_affine()
        except (HeaderDataError, ValueError) as error:
            raise ScanError("not_nifti", path, f"has an impossible qform ({error})") from error


def to_axes(path: str, affine: np.ndarray) -> np.ndarray:
    """The orientation transform from the axes of an affine to `AXES`.

    Raises:
      ScanError: with reason not_nifti; the affine cannot be inverted.
    """
    with np.errstate(all="ignore"):
        axes = affine[:3, :3]
        volume = abs(np.linalg.det(axes)) if np.isfinite(affine).all() else 0.0
        # Relative to the box of the same sides, because the affine may be in any unit.
        box = np.prod(np.linalg.norm(axes, axis=0))
    if not 0 < 1e-6 * box < volume:
        raise ScanError("not_nifti", path, "has an affine that cannot be inverted")
    return orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(AXES)
    )
