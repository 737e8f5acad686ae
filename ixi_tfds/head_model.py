"""The model head: the MNI152 brain that nilearn carries, with a head drawn around it.

The template is a brain without a head. Skull and scalp follow the distance from the brain's hull;
face and neck are ellipsoids. Rough anatomy, healthy, and no resemblance to a person.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]
Axes = tuple[Volume, Volume, Volume]

# The model's grid: 1 mm voxels along right, anterior and superior, in MNI space.
FIRST = np.array([-98.0, -134.0, -172.0])
SHAPE = (197, 265, 285)

# Model units, in which the template's grey matter lies near 0.68 and its white near 0.87.
AIR, BONE, CSF, MUSCLE, SKIN, CORD, FAT = 0.0, 0.05, 0.22, 0.52, 0.6, 0.82, 1.4

# Distance from the brain's hull in mm, and what lies there: fluid, the two tables of the skull
# with marrow between, fat, skin, air.
_SHELL = (
    (1.8, 2.8, 4.2, 4.9, 6.6, 7.4, 8.8, 9.8, 12.2, 13.0, 14.6, 15.4),
    (CSF, BONE, BONE, 0.5, 0.5, BONE, BONE, FAT, FAT, SKIN, SKIN, AIR),
)
_SCALP = 15.0

# Ellipsoids: centre and radii in mm. The first list adds to the outline of the head.
_OUTLINE = (
    ((0, 40, -70), (60, 50, 72)),  # face
    ((0, 62, -118), (40, 32, 26)),  # chin
    ((0, 84, -92), (24, 10, 12)),  # lips
    ((0, 92, -58), (15, 19, 14)),  # nose
    ((0, 86, -36), (11, 12, 24)),  # bridge of the nose
    ((0, -40, -120), (60, 64, 130)),  # neck
)
# The second is painted over muscle, later entries over earlier ones; the number after the tissue
# is how mottled it is.
_INSIDE = (
    ((0, -82, -100), (46, 22, 45), 0.9, 1.0),  # fat of the nape
    ((28, 44, -36), (17, 28, 15), 1.3, 0.3),  # orbits
    ((-28, 44, -36), (17, 28, 15), 1.3, 0.3),
    ((28, 30, -36), (6, 26, 6), MUSCLE, 0.2),
    ((-28, 30, -36), (6, 26, 6), MUSCLE, 0.2),
    ((31, 62, -36), (12.5, 12.5, 12.5), 0.2, 0.1),  # eyes
    ((-31, 62, -36), (12.5, 12.5, 12.5), 0.2, 0.1),
    ((31, 69, -36), (5, 2.5, 5), 0.5, 0.1),
    ((-31, 69, -36), (5, 2.5, 5), 0.5, 0.1),
    ((28, 56, -63), (15, 19, 13), AIR, 0.1),  # maxillary sinuses
    ((-28, 56, -63), (15, 19, 13), AIR, 0.1),
    ((0, 50, -52), (13, 32, 17), 0.3, 1.0),  # nasal cavity
    ((0, 25, -38), (12, 12, 11), AIR, 0.1),  # sphenoid sinus
    ((0, 79, -10), (16, 5, 11), AIR, 0.1),  # frontal sinus
    ((0, 45, -77), (22, 32, 4), BONE, 0.3),  # palate
    ((0, 76, -92), (24, 7, 14), 0.1, 0.6),  # teeth
    ((0, 40, -92), (26, 31, 5), AIR, 0.2),  # mouth
    ((0, 38, -105), (24, 32, 19), 0.58, 0.25),  # tongue
    ((0, 1, -105), (12, 6, 62), AIR, 0.3),  # throat
    ((0, 7, -78), (5, 8, 10), 0.5, 0.3),  # uvula
    ((0, 0, -40), (14, 14, 14), 0.3, 0.8),  # clivus
)
_CERVICAL_SPINE = tuple(
    ((0, -14 - 0.08 * drop, -76 - drop), (14, 9, 7.5), 0.55, 0.15) for drop in range(0, 110, 18)
)


@functools.cache
def head_model() -> Volume:
    """The head in model units, float32 `SHAPE`, read only; made once a process (some seconds)."""
    brain = _brain()
    inside = brain > 0
    axes = _axes(1)
    _, y, z = axes
    coarse_hull = _hull_distance(inside)
    hull, outline = _to_model(coarse_hull), _to_model(_outline(coarse_hull))
    # Smooth noise, longer down the neck, as muscles and vessels are.
    textures = tuple(_texture(stream, sigma) for stream, sigma in enumerate((0.7, 1.3, 1.9)))
    # The scalp is thicker at the back of the head, and nowhere even.
    depth = hull * (1 + 0.0012 * (y + 10)) + np.clip(hull / 15, 0, 1) * 0.35 * textures[1]
    head = np.interp(depth, *_SHELL).astype(np.float32)
    head *= 1 + 0.08 * textures[0] * np.clip(hull, 0, 1)
    skull_base = np.clip(0.24 * (y - 80) - 4, -50, 0)
    lower = np.clip((skull_base - z) / 10 + 0.5, 0, 1)
    head += lower * (_face_and_neck(hull, outline, textures) - head)
    # The template is an average, softer than a scan.
    brain[~inside] = CSF
    brain += 0.8 * (brain - ndimage.gaussian_filter(brain, 1.5))
    inside &= z > -70  # where the template is cut the brain stem goes over into the cord
    head[inside] = np.clip(brain[inside], 0.12, 1.0)
    _add_spinal_cord(head, inside, axes)
    head.setflags(write=False)
    return head


def _axes(step: int) -> Axes:
    """Right, anterior and superior of every `step`-th voxel, in mm, shaped to broadcast."""
    x, y, z = (
        np.arange(first, first + count, step, dtype=np.float32)
        for first, count in zip(FIRST, SHAPE, strict=True)
    )
    return x[:, None, None], y[None, :, None], z[None, None, :]


def _brain() -> Volume:
    """The skull-stripped template on the model's grid, 0 outside the brain."""
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=1)
    start = (template.affine[:3, 3] - FIRST).astype(int)
    ends = [min(s + n, m) for s, n, m in zip(start, template.shape, SHAPE, strict=True)]
    box = tuple(slice(s, e) for s, e in zip(start, ends, strict=True))
    brain = np.zeros(SHAPE, np.float32)
    brain[box] = template.dataobj[tuple(slice(0, b.stop - b.start) for b in box)]
    return brain


