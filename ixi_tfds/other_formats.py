"""Volumes in formats other than single NIfTI files, as voxels under a NIfTI header.

nibabel reads headers and geometry. What a file declares is held against its size, and both against
`MOST_BYTES`, before voxels are read.
"""

import dataclasses
import io
import math
import warnings
from collections.abc import Callable

import nibabel as nib
import numpy as np
from nibabel.externals.netcdf import netcdf_file
from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHHeader
from nibabel.minc1 import Minc1File
from nibabel.minc2 import Minc2File
from nibabel.spm2analyze import Spm2AnalyzeHeader

from ixi_tfds import headers
from ixi_tfds.content import what_it_is
from ixi_tfds.formats import MGH, MINC, PAIR
from ixi_tfds.inflate import GZIP_MAGIC, inflate, inflate_start, inflate_within
from ixi_tfds.system.errors import ScanError

_MOST_FOOTER = 1 << 24
_MOST_RATIO = 100
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# Directions of the three axes in a file that does not say them, by FreeSurfer's convention: LIA.
_FREESURFER_AXES = [[-1, 0, 0], [0, 0, -1], [0, 1, 0]]
# Axes of the orientations that Analyze has a number for, without flips.
_ANALYZE_AXES = {0: "LAS", 1: "LSA", 2: "ASL"}


@dataclasses.dataclass(frozen=True)
class Stored:
    """Voxels of a file in its own axes.

    Attributes:
      voxels: [i, j, k] in any real type.
      header: with shape, affine and axes of the file.
      slope: see `nifti.Volume`.
      inter: see slope.
      oriented: whether the file says how the head lies in it; if not, `header` holds the
        convention of its format.
    """

    voxels: np.ndarray
    header: nib.Nifti1Header
    slope: float = 1.0
    inter: float = 0.0
    oriented: bool = True


def read_pair(path: str, parts: tuple[bytes, ...]) -> Stored:
    """A NIfTI or Analyze header, and the file with its voxels.

    Raises:
      ScanError: with the reasons of `nifti.read_volume`.
    """
    stored, data = parts
    packed = stored.startswith(GZIP_MAGIC)
    head = inflate_start(path, stored, 540)[0] if packed else stored
    header = _analyze_header(head) or headers.parse_header(path, head, stored, magic=b"ni")
    offset = float(header["vox_offset"])
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    packed = data.startswith(GZIP_MAGIC)
    expected = headers.check_declared(path, shape, dtype, offset, data, packed)
    content = inflate(path, data, expected) if packed else memoryview(data)
    sides = headers.spatial_shape(path, shape)
    slope, inter = headers.scaling(path, header)
    voxels = np.frombuffer(content, dtype, math.prod(sides), int(offset)).reshape(sides, order="F")
    if isinstance(header, nib.Nifti1Header):
        oriented = bool(header["qform_code"] or header["sform_code"])
        return Stored(voxels, header, slope, inter, oriented)
    made = _header(path, voxels, _analyze_affine(path, header, sides))
    return Stored(voxels, made, slope, inter, oriented=False)


def read_mgh(path: str, parts: tuple[bytes, ...]) -> Stored:
    """A file of FreeSurfer, `.mgh` or `.mgz`.

    Raises:
      ScanError: with the reasons of `nifti.read_volume`.
    """
    (stored,) = parts
    packed = stored.startswith(GZIP_MAGIC)
    head = inflate_start(path, stored, DATA_OFFSET)[0] if packed else stored[:DATA_OFFSET]
    try:
        if int.from_bytes(head[:4], "big") != 1 or len(head) < DATA_OFFSET:
            raise ValueError("no version 1")
        header = MGHHeader(bytes(head), check=False)
        dtype, shape = header.get_data_dtype().newbyteorder(">"), header.get_data_shape()
        oriented = int.from_bytes(head[28:30], "big", signed=True) > 0
        if not oriented:
            header["Mdc"] = _FREESURFER_AXES
    # Damaged headers raise errors of any kind in nibabel.
    except Exception as error:
        raise ScanError("not_nifti", path, what_it_is(path, head, stored)) from error
    expected = headers.check_declared(path, shape, dtype, DATA_OFFSET, stored, packed)
    sides = headers.spatial_shape(path, shape)
    # Behind the voxels are settings of the scanner and a history of commands.
    content = inflate_within(path, stored, expected, expected + _MOST_FOOTER) if packed else stored
    voxels = np.frombuffer(content, dtype, math.prod(sides), DATA_OFFSET).reshape(sides, order="F")
    with np.errstate(all="ignore"):
        affine = header.get_affine()
    return Stored(voxels, _header(path, voxels, affine), oriented=oriented)


def affine_in(path: str, start: bytes | memoryview, kind: str) -> np.ndarray:
    """The affine in the first 540 bytes of an MGH file, or of the header of a pair, in mm.

    Raises:
      ValueError: they hold no such header; also as errors of nibabel.
    """
    if kind == MGH:
        header = MGHHeader(bytes(start[:DATA_OFFSET]), check=False)
        if int.from_bytes(start[28:30], "big", signed=True) <= 0:
            header["Mdc"] = _FREESURFER_AXES
        return header.get_affine()
    analyze = _analyze_header(start)
    if analyze is None:
        return headers.parse_header(path, start, b"", magic=b"ni").get_best_affine()
    i, j, k = analyze.get_data_shape()[:3]
    return _analyze_affine(path, analyze, (i, j, k))


