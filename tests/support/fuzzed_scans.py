"""Damaged scans, and what reading one may come to: what every fuzz test shares."""

import gzip
import math
import pathlib
import warnings

import nibabel as nib
import numpy as np
from volumes import ZOOMS, head, image

from evaluator import map_files, volumes
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.slices import slices_of
from ixi_tfds.system.errors import ScanError

SIZE = (12, 16)
CONFIGS = [SliceConfig("any", None, SIZE, (3, 6), scaling) for scaling in ("slice", "volume")]
GEOMETRIES = [volumes.Geometry(config, (12, 12, 9), ZOOMS) for config in CONFIGS]
HEADER = 352


def seed_image() -> nib.Nifti1Image:
    """A good head of 3 kB."""
    return image(head((12, 12, 9)))


def seed_file() -> bytes:
    """The file of `seed_image`, not compressed."""
    return seed_image().to_bytes()


def pack(content: bytes) -> bytes:
    """Content as a gzip file, the same bytes each time."""
    return gzip.compress(content, 1, mtime=0)


def outcome(stored: bytes, folder: pathlib.Path, name: str = "fuzzed.nii.gz") -> str:
    """Give a file to preprocessing and to the evaluator.

    Returns:
      "slices", or the reasons for which the two refused it; any other exception passes through,
      and so does a slice that is not what its contract says.
    """
    path = folder / name
    path.write_bytes(stored)
    with warnings.catch_warnings():
        # A value that overflows on the way is found in the end, or it is a bug.
        warnings.simplefilter("error", RuntimeWarning)
        found = [_outcome(_dataset, path, index) for index in (0, 1)]
        found += [_outcome(_reconstruct, path, index) for index in (0, 1)]
    return ", ".join(dict.fromkeys(found))


def _outcome(use, path, index):
    try:
        use(path, index)
    except ScanError as error:
        assert error.reason in ScanError.REASONS and str(path) in str(error)
        assert len(error.detail) < 500
        return error.reason
    return "slices"


def _dataset(path, index):
    examples = list(slices_of(Scan("x", "", str(path)), CONFIGS[index]))
    assert len(examples) == CONFIGS[index].slices_per_volume
    for _, example in examples:
        assert example["image"].shape == (*SIZE, 1) and example["image"].dtype == np.uint8
        low, high = np.float32(example["low"]), np.float32(example["high"])
        assert np.isfinite(low) and np.isfinite(high) and low <= high


def _reconstruct(path, index):
    stack = volumes.open_stack(str(path), GEOMETRIES[index])
    assert all(map(math.isfinite, stack.volume.zooms)) and np.isfinite(stack.volume.affine).all()
    slices = volumes.scanner_slices(stack, 0, stack.slices.n).astype(np.float32)
    assert np.isfinite(slices).all()
    values = volumes.from_slices(stack, slices)
    assert values.shape == stack.volume.voxels.shape
    map_files.write_map(path.with_name("map.nii.gz"), values, stack.volume)
