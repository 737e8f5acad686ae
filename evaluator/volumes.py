"""Geometry: a NIfTI file as the slices that a model takes, and maps back on the file's own grid.

A volume is turned to the axes of the dataset (PSR: posterior, superior, right; slices are sagittal)
by flipping and swapping axes, which loses nothing. Its planes are then fitted to the model's:

- Where voxel sides differ from those of training by `TOLERANCE` at most, nothing is resampled:
  planes are cropped or padded with scanner zeros around their middle, as preprocessing does.
- Where they differ by more, planes are resampled, middle upon middle, linearly, with a kernel as
  wide as the larger voxel so that fine detail does not alias. Values never leave the range of the
  input. Beyond the volume there are scanner zeros.

The way back is the same with the sides swapped; without resampling it is exact. Voxels that the
model never saw, because the volume is larger than its field of view, come back as 0. Slices are
never resampled across: each one of the volume becomes one of the stack.
"""

import dataclasses
import pathlib

import nibabel as nib
import numpy as np
import scipy.sparse
from nibabel import orientations

from ixi_tfds.configs import SliceConfig
from ixi_tfds.documents import manifest
from ixi_tfds.documents.model_card import DatasetFacts, ModelCard
from ixi_tfds.errors import ScanError, UserError
from ixi_tfds.images.scaling import percentile_range
from ixi_tfds.nifti import AXES, Volume, check_volume, read_volume
from ixi_tfds.system.files import replacing

TOLERANCE = 0.05
"""Relative difference of voxel sides that is left alone: those of IXI itself differ by 4%."""

_MOST_RATIO = 10.0
_MOST_SLICES = 10**6


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a model was trained on.

    Attributes:
      config: window, size and scaling of its slices.
      shape: median voxels of the training volumes along PSR; None where it was not recorded.
      zooms: median sides of their voxels along PSR, in mm; None where they were not recorded.
    """

    config: SliceConfig
    shape: tuple[int, int, int] | None = None
    zooms: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Stack:
    """A volume, and how its planes become slices [n, H, W] and come back.

    Attributes:
      volume: the scan, in PSR; slice i of the stack is plane `voxels[:, :, i]`.
      window: the slices [first, last) that lie where the model was trained.
      limits: low and high of the intensity range in scanner units, for models with volume
        scaling; None where each slice has its own.
      pixels: sides of a slice's pixel, posterior and superior, in voxels of the volume.
      rows: sparse [H, posterior], what each row of a slice takes from the plane.
      columns: sparse [W, superior], likewise.
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
    """The geometry that a model's card tells; of several datasets, that of the first.

    Raises:
      UserError: the card does not tell the dataset's slices.
    """
    facts = next(iter(card.datasets.values()), DatasetFacts())
    if facts.slices is None or facts.slices.window[1] > _MOST_SLICES:
        raise UserError(
            "the model's card (assets.extra/model_card.json) does not tell what slices it was "
            "trained on; export it with python -m trainer"
        )
    return geometry_of(facts.slices, facts.geometry)


def geometry_of(config: SliceConfig, volumes: manifest.Geometry | None) -> Geometry:
    """The geometry of a dataset whose manifest has these slices and volumes."""
    if volumes is None:
        return Geometry(config)
    return Geometry(config, volumes.shape, volumes.zooms)


def open_stack(path: str, geometry: Geometry) -> Stack:
    """Read a NIfTI file and fit its planes to a model.

    Args:
      path: a `.nii` or `.nii.gz` file of one head, in any axes and any real data type.
      geometry: what the model was trained on; without zooms nothing is resampled.

    Raises:
      ScanError: the file cannot be read, or its values are not a head's.
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
    """Planes on the volume's grid as slices of the model.

    Args:
      stack: of the volume.
      planes: [posterior, superior, n] on its grid: values, or a mask of 0 and 1, of which the
        result is the share of each pixel that is marked.

    Returns:
      float64 [n, H, W], rows to posterior and columns to superior.
    """
    return _resample(planes, stack.rows, stack.columns).transpose(2, 0, 1)


def scanner_slices(stack: Stack, first: int, last: int) -> np.ndarray:
    """Slices [first, last) of the volume in scanner units, float64 [n, H, W]."""
    return to_slices(stack, stack.volume.scaled(stack.volume.voxels[:, :, first:last]))


def from_slices(stack: Stack, slices: np.ndarray) -> np.ndarray:
    """Slices [n, H, W] back on the volume's grid, float64 [posterior, superior, n]."""
    return _resample(slices.transpose(1, 2, 0), stack.rows_back, stack.columns_back)


def field_of_view(stack: Stack) -> np.ndarray:
    """Which voxels of a plane the model sees, bool [posterior, superior]."""
    rows, columns = (
        np.asarray(weights.sum(axis=1)) > 0 for weights in (stack.rows_back, stack.columns_back)
    )
    return np.logical_and.outer(rows, columns)


def file_axis(volume: Volume) -> tuple[int, bool]:
    """The axis of the file along which slices are counted, and whether it runs the other way."""
    axes = orientations.io_orientation(volume.header.get_best_affine())
    codes = orientations.ornt2axcodes(axes)
    axis = next(number for number, code in enumerate(codes) if code in ("R", "L"))
    return axis, codes[axis] != AXES[2]


def write_map(path: pathlib.Path, values: np.ndarray, volume: Volume) -> None:
    """Write values on the grid of a volume as a float32 NIfTI file.

    Shape, affines with their codes and axes are those of the file that the volume was read from,
    to the bit, so that any viewer shows both aligned. The file appears whole or not at all.

    Args:
      path: of the file, `.nii.gz`.
      values: [posterior, superior, right], on the grid of `volume.voxels`.
      volume: the scan.

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
    # The window in which a viewer shows the scan does not fit what is written here.
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with replacing(path) as partial:
        nib.save(kind(stored.reshape(header.get_data_shape()), affine, header), partial)


def _wanted_zooms(
    path: str, zooms: tuple[float, float, float], geometry: Geometry
) -> tuple[float, float]:
    """Sides of the pixels of slices: the volume's own where they are near those of training."""
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
    """The slices that lie where those of training lay.

    Where slices are as far apart as those of training, these are the slices of the same numbers,
    which preprocessing would take. Otherwise those at the same distance, in mm, from the middle.
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
    """What each of n pixels takes from m others along an axis, sparse [n, m].

    Args:
      n: number of pixels to be had.
      side: of them, in mm.
      m: number of pixels that there are.
      other: side of them; if it is the same, the pixels are copied.
    """
    if side == other:
        # As preprocessing crops and pads: an odd pixel is cut, or added, at the end.
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
    """Apply one matrix along the first axis and another along the second, in double precision."""
    height, width, n = planes.shape
    values = np.asarray(planes, np.float64).reshape(height, width * n)
    values = (rows @ values).reshape(rows.shape[0], width, n).transpose(1, 0, 2)
    values = columns @ values.reshape(width, -1)
    return values.reshape(columns.shape[0], rows.shape[0], n).transpose(1, 0, 2)
