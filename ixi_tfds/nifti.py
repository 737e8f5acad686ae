"""Reading one volume: whole, checked, and in the axes of IXI.

nibabel reads the header and computes the geometry. Checks come in this order: readable, format,
size, corruption, 3-D, geometry, values. Files may come from untrusted sources. So the number of
bytes read or inflated is bounded first: by the file size, by the header, and by `MOST_BYTES`.
"""

import dataclasses
import errno
import math
import os
import pathlib
import stat

import nibabel as nib
import numpy as np
from nibabel import orientations

from ixi_tfds import headers, other_formats
from ixi_tfds.config import SliceConfig
from ixi_tfds.content import HEAD_BYTES, broken_link
from ixi_tfds.formats import NO_HEADER, PAIR, image_kind
from ixi_tfds.headers import AXES as AXES
from ixi_tfds.headers import MOST_BYTES as MOST_BYTES
from ixi_tfds.inflate import GZIP_MAGIC, inflate, inflate_start
from ixi_tfds.label_maps import is_label_map
from ixi_tfds.missing import fill_outside, where_not_finite
from ixi_tfds.other_formats import Stored
from ixi_tfds.system import storage
from ixi_tfds.system.errors import ScanError
from ixi_tfds.system.files import git_blob_sha1

MIN_SIGNAL = 0.01
"""A volume is near-empty if a smaller share of its window's voxels is above the lowest value."""

_MOST_LEVELS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Volume:
    """The stored voxels of one scan, and how to convert them to scanner units.

    Attributes:
      voxels: [posterior, superior, right] in the data type on disk; a view into the file's bytes.
      slope: a stored voxel in scanner units is `voxel * slope + inter`.
      inter: see slope.
      affine: float64 [4, 4], from indices of `voxels` to millimetres (RAS+).
      header: the file's header, in the file's own axes.
      git_blob_sha1: SHA-1 of the file as git computes it, of a pair that of header and voxels in
        a row; it identifies original files.
      assumed_axes: the axis codes by which a file was read that does not say how the head lies in
        it; None for all others.
    """

    voxels: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    header: nib.Nifti1Header
    git_blob_sha1: str
    assumed_axes: str | None = None

    @property
    def zooms(self) -> tuple[float, float, float]:
        """Sides of a voxel along posterior, superior and right, in mm."""
        posterior, superior, right = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return posterior, superior, right

    def scaled(self, voxels: np.ndarray) -> np.ndarray:
        """Stored voxels in scanner units, float64 of the same shape."""
        return np.asarray(voxels, np.float64) * self.slope + self.inter


def read_volume(path: str, *, allow_unknown_orientation: bool = False) -> Volume:
    """Read a volume whole and reorient it to the axes of IXI without resampling.

    The formats are those of `formats.READ_EXTENSIONS`, by the file's name; any other name is read
    as NIfTI. The reorientation only flips and swaps axes, by the header's best affine. `scl_slope`
    of NaN or 0 means that no scaling applies. NaN around the head becomes background.

    Args:
      path: of the file; of a pair either one.
      allow_unknown_orientation: read a file that does not say how the head lies in it, by the
        convention of its format; the volume's `assumed_axes` say so.

    Raises:
      ScanError: with reason unreadable, not_nifti, too_large, corrupt_data, not_3d, no_orientation
        or other_modality.
    """
    parts = _parts(path)
    stored = other_formats.READERS.get(_kind(path), _read_nifti)(path, parts)
    if not (stored.oriented or allow_unknown_orientation):
        raise ScanError(
            "no_orientation",
            path,
            "does not say how the head lies in it; set an orientation in its header, or take that "
            "of its format's convention by --allow_unknown_orientation and check left and right",
        )
    affine = headers.affine_of(path, stored.header)
    to_ixi = headers.to_axes(path, affine)
    voxels = fill_outside(stored.voxels, falling=stored.slope < 0)
    return Volume(
        voxels=orientations.apply_orientation(voxels, to_ixi),
        slope=stored.slope,
        inter=stored.inter,
        affine=affine @ orientations.inv_ornt_aff(to_ixi, voxels.shape),
        header=stored.header,
        git_blob_sha1=_digest(parts),
        assumed_axes=None if stored.oriented else "".join(nib.aff2axcodes(affine)),
    )


def digest_of(path: str) -> str | None:
    """`Volume.git_blob_sha1` of a file, or of both files of a pair; None if it cannot be read."""
    try:
        return _digest(_parts(path))
    except ScanError:
        return None


def _digest(parts: tuple[bytes, ...]) -> str:
    return git_blob_sha1(parts[0] if len(parts) == 1 else b"".join(parts))


def _kind(path: str) -> str:
    kind = image_kind(path)
    return PAIR if kind == NO_HEADER else kind or ""


def _parts(path: str) -> tuple[bytes, ...]:
    """The bytes of a file; of a pair, those of the header and of the voxels.

    Raises:
      ScanError: with reason too_large or unreadable.
    """
    paths = pair_of(path) if _kind(path) == PAIR else (path,)
    try:
        return tuple(read_file(part) for part in paths)
    except OSError as error:
        reason = "too_large" if error.errno == errno.EFBIG else "unreadable"
        part = next((part for part in paths if not storage.at(part).exists()), path)
        detail = broken_link(part) or f"cannot be read ({error.strerror})"
        if part != path:
            detail = f"is one of a pair, and {pathlib.PurePath(part).name} {detail}"
        raise ScanError(reason, path, detail) from error


def pair_of(path: str) -> tuple[str, str]:
    """The paths of header and voxels, by that of either; files of a pair may be packed."""
    stem, dot, ending = path.rpartition(".")
    packed = ending.lower() == "gz"
    stem, dot, kind = stem.rpartition(".") if packed else (stem, dot, ending)
    other = {"hdr": "img", "img": "hdr"}[kind.lower()]
    other = other.upper() if kind.isupper() else other
    beside = [f"{stem}.{other}{end}" for end in ((".gz", "") if packed else ("", ".gz"))]
    found = next((name for name in beside if storage.at(name).exists()), beside[0])
    return (path, found) if kind.lower() == "hdr" else (found, path)


def _read_nifti(path: str, parts: tuple[bytes, ...]) -> Stored:
    (stored,) = parts
    compressed = stored.startswith(GZIP_MAGIC)
    head = inflate_start(path, stored, HEAD_BYTES)[0] if compressed else stored
    header = headers.parse_header(path, head, stored, magic=b"n+")
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    offset = float(header["vox_offset"])
    expected = headers.check_declared(path, shape, dtype, offset, stored, compressed)
    content = inflate(path, stored, expected) if compressed else memoryview(stored)
    sides = headers.spatial_shape(path, shape)
    voxels = np.frombuffer(
        content,
        header.get_data_dtype(),
        count=math.prod(sides),
        offset=int(header["vox_offset"]),
    ).reshape(sides, order="F")
    slope, inter = headers.scaling(path, header)
    oriented = bool(header["qform_code"] or header["sform_code"])
    return Stored(voxels, header, slope, inter, oriented)


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
    if is_label_map(window):
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
            raise ScanError("non_finite", path, where_not_finite(voxels))
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
