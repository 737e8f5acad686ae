"""Geometry: NIfTI volumes as slices for a model, and maps back on the grid of the file.

The axes of a volume are flipped and swapped to those of the dataset (PSR: posterior, superior,
right; slices are sagittal), without loss. Its planes are then fitted to the model:

- If voxel sides differ from those of training by at most `TOLERANCE`, planes are cropped or padded
  with scanner zeros around their middle, as in preprocessing.
- If they differ by more, planes are resampled linearly around their middle. The kernel is as wide
  as the larger voxel, so that fine detail does not alias. Values stay in the range of the input.
  Outside the volume there are scanner zeros.

Maps are fitted back in the same way; without resampling this is exact. Voxels outside the model's
field of view become 0. Each slice of the volume is one slice of the stack: the distance of slices
is never resampled.
"""

import dataclasses
import pathlib

import nibabel as nib
import numpy as np
import scipy.sparse
from nibabel import orientations

from ixi_tfds.config import SliceConfig
from ixi_tfds.documents import manifest
from ixi_tfds.documents.model_card import DatasetFacts, ModelCard
from ixi_tfds.images.scaling import percentile_range
from ixi_tfds.nifti import AXES, Volume, check_volume, read_volume
from ixi_tfds.system.errors import ScanError, UserError
from ixi_tfds.system.files import replacing

TOLERANCE = 0.05
"""Relative difference of voxel sides that needs no resampling; those of IXI differ by 4%."""

_MOST_RATIO = 10.0
_MOST_SLICES = 10**6


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Geometry of the volumes that a model was trained on.

    Attributes:
      config: window, size and scaling of the slices.
      shape: median number of voxels along PSR; None if not recorded.
      zooms: median sides of voxels along PSR, in mm; None if not recorded.
    """

    config: SliceConfig
    shape: tuple[int, int, int] | None = None
    zooms: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Stack:
    """A volume, and the matrices from its planes to slices [n, H, W] and back.

    Attributes:
      volume: the scan, in PSR; slice i of the stack is plane `voxels[:, :, i]`.
      window: the slices [first, last) in the window of training.
      limits: low and high of the intensity range in scanner units, for models with volume
        scaling; None if each slice has its own.
      pixels: sides of a slice's pixel, posterior and superior, in voxels of the volume.
      rows: sparse [H, posterior], weights of the plane's rows in each row of a slice.
      columns: sparse [W, superior], weights of its columns.
      rows_back: sparse [posterior, H].
      columns_back: sparse [superior, W].
    """

    volume: Volume
    window: tuple[int, int]
    limits: tuple[float, float] | None
    pixels: tuple[float, float]
    rows: scipy.sparse.csr_array
    columns: scipy.sparse.csr_array
    rows_back: scipy.sparse.csr_array
    columns_back: scipy.sparse.csr_array

    @property
    def resampled(self) -> bool:
        """Whether planes are resampled, not only cropped or padded."""
        return self.pixels != (1, 1)


def training_geometry(card: ModelCard) -> Geometry:
    """The geometry in a model's card; with several datasets, that of the first.

    Raises:
      UserError: the card does not describe the slices.
    """
    facts = next(iter(card.datasets.values()), DatasetFacts())
    if facts.slices is None or facts.slices.window[1] > _MOST_SLICES:
        raise UserError(
            "the model's card (assets.extra/model_card.json) does not tell what slices the model "
            "was trained on; export it with python -m trainer"
        )
    return geometry_of(facts.slices, facts.geometry)


def geometry_of(config: SliceConfig, volumes: manifest.Geometry | None) -> Geometry:
    """The geometry of a dataset from its manifest's slices and volumes."""
    return Geometry(config, volumes.shape, volumes.zooms) if volumes else Geometry(config)


def open_stack(path: str, geometry: Geometry) -> Stack:
    """Read a NIfTI file and fit its planes to a model.

    Args:
      path: a `.nii` or `.nii.gz` file of one head, with any axes and any real data type.
      geometry: geometry of training; without zooms nothing is resampled.

    Raises:
      ScanError: the file cannot be read, or its values are not those of a head.
    """
    volume = read_volume(path)
    rows, columns, depth = volume.voxels.shape
    zooms = volume.zooms
    wanted = _wanted_zooms(path, zooms, geometry)
    window = _window(path, depth, zooms[2], geometry)
    # The model's field of view, in voxels of this volume.
    height, width = geometry.config.size
    view = (round(height * wanted[0] / zooms[0]), round(width * wanted[1] / zooms[1]))
    config = dataclasses.replace(geometry.config, in_plane=None, size=view, window=window)
    check_volume(volume, path, config)
    return Stack(
        volume=volume,
        window=window,
        limits=percentile_range(volume, config) if config.scaling == "volume" else None,
        pixels=(wanted[0] / zooms[0], wanted[1] / zooms[1]),
        rows=_weights(height, wanted[0], rows, zooms[0]),
        columns=_weights(width, wanted[1], columns, zooms[1]),
        rows_back=_weights(rows, zooms[0], height, wanted[0]),
        columns_back=_weights(columns, zooms[1], width, wanted[1]),
    )


def to_slices(stack: Stack, planes: np.ndarray) -> np.ndarray:
    """Planes [posterior, superior, n] on the volume's grid as slices, float64 [n, H, W].

    For a mask of 0 and 1, the result is the marked share of each pixel.
    """
    return _resample(planes, stack.rows, stack.columns).transpose(2, 0, 1)