def read_minc(path: str, parts: tuple[bytes, ...]) -> Stored:
    """A MINC 1 (netCDF) or MINC 2 (HDF5) file; voxels are float32 in real units.

    Each slice may have a scaling of its own, so the stored values mean nothing.

    Raises:
      ScanError: with the reasons of `nifti.read_volume`.
    """
    (stored,) = parts
    if stored.startswith(GZIP_MAGIC):
        head, _ = inflate_start(path, stored, 540)
        if not head.startswith((b"CDF", _HDF5_MAGIC)):
            raise ScanError("not_nifti", path, what_it_is(path, head, stored))
        most = min(len(stored) * _MOST_RATIO, headers.MOST_BYTES)
        stored = bytes(inflate_within(path, stored, 0, most))
    if not stored.startswith((b"CDF\x01", _HDF5_MAGIC)):
        raise ScanError("not_nifti", path, what_it_is(path, stored, stored))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            read = _read_minc2 if stored.startswith(_HDF5_MAGIC) else _read_minc1
            voxels, affine = read(path, stored)
    except ScanError:
        raise
    # Damaged files raise errors of any kind in nibabel, netCDF and HDF5.
    except Exception as error:
        raise ScanError(
            "corrupt_data", path, f"is a damaged MINC file ({_first_line(error)})"
        ) from error
    return Stored(voxels, _header(path, voxels, affine))


READERS: dict[str, Callable[[str, tuple[bytes, ...]], Stored]] = {
    PAIR: read_pair,
    MGH: read_mgh,
    MINC: read_minc,
}
"""The reader of each kind of file, from its path and the bytes of its file or files."""


def _read_minc1(path: str, stored: bytes) -> tuple[np.ndarray, np.ndarray]:
    with _Budget(stored) as file:
        return _minc_voxels(path, stored, Minc1File(netcdf_file(file, mmap=False)))


def _read_minc2(path: str, stored: bytes) -> tuple[np.ndarray, np.ndarray]:
    import h5py

    with h5py.File(io.BytesIO(stored), "r") as file:
        image = file["minc-2.0/image/0/image"]
        # A dataset may name other files of this machine as its voxels.
        if image.file.id != file.id or image.external or image.is_virtual:
            raise ScanError("corrupt_data", path, "takes its voxels from another file")
        for side in image.chunks or ():
            headers.check_declared(path, (side,), image.dtype, 0, stored, packed=True)
        headers.check_declared(path, image.chunks or (1,), image.dtype, 0, stored, packed=True)
        headers.check_declared(path, image.shape, image.dtype, 0, stored, packed=True)
        return _minc_voxels(path, stored, Minc2File(file))


def _minc_voxels(path: str, stored: bytes, minc: Minc1File) -> tuple[np.ndarray, np.ndarray]:
    shape, dtype = minc.get_data_shape(), minc.get_data_dtype()
    headers.check_declared(path, shape, dtype, 0, stored, packed=True)
    sides = headers.spatial_shape(path, shape)
    if len(shape) != 3:
        raise ScanError("not_3d", path, f"is not a 3-D volume: its shape is {tuple(shape)}")
    if np.dtype(dtype).kind not in "iuf":
        raise ScanError("other_modality", path, "holds colours or complex numbers, not one value")
    values = np.asarray(minc.get_scaled_data()).astype(np.float32)
    return values.reshape(sides), minc.get_affine()


class _Budget(io.BytesIO):
    """A file of which no more bytes are read than twice its size: variables may overlap."""

    def __init__(self, stored: bytes) -> None:
        super().__init__(stored)
        self._left = 2 * len(stored) + (1 << 16)

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("its variables overlap")
        return content


def _analyze_header(head: bytes | memoryview) -> Spm2AnalyzeHeader | None:
    """The header of Analyze 7.5 or SPM at the start of a file; None if it is another one."""
    start = bytes(head[:348])
    if len(start) < 348 or start[344:347] in (b"ni1", b"n+1"):
        return None
    if 348 not in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")):
        return None
    try:
        header = Spm2AnalyzeHeader(start, check=False)
        header.check_fix(headers.SILENT)
        header.get_data_dtype(), header.get_data_shape()
    except Exception:
        return None
    return header


def _analyze_affine(
    path: str, header: Spm2AnalyzeHeader, shape: tuple[int, int, int]
) -> np.ndarray:
    """The affine by the convention for Analyze's number of the orientation, centred at 0."""
    number = int(header["orient"].tobytes()[0]) if header["orient"].tobytes() else 0
    if number not in _ANALYZE_AXES:
        raise ScanError("no_orientation", path, f"has the unknown orientation {number} of Analyze")
    to_ras = nib.orientations.axcodes2ornt(_ANALYZE_AXES[number])
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(to_ras):
        affine[int(world), axis] = sign * float(header["pixdim"][1 + axis])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[3, 3] = 1
    return affine


def _header(path: str, voxels: np.ndarray, affine: np.ndarray) -> nib.Nifti1Header:
    """A NIfTI-1 header for voxels and an affine in mm."""
    with np.errstate(over="ignore"):
        stored = affine.astype(np.float32)
    if stored.shape != (4, 4) or not np.isfinite(stored).all():
        raise ScanError("not_nifti", path, "has an affine that cannot be inverted")
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype.newbyteorder("="))
    header.set_data_shape(voxels.shape)
    header.set_sform(affine, 1)
    header["pixdim"][1:4] = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
    header.set_xyzt_units("mm")
    return header


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
