"""Maps as NIfTI files on the grid of their scan."""

import pathlib

import deflate
import nibabel as nib
import numpy as np
from nibabel import orientations

from ixi_tfds.nifti import AXES, Volume
from ixi_tfds.system.files import write_bytes

_FASTEST = 1


def file_axis(volume: Volume) -> tuple[int, bool]:
    """The file's axis along which slices are counted, and whether its direction is opposite."""
    axes = orientations.io_orientation(volume.header.get_best_affine())
    codes = orientations.ornt2axcodes(axes)
    axis = next(number for number, code in enumerate(codes) if code in ("R", "L"))
    return axis, codes[axis] != AXES[2]


def write_map(path: pathlib.Path, values: np.ndarray, volume: Volume) -> None:
    """Write values [posterior, superior, right] on a volume's grid as a `.nii.gz` file.

    Values of type uint8 stay so, all others become float32. Shape, axes and affines with their
    codes are exactly those of the volume's file, so viewers show both aligned. The file appears
    complete or not at all.

    Raises:
      OSError: the file cannot be written.
    """
    header = volume.header.copy()
    affine = header.get_best_affine()
    back = orientations.ornt_transform(
        orientations.axcodes2ornt(AXES), orientations.io_orientation(affine)
    )
    kept = np.uint8 if values.dtype == np.uint8 else np.float32
    stored = orientations.apply_orientation(values.astype(kept, copy=False), back)
    header.set_data_dtype(kept)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 0
    # The scan's display window does not fit these values.
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(stored.reshape(header.get_data_shape()), affine, header)
    # A third of the time of zlib, which nibabel uses, and smaller files.
    write_bytes(path, deflate.gzip_compress(image.to_bytes(), _FASTEST))
