"""How well heads of one person are told from heads of two by their slices.

The 62 heads of IXI at 2 mm in `IXI_REAL_DATA` are compared with each other, 1,891 pairs of two
people, and each with simulated second scans of itself: turned, shifted, brighter or darker, of
another contrast, with noise, with shading, and all of these together. Whole heads and heads without
the skull (by their label maps) are compared apart. Slices are cut and scaled to 8 bits as in a
dataset, window 30:66 of 90, 72 mm.

    .venv/bin/python benchmarks/same_head.py [--people=62] [--scaling=slice]
"""

import argparse
import itertools
import os
import pathlib

import nibabel as nib
import numpy as np
import rounds as shared
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from beam_preprocess import alike
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.nifti import Volume, read_volume
from ixi_tfds.slices import slices_of

AXES = ("posterior", "superior", "right")


def rescan(voxels, random, turn=(0, 0, 0), shift=(0, 0, 0), gain=1, gamma=1, noise=0, shading=0):
    """A second scan: degrees about each axis, voxels, factor, exponent, shares of the range."""
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    middle = (np.array(voxels.shape) - 1) / 2
    offset = middle - matrix @ middle - np.asarray(shift, float)
    made = ndimage.affine_transform(voxels, matrix, offset, order=1)
    top = np.percentile(made, 99.5)
    made = gain * top * np.clip(made / top, 0, None) ** gamma
    field = random.uniform(-shading, shading, (3, 3, 3))
    made *= np.exp(ndimage.zoom(field, np.array(made.shape) / 3, order=3))
    sigma = noise * gain * top
    real, imaginary = (random.normal(0, sigma, made.shape) for _ in range(2))
    return np.hypot(made + real, imaginary) if noise else made


def everything(random, degrees=5, voxels=5, noise=0.03):
    return {
        "turn": random.uniform(-degrees, degrees, 3),
        "shift": random.uniform(-voxels, voxels, 3),
        "gain": random.uniform(0.8, 1.25),
        "gamma": random.uniform(0.9, 1.1),
        "noise": noise,
        "shading": 0.2,
    }


def changes(random):
    """The parameters of a second scan by what is changed, drawn anew at each call."""
    sign = random.choice([-1, 1])
    along = {name: np.eye(3)[axis] * sign for axis, name in enumerate(AXES)}
    return {
        **{
            f"turned by {degrees} degrees about {name}": {"turn": degrees * axis}
            for degrees in (1, 3, 5)
            for name, axis in along.items()
        },
        **{f"shifted by 5 voxels to {name}": {"shift": 5 * axis} for name, axis in along.items()},
        "gain 0.8 or 1.25": {"gain": random.choice([0.8, 1.25])},
        "gamma 0.9 or 1.1": {"gamma": random.choice([0.9, 1.1])},
        "Rician noise of 3%": {"noise": 0.03},
        "shading of 20%": {"shading": 0.2},
        "all of these, up to 5 degrees and voxels": everything(random),
        "all of these, noise of 6%": everything(random, noise=0.06),
        "all of these, up to 10 degrees and 8 voxels": everything(random, 10, 8),
    }


def prepared(voxels, scan, scaling):
    config = SliceConfig("heads_2mm", (120, 120), (128, 128), (30, 66), scaling)
    grid = alike.grid_of((*config.size, config.slices_per_volume), (2.0, 2.0, 2.0))
    facts = {"affine": np.diag([2.0, 2, 2, 1]), "header": nib.Nifti1Header(), "git_blob_sha1": ""}
    volume = Volume(voxels.astype(np.float32), 1.0, 0.0, **facts)
    head = np.zeros(grid.shape, np.float32)
    for number, (_, fields) in enumerate(slices_of(scan, config, volume)):
        limits = fields["low"], fields["high"]
        alike.add_slice(head, number, fields["image"][..., 0], limits, grid)
    return alike.prepare(head), grid


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=62)
    parser.add_argument("--scaling", choices=("slice", "volume"), default="slice")
    arguments = parser.parse_args()
    real = pathlib.Path(os.environ["IXI_REAL_DATA"], "ixi")
    paths = sorted((real / "heads_2mm").glob("*.nii.gz"))[: arguments.people]
    random = np.random.default_rng(0)
    found = {}
    for kind in ("whole", "without the skull"):
        apart = {"two people": []}
        heads, second = [], []
        for path in tqdm(paths, desc=f"rescans, {kind}"):
            volume = read_volume(str(path))
            voxels = volume.scaled(volume.voxels).astype(np.float32)
            scan = Scan(path.name[:6], "", str(path))
            if kind != "whole":
                labels = real / "labels_2mm" / path.name.replace(".nii.gz", ".labels.nii.gz")
                voxels = voxels * (read_volume(str(labels)).voxels > 0)
            own, grid = prepared(voxels, scan, arguments.scaling)
            heads.append(own)
            for name, how in changes(random).items():
                again, _ = prepared(rescan(voxels, random, **how), scan, arguments.scaling)
                apart.setdefault(name, []).append(alike.likeness(own, again, grid.cell))
            second.append(again)
        for one, other in tqdm(list(itertools.combinations(heads, 2)), desc="pairs of people"):
            apart["two people"].append(alike.likeness(one, other, grid.cell))
        # As `verify` does: all people and their second scans at once, the nearest few compared.
        both = [*heads, *second]
        groups = ["first"] * len(heads) + ["second"] * len(second)
        pairs = {(one, other): value for value, one, other in alike.find_alike(both, groups, grid)}
        reached = sum(
            pairs.get((number, number + len(heads)), 0) >= alike.ALIKE
            for number in range(len(heads))
        )
        found[kind] = {
            name: {"least": min(values), "most": max(values), "pairs": len(values)}
            | {"alike": sum(value >= alike.ALIKE for value in values)}
            for name, values in apart.items()
        }
        found[kind]["found among all, of the last kind"] = {"pairs": len(heads), "alike": reached}
        for name, facts in found[kind].items():
            shown = ", ".join(f"{key} {value:.4g}" for key, value in facts.items())
            print(f"{kind}, {name}: {shown}", flush=True)
    shared.record(f"same head, scaled by {arguments.scaling}", alike=alike.ALIKE, **found)


if __name__ == "__main__":
    main()
