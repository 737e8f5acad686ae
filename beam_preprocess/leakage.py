"""Whether anything of one split of a dataset stands in another: people, slices, near-copies."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from tensorflow_datasets.proto import tf_example_pb2

from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.features import slice_key
from ixi_tfds.integrity import records, split_of

SIDE = 16
"""Slices are compared as means over a grid of so many cells a side."""

SUSPICIOUS = 0.02
"""Distance below which slices of two people are too alike to be of two people.

Measured on 62 real heads of IXI at 2 mm: no two slices of different people are closer than 0.0266
(1,891 pairs of people, 36 slices each). The same slice is at 0.007 to 0.022 after a shift by one
voxel, 0.006 to 0.009 with noise of 3% of its range, 0.018 to 0.025 with a gamma of 1.1; neighbours
within a head are at 0.007 to 0.14.
"""


@dataclasses.dataclass(frozen=True)
class Slices:
    """All slices of a dataset, small.

    Attributes:
      table: a row a slice, with `split`, `subject`, `key`, and `sha256` of its pixels, "" where
        they are all the same.
      small: float32 [N, SIDE * SIDE], means of the cells of a grid, in [0, 1].
    """

    table: pd.DataFrame
    small: np.ndarray


def read_slices(folder: pathlib.Path, manifest: Manifest) -> Slices:
    """Read every slice of a dataset.

    Raises:
      DatasetError: a shard is damaged.
    """
    height, width = manifest.config.size
    rows, small = [], []
    for shard in sorted(manifest.shards):
        for record in records(folder / shard):
            fields = tf_example_pb2.Example.FromString(record).features.feature
            pixels = np.frombuffer(fields["image"].bytes_list.value[0], np.uint8)
            subject = fields["subject"].bytes_list.value[0].decode()
            key = slice_key(subject, fields["slice_index"].int64_list.value[0])
            constant = pixels.min() == pixels.max()
            sha256 = "" if constant else hashlib.sha256(pixels.tobytes()).hexdigest()
            rows.append((split_of(shard), subject, key, sha256))
            small.append(_shrink(pixels.reshape(height, width)))
    table = pd.DataFrame(rows, columns=["split", "subject", "key", "sha256"])
    return Slices(table, np.array(small, np.float32).reshape(len(rows), SIDE * SIDE))


def _shrink(image: np.ndarray) -> np.ndarray:
    edges = [np.linspace(0, side, SIDE + 1).astype(int)[:-1] for side in image.shape]
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float32), edges[0], 0), edges[1], 1)
    counts = [np.diff([*edge, side]) for edge, side in zip(edges, image.shape, strict=True)]
    return (sums / np.outer(*counts) / 255).ravel()


def find_leaks(slices: Slices) -> list[str]:
    """People and slices that stand where they must not, a sentence each; empty where all is well.

    A slice counts as the same by its name, or by its pixels unless these are all the same.
    """
    table, leaks = slices.table, []
    for subject, splits in table.groupby("subject")["split"].unique().items():
        if len(splits) > 1:
            leaks.append(f"{subject} is in {' and in '.join(sorted(splits))}")
    for key, count in table["key"].value_counts().items():
        if count > 1:
            leaks.append(f"the slice {key} stands {count} times")
    seen = table[table["sha256"] != ""].groupby("sha256")
    for _, group in seen.filter(lambda g: g["split"].nunique() > 1).groupby("sha256"):
        where = [f"{row.key} in {row.split}" for row in group.itertuples()]
        leaks.append(f"the same pixels are {' and '.join(where)}")
    return leaks


def nearest_across_splits(slices: Slices) -> pd.DataFrame:
    """For each two people in different splits, the two of their slices that are most alike.

    Returns:
      A row a pair of people, closest first: `key` and `split` of one slice, `other` and
      `other_split` of the other, and `distance`, the root mean square over the cells of a 16x16
      grid of the difference of both slices, in units of their range.
    """
    keys = slices.table["key"].to_numpy()
    people = [
        (str(group["split"].iloc[0]), str(subject), group.index.to_numpy())
        for (_, subject), group in slices.table.groupby(["split", "subject"])
    ]
    rows = []
    for number, (split, subject, mine) in enumerate(people):
        for other_split, other, theirs in people[number + 1 :]:
            if split != other_split and subject != other:
                apart = cdist(slices.small[mine], slices.small[theirs]) / SIDE
                a, b = np.unravel_index(apart.argmin(), apart.shape)
                rows.append((keys[mine[a]], split, keys[theirs[b]], other_split, apart[a, b]))
    columns = ["key", "split", "other", "other_split", "distance"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        "distance", kind="stable", ignore_index=True
    )
