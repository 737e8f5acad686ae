"""Which real scans look unlike others: the table in docs/new_scans.md.

    IXI_REAL_DATA=... .venv/bin/python benchmarks/look.py [--every=4]

The training data are the 62 whole heads of 2 mm, without the head that is tested or changed, or
the 9 stripped ones. Other kinds are made from every Nth of the 62 heads: contrasts by their labels,
the rest by cropping, scaling and turning. The last line is the time of a look at a 1 mm head.
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import timeit

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ixi_tfds.images.look import look_of, typical, unlike
from ixi_tfds.nifti import read_volume

VERDICTS = {
    "looks skull-stripped": "stripped",
    "looks like a whole head": "whole",
    "has another contrast": "contrast",
    "lacks part": "cut",
    "the head is": "size",
    "shows": "field of view",
    "has voxels": "coarse",
    "is oblique": "tilt",
    "is sheared": "shear",
}
"""Short names of what `unlike` says, by how it begins."""


def heads(data):
    """Paths of the whole heads of 2 mm, by subject."""
    return {path.name[:6]: path for path in sorted((data / "ixi/heads_2mm").glob("*.nii.gz"))}


def stripped(data):
    """Paths of the stripped heads, of four sources."""
    return [
        *sorted((data / "ixi/stripped").glob("*.nii.gz")),
        *(data / "lesions").glob("*_T1_MNI.nii.gz"),
        *sorted((data / "tumours/brats13").glob("*T1c*.nii.gz")),
        *(data / "tumours").glob("*_T1.nii.gz"),
    ]


def labels_of(path):
    """The label map of a head of 2 mm; labels above 0 are brain."""
    name = path.name.replace(".nii.gz", ".labels.nii.gz")
    return read_volume(str(path.parents[1] / "labels_2mm" / name)).voxels


def verdict(differences):
    """The short names of what `unlike` says."""
    return [VERDICTS[start] for text in differences for start in VERDICTS if text.startswith(start)]


def with_values(volume, values):
    """The volume with other voxels, in scanner units."""
    return dataclasses.replace(volume, voxels=values.astype(np.float32), slope=1.0, inter=0.0)


def with_axes(volume, matrix):
    """The volume with the axes of its affine multiplied by a matrix [3, 3] from the left."""
    affine = volume.affine.copy()
    affine[:3, :3] = matrix @ affine[:3, :3]
    return dataclasses.replace(volume, affine=affine)


def contrast(values, brain, units):
    """Values of the brain mapped from multiples of about white matter: 0, 0.3, 0.65, 1 and 1.4."""
    white = np.median(values[brain]) * 1.15
    made = values.copy()
    made[brain] = white * np.interp(values[brain] / white, (0, 0.3, 0.65, 1, 1.4), units)
    return made


def t2(values, brain):
    """As in T2: fluid bright, also around the brain; grey matter brighter than white."""
    made = contrast(values, brain, (1.5, 1.3, 0.65, 0.42, 0.35))
    white = np.median(values[brain]) * 1.15
    rim = ndimage.binary_dilation(brain, iterations=2) & ~brain & (values < 0.4 * white)
    made[~brain] *= 0.8
    made[rim] = 1.2 * white
    return made


def flair(values, brain):
    """As in FLAIR: fluid dark, grey matter brighter than white."""
    return contrast(values, brain, (0.05, 0.1, 0.85, 0.62, 0.6))


def ct(values, brain):
    """As in CT, in Hounsfield units: air -1000, bone 1000, tissue about 0."""
    white = np.median(values[brain]) * 1.15
    padded = ndimage.binary_closing(np.pad(values > 0.12 * white, 6), iterations=4)
    body = ndimage.binary_fill_holes(padded[6:-6, 6:-6, 6:-6])
    made = np.where(body, 20.0, -1000.0)
    made[brain] = 35 - 8 * (values[brain] > 0.8 * white) - 25 * (values[brain] < 0.4 * white)
    near = ndimage.distance_transform_edt(~brain, sampling=2.0)
    made[body & (near > 1) & (near < 14) & (values < 0.45 * white)] = 1000
    made[body & ~brain & (values > 0.7 * white)] = -80
    return made + np.random.default_rng(0).normal(0, 8, made.shape)


def inverted_inside(values, brain):
    """The head inverted, the background still 0."""
    body = ndimage.binary_fill_holes(values > 0.08 * np.percentile(values, 99))
    high = np.percentile(values, 99.5)
    return np.where(body, high - np.minimum(values, high) + 0.05 * high, 0)


def thick(volume, times):
    """Slices of several voxels each."""
    n = volume.voxels.shape[2] // times
    values = volume.scaled(volume.voxels)[:, :, : n * times]
    made = with_values(volume, values.reshape(*values.shape[:2], n, times).mean(axis=-1))
    affine = made.affine.copy()
    affine[:3, 2] *= times
    return dataclasses.replace(made, affine=affine)


def kinds(volume, labels):
    """Volumes made from a whole head, by kind."""
    values, brain = volume.scaled(volume.voxels), labels > 0
    sheared = np.array([[1, 0, 0.1], [0, 1, 0], [0, 0, 1]])
    made = {
        "minus 1000": values - 1000,
        "z-scored": (values - values.mean()) / values.std(),
        "padded by 15 voxels on all sides": np.pad(values, 15),
        "stripped by its brain mask": np.where(brain, values, 0),
        "T2-like": t2(values, brain),
        "FLAIR-like": flair(values, brain),
        "CT-like": ct(values, brain),
        "inverted, background too": values.max() - values,
        "inverted, background 0": inverted_inside(values, brain),
        "stripped and T2-like": np.where(brain, t2(values, brain), 0),
        "stripped and FLAIR-like": np.where(brain, flair(values, brain), 0),
        "its label map": labels,
        "top cut off by 76 mm": values[:, :-38],
        "right half only": values[:, :, values.shape[2] // 2 :],
    }
    top = np.flatnonzero((values > 0.1 * values.max()).any(axis=(0, 2)))[-1]
    made["top 110 mm only"] = values[:, max(0, top - 55) :]
    volumes = {kind: with_values(volume, voxels) for kind, voxels in made.items()}
    volumes["half as large (a macaque)"] = with_axes(volume, np.eye(3) / 2)
    volumes["slices of 6 mm"] = thick(volume, 3)
    turn = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    volumes["affine turned by 20 degrees"] = with_axes(volume, turn)
    volumes["affine sheared by 6 degrees"] = with_axes(volume, sheared)
    return volumes


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=4)
    every = parser.parse_args().every
    data = pathlib.Path(os.environ["IXI_REAL_DATA"])
    paths = heads(data)
    looks = {name: look_of(read_volume(str(path))) for name, path in paths.items()}
    without = {name: [look for n, look in looks.items() if n != name] for name in looks}
    bare = [look_of(read_volume(str(path))) for path in stripped(data)]
    (full,) = (data / "ixi/full").glob("*.nii.gz")
    whole, skulls_off = typical(list(looks.values())), typical(bare)
    cases = [("whole IXI head, 2 mm", n, look, typical(without[n])) for n, look in looks.items()]
    other_site = read_volume(str(full))
    cases.append(("whole IXI head of another site, 1 mm", "", look_of(other_site), whole))
    cases += [("stripped, 4 sources", "", look, whole) for look in bare]
    for name in list(paths)[::every]:
        volume, labels = read_volume(str(paths[name])), labels_of(paths[name])
        typical_head = typical(without[name])
        cases += [(k, name, look_of(v), typical_head) for k, v in kinds(volume, labels).items()]
    rows = collections.defaultdict(lambda: collections.defaultdict(list))
    for kind, _, look, known in cases:
        rows[kind]["whole"].append(verdict(unlike(look, [known])))
        rows[kind]["stripped"].append(verdict(unlike(look, [skulls_off])))
    print("| input | scans | model of whole heads says | model of stripped heads says |")
    print("|---|---|---|---|")
    for kind, said in rows.items():
        print(
            f"| {kind} | {len(said['whole'])} | {told(said['whole'])} | {told(said['stripped'])} |"
        )
    seconds = min(timeit.repeat(lambda: look_of(other_site), number=5, repeat=30)) / 5
    print(f"\na look at {other_site.voxels.shape} voxels: {seconds * 1e3:.2f} ms")


def told(verdicts):
    counts = collections.Counter(word for words in verdicts for word in words or ["nothing"])
    return ", ".join(
        word if count == len(verdicts) else f"{word} ({count})" for word, count in counts.items()
    )


if __name__ == "__main__":
    main()
