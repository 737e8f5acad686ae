"""A small head with a made-up anomaly map, for the tests of the viewer."""

import base64
import gzip
import re

import nibabel as nib
import numpy as np
from nibabel import orientations

from ixi_tfds.nifti import read_volume

SHAPE = (30, 40, 36)
"""Voxels to the right, to the front and upwards, of 5, 4 and 4 mm."""

BRIGHT, DARK = (20, 28, 25), (9, 14, 22)
"""Where the map is 80 and -60; voxels 2 and less from these have the same value."""

UNSEEN = 5
"""Planes at the lower end that no model saw."""

AFFINE = np.array(
    [[4.9, 0.5, 0, -70], [-0.6, 3.9, 0.4, -60], [0.1, -0.4, 3.9, -50], [0, 0, 0, 1.0]]
)


def scan_ras():
    """The scan, float32 in the order right, anterior, superior."""
    grid = np.indices(SHAPE).T / np.array(SHAPE) - 0.5
    ball = (grid**2).sum(-1).T < 0.2
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    return (np.where(ball, 500 + 300 * grid.T[0], 0) + noise).astype(np.float32)


def anomaly_ras():
    """The anomaly map in the same order; NaN where it was never seen."""
    values = np.random.default_rng(1).normal(0, 3, SHAPE).astype(np.float32)
    values[:, :, :UNSEEN] = np.nan
    for (i, j, k), value in ((BRIGHT, 80), (DARK, -60)):
        values[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3] = value
    return values


def write_and_read(folder, axes="RAS"):
    """The scan as a file in the given axes, read back: a volume; and the map on its grid."""
    image = nib.Nifti1Image(scan_ras(), AFFINE)
    image.header.set_xyzt_units("mm")
    ras, stored = (orientations.axcodes2ornt(codes) for codes in ("RAS", axes))
    path = folder / f"head_{axes}_T1.nii.gz"
    nib.save(image.as_reoriented(orientations.ornt_transform(ras, stored)), path)
    turn = orientations.ornt_transform(ras, orientations.axcodes2ornt("PSR"))
    return read_volume(str(path)), orientations.apply_orientation(anomaly_ras(), turn)


def held(html, name):
    """What a page holds under a name."""
    text = re.search(rf'id="data-{name}">([^<]*)<', html)[1]
    return gzip.decompress(base64.b64decode(text))
