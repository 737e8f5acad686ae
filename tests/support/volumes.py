"""Small NIfTI volumes for the tests."""

import pathlib

import nibabel as nib
import numpy as np
from nibabel import orientations
from scipy import ndimage

ZOOMS = (4.0, 4.0, 5.0)


def head(shape=(32, 32, 24), seed=0):
    """A noisy ball in air, int16 [P, S, R]: enough of a head for every check to pass."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).T / np.array(shape) - 0.5
    ball = 900.0 * ((grid**2).sum(-1).T < 0.2)
    noisy = ndimage.gaussian_filter(ball, 0.8) + rng.normal(0, 20, shape)
    return np.clip(noisy + 40 * ndimage.gaussian_filter(rng.normal(size=shape), 2), 0, None).astype(
        np.int16
    )


def image(voxels, axes="PSR", dtype=None):
    """The volume [P, S, R] as an image stored in the given axis codes, the same head in space."""
    to_psr = orientations.axcodes2ornt("PSR")
    signs = np.zeros((4, 4))
    for axis, (world, flip) in enumerate(to_psr):
        signs[int(world), axis] = flip * ZOOMS[axis]
    signs[:3, 3] = -signs[:3, :3] @ (np.array(voxels.shape) - 1) / 2
    signs[3, 3] = 1
    made = nib.Nifti1Image(voxels if dtype is None else voxels.astype(dtype), signs)
    return made.as_reoriented(orientations.ornt_transform(to_psr, orientations.axcodes2ornt(axes)))


def write_head(folder, name, *, seed=0, shape=(32, 32, 24), voxels=None, axes="PSR"):
    """Write a head as `<name>.nii.gz` into a folder; give its path."""
    path = pathlib.Path(folder, f"{name}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image(head(shape, seed) if voxels is None else voxels, axes), path)
    return path


def write_cohort(folder, subjects=12, shape=(32, 32, 24)):
    """Heads of people who are not of IXI, named as IXI names its own."""
    sites = ("Guys", "HH", "IOP")
    for index in range(subjects):
        name = f"IXI{701 + index}-{sites[index % 3]}-{index:04d}-T1"
        write_head(folder, name, seed=index, shape=shape)
    return folder


SMALL = ("--config=small", "--in_plane=32x32", "--size=32x32", "--slices=8:14")
"""Flags of beam_preprocess that fit these heads."""
