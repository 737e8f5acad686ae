"""Made-up heads of few voxels, whole and skull-stripped, as files of IXI's names."""

import nibabel as nib
import numpy as np

from ixi_tfds.demo.head import SITES, brain_mask, make_head

GRID = {"shape": (72, 72, 48), "zooms": (3.5, 3.5, 4.0)}
OF_GRID = ("--config=made_up", "--in_plane=72x72", "--size=72x72", "--slices=18:30")
"""Flags of beam_preprocess that fit these heads."""


def write_made_up(folder, number, *, stripped=False):
    """Write a head of one of three sites as `IXI<701 + number>-...`; give its path."""
    who = (f"p{number}", SITES[number % 3])
    image = make_head(*who, seed=0, **GRID)
    if stripped:
        brain = brain_mask(*who, seed=0, **GRID)
        voxels = np.asarray(image.dataobj) * brain
        image = nib.Nifti1Image(voxels.astype(np.int16), image.affine, image.header)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"IXI{701 + number}-{who[1]}-{number:04d}-T1.nii.gz"
    nib.save(image, path)
    return path
