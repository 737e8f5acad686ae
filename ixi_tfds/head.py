"""A subject's scan: the model head under a deformation of its own, seen by its site's scanner."""

import hashlib

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ixi_tfds.head_model import FIRST, Volume, head_model, refine

Shape = tuple[int, int, int]
Zooms = tuple[float, float, float]

_UNITS = (0.0, 0.05, 0.22, 0.68, 0.87, 1.5, 2.0)
# Signal at those model units (white matter 1), scanner units of white matter, noise and strength
# of the bias field (both of white matter).
_SCANNERS = {
    "Guys": ((0.0, 0.05, 0.27, 0.74, 1.0, 1.75, 2.2), 430.0, 0.040, 0.10),
    "HH": ((0.0, 0.07, 0.30, 0.71, 1.0, 1.30, 1.6), 560.0, 0.028, 0.18),
    "IOP": ((0.0, 0.05, 0.36, 0.78, 1.0, 1.55, 2.0), 330.0, 0.045, 0.14),
}
SITES = tuple(_SCANNERS)

_NODES = (41, 41, 31)  # of the coarse fields that span the field of view


def generator(text: str) -> np.random.Generator:
    """A random generator that depends on `text` alone."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def make_head(
    subject: str,
    site: str,
    *,
    seed: int,
    shape: Shape = (256, 256, 150),
    zooms: Zooms = (0.9375, 0.9375, 1.2),
) -> nib.Nifti1Image:
    """Make the T1 volume of a healthy head that belongs to nobody.

    Args:
      subject: the subject's id; it and `seed` decide everything random.
      site: one of `SITES`, which differ in contrast, gain, noise and bias field.
      seed: the cohort's seed.
      shape: voxels along posterior, superior and right.
      zooms: voxel sizes along them, in mm.

    Returns:
      An int16 image in the axes of IXI (PSR) with a slightly oblique affine, in scanner units of
      0 to about 1500, the brain's middle near the middle of the right axis.
    """
    signal_at, gain, noise, shading = _SCANNERS[site]
    rng = generator(f"{seed}:{subject}")
    nodes = _voxels_in_model(rng, np.array(shape) * zooms)
    where = np.stack([refine(axis, shape) for axis in nodes])
    signal = ndimage.map_coordinates(
        head_model(), where, order=1, output=np.float32, mode="nearest"
    )
    contrast = np.array(signal_at) * (1 + 0.03 * rng.standard_normal(len(signal_at)))
    signal = np.interp(signal, _UNITS, contrast).astype(np.float32)
    bias = 1 + shading * _smooth_noise(rng, 9)
    signal *= refine(np.clip(bias, 0.6, 1.5), shape)
    sigma = np.float32(noise * rng.uniform(0.8, 1.2))
    signal += sigma * rng.standard_normal(shape, np.float32)
    imaginary = sigma * rng.standard_normal(shape, np.float32)
    # The magnitude of a signal with Gaussian noise in both its parts is Rician.
    magnitude = np.sqrt(signal * signal + imaginary * imaginary)
    units = np.float32(gain * rng.uniform(0.85, 1.15))
    image = nib.Nifti1Image(np.rint(magnitude * units).astype(np.int16), _affine(rng, shape, zooms))
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"made-up head around the MNI152 brain"
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    return image


def _voxels_in_model(rng: np.random.Generator, extent: NDArray[np.float64]) -> Volume:
    """Where a subject's voxels lie in the model, on coarse nodes.

    Args:
      rng: the subject's generator.
      extent: the field of view along posterior, superior and right, in mm.

    Returns:
      float32 [3, *_NODES]: the model's voxel along right, anterior and superior, at nodes that
      stand evenly from the first to the last voxel of each axis.
    """
    posterior, superior, right = np.meshgrid(
        *(np.linspace(-0.5, 0.5, n) * side for n, side in zip(_NODES, extent, strict=True)),
        indexing="ij",
    )
    # The middle of the brain stands above and before the middle of the field of view, so that
    # face and neck have room.
    middle = np.array([rng.normal(0, 1.5), rng.normal(-4, 4), rng.normal(27, 3)])
    place = np.stack([right, -posterior, superior]) - middle[:, None, None, None]
    size = 1.08 + 0.03 * rng.standard_normal() + 0.02 * rng.standard_normal(3)
    turn = _rotation(rng.normal(0, (4, 1.5, 1.5))) * size[:, None]
    place = sum(turn[:, i, None, None, None] * place[i] for i in range(3))
    for sigma, millimetres in ((6.0, 2.7), (2.4, 1.6)):
        place += millimetres * np.stack([_smooth_noise(rng, sigma) for _ in range(3)])
    return (place + (np.array([0, -18, 8]) - FIRST)[:, None, None, None]).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, sigma: float) -> Volume:
    """Gaussian noise on the coarse nodes, smoothed over `sigma` of them, deviation about 1."""
    field = ndimage.gaussian_filter(rng.standard_normal(_NODES), sigma)
    # What smoothing over sigma leaves of a deviation of 1, by axis: 1 / sqrt(2 sigma sqrt(pi)).
    return (field * (2 * sigma * np.sqrt(np.pi)) ** 1.5).astype(np.float32)


def _affine(rng: np.random.Generator, shape: Shape, zooms: Zooms) -> NDArray[np.float64]:
    """Affine of a volume whose axes run to posterior, superior and right, a little oblique."""
    axes = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    affine = np.eye(4)
    affine[:3, :3] = _rotation(rng.normal(0, (4, 1.5, 1.5))) @ axes * zooms
    affine[:3, 3] = rng.uniform(-6, 6, 3) - affine[:3, :3] @ (np.array(shape) / 2)
    return affine.round(6)


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about the three axes in turn, rounded so that every machine gives the same."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[i, j], [i, j]] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn.round(9)