def _hull_distance(inside: NDArray[np.bool_]) -> Volume:
    """Distance in mm from the brain's smooth hull, negative within it, at every second voxel."""
    coarse = inside[::2, ::2, ::2]
    reach = 8  # of 2 mm: closes the sulci and the gap above the cerebellum
    grown = ndimage.distance_transform_edt(~coarse) <= reach
    hull = (ndimage.distance_transform_edt(grown) > reach) | coarse
    distance = ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull)
    return ndimage.gaussian_filter(2 * distance.astype(np.float32), 1.5)


def _to_model(coarse: Volume) -> Volume:
    """A volume of every second voxel, refined to the model's grid."""
    ends = [(n - 1) / 2 for n in SHAPE]
    return refine(coarse, SHAPE, ends)


def _outline(hull: Volume) -> Volume:
    """About the distance in mm from the skin, negative within the head, at every second voxel."""
    outline = hull - np.float32(_SCALP)
    for centre, radii in _OUTLINE:
        part = _ellipsoid(_axes(2), centre, radii)
        # The lesser of the two, rounded where they are within 12 mm of each other.
        mix = np.clip(0.5 + (part - outline) / 24, 0, 1)
        outline = part + (outline - part) * mix - 12 * mix * (1 - mix)
    return outline


def refine(nodes: Volume, shape: tuple[int, ...], spans: list[float] | None = None) -> Volume:
    """Linear interpolation of a coarse volume, axis by axis.

    Args:
      nodes: the coarse volume.
      shape: voxels to give along each axis.
      spans: where in `nodes` the last voxel of each axis lies; its last node by default. The
        first voxel lies on the first node.
    """
    for axis, count in enumerate(shape):
        last = nodes.shape[axis] - 1
        at = np.linspace(0, min(spans[axis], last) if spans else last, count)
        low = np.minimum(at.astype(int), last - 1)
        weight = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        below = nodes.take(low, axis)
        nodes = below + (nodes.take(low + 1, axis) - below) * weight
    return nodes