def scanner_slices(stack: Stack, first: int, last: int) -> np.ndarray:
    """Slices [first, last) of the volume in scanner units, float64 [n, H, W]."""
    return to_slices(stack, stack.volume.scaled(stack.volume.voxels[:, :, first:last]))


def from_slices(stack: Stack, slices: np.ndarray) -> np.ndarray:
    """Slices [n, H, W] on the volume's grid, float64 [posterior, superior, n]."""
    return _resample(slices.transpose(1, 2, 0), stack.rows_back, stack.columns_back)


def field_of_view(stack: Stack) -> np.ndarray:
    """Which voxels of a plane the model sees, bool [posterior, superior]."""
    rows, columns = (
        np.asarray(weights.sum(axis=1)) > 0 for weights in (stack.rows_back, stack.columns_back)
    )
    return np.logical_and.outer(rows, columns)


def file_axis(volume: Volume) -> tuple[int, bool]:
    """The file's axis along which slices are counted, and whether its direction is opposite."""
    axes = orientations.io_orientation(volume.header.get_best_affine())
    codes = orientations.ornt2axcodes(axes)
    axis = next(number for number, code in enumerate(codes) if code in ("R", "L"))
    return axis, codes[axis] != AXES[2]


def write_map(path: pathlib.Path, values: np.ndarray, volume: Volume) -> None:
    """Write values [posterior, superior, right] on a volume's grid as a float32 `.nii.gz` file.

    Shape, axes and affines with their codes are exactly those of the volume's file, so viewers show
    both aligned. The file appears complete or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    header = volume.header.copy()
    affine = header.get_best_affine()
    back = orientations.ornt_transform(
        orientations.axcodes2ornt(AXES), orientations.io_orientation(affine)
    )
    stored = orientations.apply_orientation(values.astype(np.float32, copy=False), back)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 0
    # The scan's display window does not fit these values.
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with replacing(path) as partial:
        nib.save(kind(stored.reshape(header.get_data_shape()), affine, header), partial)


def _wanted_zooms(
    path: str, zooms: tuple[float, float, float], geometry: Geometry
) -> tuple[float, float]:
    """Sides of the slices' pixels: the volume's own if close to those of training."""
    if geometry.zooms is None:
        return zooms[:2]
    ratios = [side / trained for side, trained in zip(zooms[:2], geometry.zooms[:2], strict=True)]
    if max(*ratios, *(1 / ratio for ratio in ratios)) > _MOST_RATIO:
        raise ScanError(
            "wrong_in_plane_size",
            path,
            f"has pixels of {zooms[0]:.3g} x {zooms[1]:.3g} mm, those of training had "
            f"{geometry.zooms[0]:.3g} x {geometry.zooms[1]:.3g} mm; is its affine in millimetres?",
        )
    if all(abs(ratio - 1) <= TOLERANCE for ratio in ratios):
        return zooms[:2]
    return geometry.zooms[:2]


def _window(path: str, depth: int, spacing: float, geometry: Geometry) -> tuple[int, int]:
    """The slices in the window of training.

    If slices are as far apart as those of training, these have the same numbers, as in
    preprocessing; otherwise they have the same distance, in mm, from the middle.
    """
    first, last = geometry.config.window
    if geometry.zooms is not None and geometry.shape is not None:
        step = geometry.zooms[2] / spacing
        if abs(1 / step - 1) > TOLERANCE:
            middle = geometry.shape[2] / 2
            first, last = (round(depth / 2 + (edge - middle) * step) for edge in (first, last))
    first, last = max(0, first), min(depth, last)
    if first >= last:
        raise ScanError(
            "too_few_slices",
            path,
            f"has {depth} sagittal slices, none of them in the window of training, "
            f"{geometry.config.window[0]} to {geometry.config.window[1] - 1}",
        )
    return first, last


def _weights(n: int, side: float, m: int, other: float) -> scipy.sparse.csr_array:
    """Weights of m pixels of side `other` (mm) in n pixels of side `side`, sparse [n, m]."""
    if side == other:
        # As in preprocessing, an odd pixel is cropped or padded at the end.
        shift = (m - n) // 2 if m >= n else -((n - m) // 2)
        return scipy.sparse.csr_array(scipy.sparse.eye(n, m, k=shift, format="csr"))
    places = (np.arange(n) - (n - 1) / 2) * side
    others = (np.arange(m) - (m - 1) / 2) * other
    distance = np.abs(places[:, None] - others) / max(side, other)
    weights = np.maximum(0.0, 1.0 - distance)
    weights[np.abs(places) > m * other / 2] = 0.0
    total = weights.sum(axis=1, keepdims=True)
    return scipy.sparse.csr_array(np.divide(weights, total, where=total > 0, out=weights))


def _resample(
    planes: np.ndarray, rows: scipy.sparse.csr_array, columns: scipy.sparse.csr_array
) -> np.ndarray:
    """Apply a matrix along each of the first two axes, in double precision."""
    height, width, n = planes.shape
    values = np.asarray(planes, np.float64).reshape(height, width * n)
    values = (rows @ values).reshape(rows.shape[0], width, n).transpose(1, 0, 2)
    values = columns @ values.reshape(width, -1)
    return values.reshape(columns.shape[0], rows.shape[0], n).transpose(1, 0, 2)
