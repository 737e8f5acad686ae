"""Reading one NIfTI volume: whole, checked, and in the axes of IXI.

nibabel reads the header and computes the geometry. Checks come in this order: readable, NIfTI,
size, corruption, 3-D, geometry, values. Files may come from untrusted sources. So the number of
bytes read or inflated is bounded first: by the file size, by the header, and by `MOST_BYTES`.
"""

import dataclasses
import errno
import logging
import math
import os
import stat

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.spatialimages import HeaderDataError

from ixi_tfds.config import SliceConfig
from ixi_tfds.inflate import GZIP_MAGIC, inflate, inflate_start
from ixi_tfds.system import storage
from ixi_tfds.system.errors import ScanError
from ixi_tfds.system.files import git_blob_sha1

AXES = "PSR"
"""Axis codes of the IXI volumes: posterior, superior, right; the last counts sagittal slices."""

MIN_SIGNAL = 0.01
"""A volume is near-empty if a smaller share of its window's voxels is above the lowest value."""

MAX_EQUAL_NEIGHBOURS = 0.5
"""A volume is a label map if a larger share of its neighbouring voxels is equal.

Counted along the first axis of the middle slice, without the most common value. Measured: 0.02 to
0.09 on IXI scans, 0.79 on label maps of the same heads.
"""

MOST_BYTES = 1 << 31
"""Largest size of a file, and of its voxels as 32-bit floats: 4 times a head of 0.5 mm voxels."""

_MOST_SIDE = 4096
_MOST_LEVELS = 1 << 16
_MAX_DEFLATE_RATIO = 1032
_LARGEST_HEADER = 540
# nibabel logs each repair of a header; only errors that it cannot repair matter here.
_SILENT = logging.Logger("silent", logging.CRITICAL + 1)