def _face_and_neck(hull: Volume, outline: Volume, textures: tuple[Volume, ...]) -> Volume:
    """Everything below the base of the skull, in model units."""
    fine, mottle, streaks = textures
    tissue = MUSCLE * (1 + 0.18 * mottle + 0.15 * fine)
    thickness = 0.12 + 0.12 * mottle  # of sheets of fat between muscles: they come and go
    tissue += np.clip(1.5 - np.abs(streaks) / np.maximum(thickness, 0.02), 0, 1) * (
        0.45 + 0.2 * fine
    )
    tissue *= 1 - 0.7 * np.clip(2 * (streaks + 0.6 * mottle) - 2.6, 0, 1)  # bone
    axes = _axes(1)
    for centre, radii, value, mottled in (*_INSIDE, *_CERVICAL_SPINE):
        box = tuple(
            slice(max(0, int(c - r - 8 - first)), int(c + r + 8 - first))
            for c, r, first in zip(centre, radii, FIRST, strict=True)
        )
        near = (axes[0][box[0]], axes[1][:, box[1]], axes[2][:, :, box[2]])
        distance = _ellipsoid(near, centre, radii)
        part = np.clip(0.5 - distance - 2 * mottled * mottle[box], 0, 1)
        tissue[box] += part * (value * (1 + 0.5 * mottled * fine[box]) - tissue[box])
    # Millimetres of fat under the skin: more at the nape than in the face.
    fat = np.clip(5 - 0.06 * axes[1], 2.5, 10)
    depth = -outline - 0.7 * mottle
    tissue += np.clip(fat + 2 - depth, 0, 1) * (FAT * (0.85 + 0.15 * mottle + 0.1 * fine) - tissue)
    tissue += np.clip(2.2 - depth, 0, 1) * (SKIN - tissue)
    tissue *= np.clip(0.5 - outline, 0, 1)
    # Fluid and bone go on around the underside of the brain.
    around = np.interp(hull, (1.8, 2.8), (CSF, BONE)).astype(np.float32)
    around += np.clip(mottle, 0, 2) * 0.1
    return tissue + np.clip(6.5 + mottle - hull, 0, 1) * (around - tissue)


def _texture(stream: int, sigma: float) -> Volume:
    """Smooth noise of deviation 1; `sigma` in voxels of 2 mm, twice that along superior."""
    rng = np.random.Generator(np.random.PCG64([152, stream]))
    noise = rng.standard_normal([n // 2 + 1 for n in SHAPE], np.float32)
    noise = ndimage.gaussian_filter(noise, (sigma, sigma, 2 * sigma))
    return _to_model(noise / noise.std())


def _add_spinal_cord(head: Volume, inside: NDArray[np.bool_], axes: Axes) -> None:
    """Let the brain stem, which ends with the template, go on down the neck in its fluid."""
    x, y, z = axes
    radius = np.sqrt((x * 0.85) ** 2 + (y + 44 - 0.06 * (z + 72)) ** 2)
    below = np.clip((-64 - z) / 4, 0, 1) * ~inside
    head += np.clip(10.5 - radius, 0, 1) * below * (CSF - head)
    width = np.clip(7 + (z + 70) * 0.1, 5, 7)
    head += np.clip(width - radius, 0, 1) * below * (CORD - head)


def _ellipsoid(axes: Axes, centre: tuple[float, ...], radii: tuple[float, ...]) -> Volume:
    """About the distance in mm from an ellipsoid, negative within it."""
    x, y, z = (
        (axis - np.float32(c)) / np.float32(r)
        for axis, c, r in zip(axes, centre, radii, strict=True)
    )
    return (np.sqrt(x * x + y * y + z * z) - 1) * np.float32(min(radii))
