"""The model head: the MNI152 brain from nilearn, with a head painted around it.

Skull and scalp follow the distance from the brain's hull; face and neck are ellipsoids. The anatomy
is rough and healthy, and resembles nobody.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ixi_tfds.system.files import generator

Volume = NDArray[np.float32]
Point = tuple[float, float, float]

# The model's grid: 1 mm voxels along right, anterior and superior, in MNI space. It is the
# template's grid, extended to the front and below for face and neck.
FIRST = np.array([-98.0, -134.0, -172.0])
SHAPE = (197, 265, 289)

# Model units. The template's grey matter is near 0.68 and its white matter near 0.87.
AIR, BONE, CSF, MARROW, MUSCLE, SKIN, CORD, FAT = 0.0, 0.05, 0.22, 0.4, 0.52, 0.6, 0.82, 1.4

# Ellipsoids: centre and radii in mm. These extend the outline of the head.
_OUTLINE = (
    ((0, 40, -70), (60, 50, 72)),  # face
    ((0, 62, -118), (40, 32, 26)),  # chin
    ((0, 90, -52), (14, 19, 24)),  # nose
    ((0, -40, -120), (60, 64, 130)),  # neck
)
_SPINAL_CANAL = ((0, -44, -125), (10, 10, 80))
_SPINAL_CORD = ((0, -44, -125), (7, 7, 80))
# These are painted over muscle, later ones over earlier ones.
_INSIDE = (
    ((0, -82, -100), (46, 22, 45), FAT),  # nape
    ((31, 50, -36), (17, 26, 15), FAT),  # orbits
    ((-31, 50, -36), (17, 26, 15), FAT),
    ((31, 62, -36), (12, 12, 12), CSF),  # eyes
    ((-31, 62, -36), (12, 12, 12), CSF),
    ((0, 50, -52), (13, 32, 15), CSF),  # nasal cavity
    ((0, 40, -92), (26, 31, 4), AIR),  # mouth
    ((0, 1, -105), (12, 6, 62), AIR),  # throat
)


@functools.cache
def head_model() -> Volume:
    """The head in model units, float32 `SHAPE`, read-only; made once in a process (seconds)."""
    brain = template()
    inside = brain > 0
    # Bone surrounds the brain, and the spinal cord below it.
    hull = 2 * ndimage.distance_transform_edt(~inside[::2, ::2, ::2]).astype(np.float32)
    hull = _union(ndimage.gaussian_filter(hull, 1.5), _ellipsoid(*_SPINAL_CANAL))
    skin = hull - 15
    for body in _OUTLINE:
        skin = _union(skin, _ellipsoid(*body))
    uneven = smooth_noise(generator("the model head"), hull.shape, 2)
    head = MUSCLE * (1 + 0.2 * uneven)
    for centre, radii, unit in _INSIDE:
        _paint(head, _ellipsoid(centre, radii) / 2.0, unit)
    hull, skin, uneven, head = (refine(each, SHAPE) for each in (hull, skin, uneven, head))
    _paint(head, -skin - 5 - uneven, FAT)
    _paint(head, -skin - 2, SKIN)
    _paint(head, -skin, AIR)
    hull += 0.3 * uneven
    _paint(head, hull - 9, BONE)
    _paint(head, np.abs(hull - 6.3) - 1.2, MARROW)
    _paint(head, hull - 2.7, CSF)
    _paint(head, refine(_ellipsoid(*_SPINAL_CORD), SHAPE), CORD)
    head *= 1 + 0.1 * uneven
    head[inside] = brain[inside]
    # The template is an average, softer than a scan.
    detail = head - ndimage.gaussian_filter(head, 1.5)
    head[inside] = np.clip(head + 0.8 * detail, 0.12, 1)[inside]
    head.setflags(write=False)
    return head


def template() -> Volume:
    """The skull-stripped template on the model's grid, float32 `SHAPE`, 0 outside the brain."""
    from nilearn.datasets import load_mni152_template

    brain = load_mni152_template(resolution=1)
    return np.pad(brain.get_fdata(dtype=np.float32), ((0, 0), (0, 32), (100, 0)))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Volume:
    """Gaussian noise smoothed over `sigma` voxels, with a standard deviation of about 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    # Along each axis, smoothing divides the standard deviation by sqrt(2 sigma sqrt(pi)).
    return (noise * (2 * sigma * np.sqrt(np.pi)) ** 1.5).astype(np.float32)


def refine(nodes: Volume, shape: tuple[int, ...]) -> Volume:
    """Interpolate a coarse volume to a finer `shape`, with the same first and last nodes."""
    for axis, count in enumerate(shape):
        at = np.linspace(0, nodes.shape[axis] - 1, count)
        low = np.minimum(at.astype(int), nodes.shape[axis] - 2)
        weight = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        below = nodes.take(low, axis)
        nodes = below + (nodes.take(low + 1, axis) - below) * weight
    return nodes


def _ellipsoid(centre: Point, radii: Point) -> Volume:
    """Approximate distance in mm from an ellipsoid, negative inside it, on voxels of 2 mm."""
    axes = np.ogrid[tuple(slice(0, count, 2) for count in SHAPE)]
    x, y, z = (
        ((axis + first - c) / r).astype(np.float32)
        for axis, first, c, r in zip(axes, FIRST, centre, radii, strict=True)
    )
    return (np.sqrt(x * x + y * y + z * z) - 1) * min(radii)


def _union(one: Volume, other: Volume) -> Volume:
    """Distance from the union of two bodies, with the edge between them rounded over 12 mm."""
    mix = np.clip(0.5 + (other - one) / 24.0, 0, 1)
    return other + (one - other) * mix - 12 * mix * (1 - mix)


def _paint(head: Volume, distance: Volume, unit: float) -> None:
    """Fill a body with one tissue; `distance` is from its surface, in voxels."""
    head += np.clip(0.5 - distance, 0, 1) * (unit - head)