@dataclasses.dataclass(frozen=True)
class Volume:
    """The stored voxels of one scan, and how to convert them to scanner units.

    Attributes:
      voxels: [posterior, superior, right] in the data type on disk; a view into the file's bytes.
      slope: a stored voxel in scanner units is `voxel * slope + inter`.
      inter: see slope.
      affine: float64 [4, 4], from indices of `voxels` to millimetres (RAS+).
      header: the file's header, in the file's own axes.
      git_blob_sha1: SHA-1 of the file as git computes it; it identifies original files.
    """

    voxels: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    header: nib.Nifti1Header
    git_blob_sha1: str

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Sides of a voxel along posterior, superior and right, in mm."""
        posterior, superior, right = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return posterior, superior, right

    def scaled(self, voxels: np.ndarray) -> np.ndarray:
        """Stored voxels in scanner units, float64 of the same shape."""
        return np.asarray(voxels, np.float64) * self.slope + self.inter


def read_volume(path: str) -> Volume:
    """Read a `.nii` or `.nii.gz` file whole and reorient it to the axes of IXI without resampling.

    The reorientation only flips and swaps axes, by the header's best affine. `scl_slope` of NaN or
    0 means that no scaling applies.

    Raises:
      ScanError: with reason unreadable, not_nifti, too_large, corrupt_data, not_3d, no_orientation
        or other_modality.
    """
    try:
        stored = read_file(path)
    except OSError as error:
        reason = "too_large" if error.errno == errno.EFBIG else "unreadable"
        raise ScanError(reason, path, f"cannot be read ({error.strerror})") from error
    compressed = stored.startswith(GZIP_MAGIC)
    head = inflate_start(path, stored, _LARGEST_HEADER)[0] if compressed else stored
    header = _parse_header(path, head)
    expected = _expected_bytes(path, header, stored, compressed)
    content = inflate(path, stored, expected) if compressed else memoryview(stored)
    shape = _spatial_shape(path, header.get_data_shape())
    voxels = np.frombuffer(
        content,
        header.get_data_dtype(),
        count=math.prod(shape),
        offset=int(header["vox_offset"]),
    ).reshape(shape, order="F")
    if not (header["qform_code"] or header["sform_code"]):
        raise ScanError(
            "no_orientation",
            path,
            "does not say how the head lies in it (qform and sform codes are both 0); set an "
            "orientation in its header",
        )
    slope, inter = _scaling(path, header)
    affine, to_ixi = _transform_to_axes(path, header)
    return Volume(
        voxels=orientations.apply_orientation(voxels, to_ixi),
        slope=slope,
        inter=inter,
        affine=affine @ orientations.inv_ornt_aff(to_ixi, shape),
        header=header,
        git_blob_sha1=git_blob_sha1(stored),
    )


def read_file(path: str) -> bytes:
    """The bytes of a regular file; pipes and devices are refused, not read.

    Raises:
      OSError: it cannot be read, is not a regular file, or has more than `MOST_BYTES`.
    """
    file = storage.at(path)
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if facts.st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{facts.st_size} bytes, more than {MOST_BYTES}")
    return file.read_bytes()


def raise_fault_of_system(error: ScanError) -> None:
    """Raise the operating system's error behind a refusal if the scan is not at fault.

    Refusing the scan would leave a subject out of the dataset because of a temporary fault.

    Raises:
      OSError: the file has vanished, too many files are open, or the disk fails.
    """
    cause = error.__cause__
    if isinstance(cause, OSError):
        here = not storage.is_remote(error.path) and os.path.lexists(error.path)
        vanished = cause.errno == errno.ENOENT and not here
        if vanished or cause.errno in (errno.EMFILE, errno.ENFILE, errno.EIO):
            raise cause


def check_volume(volume: Volume, path: str, config: SliceConfig) -> None:
    """Refuse a volume that lacks the slices of `config`, or whose values are not those of a scan.

    Raises:
      ScanError: with reason wrong_in_plane_size, too_few_slices, non_finite, constant, near_empty
        or label_map.
    """
    rows, columns, depth = volume.voxels.shape
    if config.in_plane is not None and (rows, columns) != config.in_plane:
        expected = "x".join(map(str, config.in_plane))
        raise ScanError(
            "wrong_in_plane_size",
            path,
            f"is {rows}x{columns} in the plane of its slices (posterior x superior), not {expected}"
            "; choose another geometry with --in_plane",
        )
    if depth < config.window[1]:
        raise ScanError(
            "too_few_slices",
            path,
            f"has {depth} slices, the window needs {config.window[1]}; see --slices",
        )
    check_finite(volume, path)
    check_window(volume, path, config.window)


def check_window(volume: Volume, path: str, slices: tuple[int, int]) -> None:
    """Refuse a volume whose finite values in the window of slices [first, last) are not a scan's.

    Raises:
      ScanError: with reason constant, near_empty or label_map.
    """
    window = volume.voxels[:, :, slice(*slices)]
    lowest = window.min()
    # As 32-bit floats, the type of datasets and models.
    low, high = volume.scaled(np.array([lowest, window.max()])).astype(np.float32)
    if low == high:
        raise ScanError("constant", path, f"every voxel of its window is {low:g}")
    signal = np.count_nonzero(window != lowest) / window.size
    if signal < MIN_SIGNAL:
        raise ScanError(
            "near_empty",
            path,
            f"only {signal:.3%} of its window's voxels differ from the lowest value; "
            f"a head has at least {MIN_SIGNAL:.0%}",
        )
    if _is_label_map(window[:, :, window.shape[2] // 2]):
        raise ScanError("label_map", path, "looks like a label map: most neighbours are equal")


def has_few_levels(dtype: np.dtype, lowest: np.number, highest: np.number) -> bool:
    """Whether voxels of a type, with these extrema, can be looked up in a small table.

    The table holds all integers from the lowest voxel to the highest, and 0.
    """
    if dtype.kind not in "iu" or dtype == np.uint64:
        return False
    return max(int(highest), 0) - min(int(lowest), 0) < _MOST_LEVELS


def check_finite(volume: Volume, path: str) -> None:
    """Refuse voxels that are not finite, as stored or scaled to 32-bit floats.

    Raises:
      ScanError: with reason non_finite.
    """
    voxels = volume.voxels
    if voxels.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            extremes = np.array([voxels.min(), voxels.max()])
        if not np.isfinite(extremes).all():
            raise ScanError("non_finite", path, "holds voxels that are NaN or infinite")
    else:
        levels = np.iinfo(voxels.dtype)
        extremes = np.array([levels.min, levels.max], np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = volume.scaled(extremes).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise ScanError(
            "non_finite",
            path,
            f"has values that are too large for 32-bit floats (scl_slope {volume.slope:g}, "
            f"scl_inter {volume.inter:g})",
        )
