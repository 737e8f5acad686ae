"""A subject's scan: the model head, deformed for the subject, as its site's scanner shows it."""

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ixi_tfds.demo.head_model import FIRST, Volume, head_model, refine, smooth_noise, template
from ixi_tfds.system.files import generator

Shape = tuple[int, int, int]
Zooms = tuple[float, float, float]

_UNITS = (0.0, 0.05, 0.22, 0.68, 0.87, 1.5)
# By site: signal at the model units in `_UNITS` (white matter 1), scanner units of white matter,
# noise, and strength of the bias field (both relative to white matter).
_SCANNERS = {
    "Guys": ((0.0, 0.05, 0.27, 0.74, 1.0, 1.75), 430.0, 0.040, 0.10),
    "HH": ((0.0, 0.07, 0.30, 0.71, 1.0, 1.30), 560.0, 0.028, 0.18),
    "IOP": ((0.0, 0.05, 0.36, 0.78, 1.0, 1.55), 330.0, 0.045, 0.14),
}
SITES = tuple(_SCANNERS)

_NODES = (41, 41, 31)  # nodes of the coarse grids that span the field of view


def make_head(
    subject: str,
    site: str,
    *,
    seed: int,
    shape: Shape = (256, 256, 150),
    zooms: Zooms = (0.9375, 0.9375, 1.2),
) -> nib.Nifti1Image:
    """Make the T1 volume of a healthy, made-up head.

    Args:
      subject: the subject's id. It and `seed` determine all random values.
      site: one of `SITES`, which differ in contrast, gain, noise and bias field.
      seed: the cohort's seed.
      shape: voxels along posterior, superior and right.
      zooms: voxel sizes along them, in mm.

    Returns:
      An int16 image with IXI's axes (PSR) and a slightly oblique affine, in scanner units from 0 to
      about 1500. The middle of the brain is near the middle of the right axis.
    """
    signal_at, gain, noise, shading = _SCANNERS[site]
    rng = generator(f"{seed}:{subject}")
    signal = _sample(head_model(), _voxels_in_model(rng, shape, zooms))
    contrast = np.array(signal_at) * (1 + 0.03 * rng.standard_normal(len(signal_at)))
    signal = np.interp(signal, _UNITS, contrast).astype(np.float32)
    bias = 1 + shading * smooth_noise(rng, _NODES, 9)
    signal *= refine(np.clip(bias, 0.6, 1.5), shape)
    sigma = np.float32(noise * rng.uniform(0.8, 1.2))
    signal += sigma * rng.standard_normal(shape, np.float32)
    imaginary = sigma * rng.standard_normal(shape, np.float32)
    # The magnitude of a complex signal with Gaussian noise in both parts is Rician.
    magnitude = np.sqrt(signal * signal + imaginary * imaginary)
    units = np.float32(gain * rng.uniform(0.85, 1.15))
    image = nib.Nifti1Image(np.rint(magnitude * units).astype(np.int16), _affine(rng, shape, zooms))
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"made-up head around the MNI152 brain"
    image.set_qform(image.affine, code=1)
    return image


def brain_mask(
    subject: str,
    site: str,
    *,
    seed: int,
    shape: Shape = (256, 256, 150),
    zooms: Zooms = (0.9375, 0.9375, 1.2),
) -> NDArray[np.bool_]:
    """The brain, with its ventricles, in the head from `make_head`: bool [*shape].

    The arguments are those of `make_head`. The site makes no difference.
    """
    voxels = _voxels_in_model(generator(f"{seed}:{subject}"), shape, zooms)
    return _sample((template() > 0).astype(np.float32), voxels) > 0.5


def _sample(model: Volume, voxels: Volume) -> Volume:
    """Values of the model, interpolated at voxel coordinates [3, *shape]."""
    return ndimage.map_coordinates(model, voxels, order=1, output=np.float32, mode="nearest")


def _voxels_in_model(rng: np.random.Generator, shape: Shape, zooms: Zooms) -> Volume:
    """Coordinates of a subject's voxels in the model's grid, float32 [3, *shape].

    `rng` is a new generator of the subject.
    """
    extent = np.array(shape) * zooms
    posterior, superior, right = np.meshgrid(
        *(np.linspace(-0.5, 0.5, n) * side for n, side in zip(_NODES, extent, strict=True)),
        indexing="ij",
    )
    # The brain is above and in front of the middle of the field of view, to leave room for the
    # face and neck.
    middle = np.array([rng.normal(0, 1.5), rng.normal(-4, 4), rng.normal(27, 3)])
    place = np.stack([right, -posterior, superior]) - middle[:, None, None, None]
    size = 1.08 + 0.03 * rng.standard_normal() + 0.02 * rng.standard_normal(3)
    turn = _rotation(rng) * size[:, None]
    place = sum(turn[:, i, None, None, None] * place[i] for i in range(3))
    for sigma, millimetres in ((6.0, 2.7), (2.4, 1.6)):
        place += millimetres * np.stack([smooth_noise(rng, _NODES, sigma) for _ in range(3)])
    place += (np.array([0, -18, 8]) - FIRST)[:, None, None, None]
    return np.stack([refine(axis, shape) for axis in place.astype(np.float32)])


def _affine(rng: np.random.Generator, shape: Shape, zooms: Zooms) -> NDArray[np.float64]:
    """A slightly oblique affine of a volume with axes to posterior, superior and right."""
    axes = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    turned = _rotation(rng) @ axes * zooms
    origin = rng.uniform(-6, 6, 3) - turned @ (np.array(shape) / 2)
    return nib.affines.from_matvec(turned, origin).round(6)


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotation by a few degrees, rounded so that every machine gives the same matrix."""
    angles = rng.normal(0, (4, 1.5, 1.5))
    return Rotation.from_euler("xyz", angles, degrees=True).as_matrix().round(9)
