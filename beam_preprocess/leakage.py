"""Whether anything of one split of a dataset is in another: people, slices, heads."""

import collections
import dataclasses
import hashlib
import pathlib

import numpy as np
import pandas as pd
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from beam_preprocess import alike
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.features import slice_key
from ixi_tfds.integrity import records, split_of


@dataclasses.dataclass(frozen=True)
class Slices:
    """All slices of a dataset, small.

    Attributes:
      table: a row a slice, with `split`, `subject`, `key`, and `sha256` of its pixels, "" where
        they are all the same.
      heads: by (split, subject) what is compared of each.
      grid: the cells.
    """

    table: pd.DataFrame
    heads: dict[tuple[str, str], alike.Head]
    grid: alike.Grid


def read_slices(folder: pathlib.Path, manifest: Manifest) -> Slices:
    """Read every slice of a dataset.

    Raises:
      DatasetError: a shard is damaged.
    """
    size, window = manifest.config.size, manifest.config.window
    zooms = manifest.config.spacing or (manifest.geometry.zooms if manifest.geometry else None)
    grid = alike.grid_of((*size, window[1] - window[0]), zooms)
    rows = []
    heads: dict[tuple[str, str], alike.Head] = {}
    cells: dict[tuple[str, str], np.ndarray] = {}
    seen = collections.defaultdict[tuple[str, str], set[int]](set)
    with tqdm(desc="read slices", unit="slice", disable=None, leave=False) as bar:
        for shard in sorted(manifest.shards):
            for record in records(folder / shard):
                fields = tf_example_pb2.Example.FromString(record).features.feature
                subject = fields["subject"].bytes_list.value[0].decode()
                index = fields["slice_index"].int64_list.value[0]
                limits = tuple(fields[name].float_list.value[0] for name in ("low", "high"))
                pixels = np.frombuffer(fields["image"].bytes_list.value[0], np.uint8)
                constant = pixels.min() == pixels.max()
                sha256 = "" if constant else hashlib.sha256(pixels.tobytes()).hexdigest()
                copy = fields["copy"].int64_list.value[0] if "copy" in fields else 0
                rows.append((split_of(shard), subject, slice_key(subject, index, copy), sha256))
                bar.update()
                if copy:
                    continue
                who = rows[-1][:2]
                if index in seen[who]:
                    continue
                seen[who].add(index)
                head = cells.setdefault(who, np.zeros(grid.shape, np.float32))
                alike.add_slice(head, index - window[0], pixels.reshape(size), limits, grid)
                # TFDS's own writer spreads the slices of a person over shards; Beam's does not.
                if len(seen[who]) == manifest.config.slices_per_volume:
                    heads[who] = alike.prepare(cells.pop(who))
    while cells:
        who, head = cells.popitem()
        heads[who] = alike.prepare(head)
    return Slices(pd.DataFrame(rows, columns=["split", "subject", "key", "sha256"]), heads, grid)


def find_leaks(slices: Slices) -> list[str]:
    """People and slices that are where they must not be, a sentence each; empty where all is well.

    A slice counts as the same by its name, or by its pixels unless these are all the same. People
    with the same pixels are named once, however many slices they share.
    """
    table, leaks = slices.table, []
    for subject, splits in table.groupby("subject")["split"].unique().items():
        if len(splits) > 1:
            leaks.append(f"{subject} is in {' and in '.join(sorted(splits))}")
    for key, count in table["key"].value_counts().items():
        if count > 1:
            leaks.append(f"the slice {key} stands {count} times")
    for people, keys in sorted(_same_pixels(table).items()):
        where = [f"{key} in {split}" for key, (_, split) in zip(min(keys), people, strict=True)]
        more = f", and so are {len(keys) - 1} more of their slices" if len(keys) > 1 else ""
        leaks.append(f"the same pixels are {' and '.join(where)}{more}")
    return leaks


def _same_pixels(table: pd.DataFrame) -> dict[tuple[tuple[str, str], ...], list[tuple[str, ...]]]:
    """Keys of slices of several splits with the same pixels, by their (subject, split)."""
    shared = collections.defaultdict(list)
    seen = table[table["sha256"] != ""].groupby("sha256")
    for _, group in seen.filter(lambda g: g["split"].nunique() > 1).groupby("sha256"):
        people = tuple(zip(group["subject"], group["split"], strict=True))
        shared[people].append(tuple(group["key"]))
    return dict(shared)


def alike_across_splits(slices: Slices) -> pd.DataFrame:
    """The people of different splits whose heads are most alike.

    People with slices of the same pixels are left to `find_leaks`.

    Returns:
      A row a pair, the most alike first: `subject` and `split` of one, `other` and `other_split` of
      the other, and `likeness`, from -1 to 1, as `alike.find_alike` gives it.
    """
    people = sorted(slices.heads)
    told = [{subject for subject, _ in same} for same in _same_pixels(slices.table)]
    pairs = alike.find_alike(
        [slices.heads[each] for each in people], [split for split, _ in people], slices.grid
    )
    rows = [
        (people[one][1], people[one][0], people[other][1], people[other][0], likeness)
        for likeness, one, other in pairs
        if not any({people[one][1], people[other][1]} <= same for same in told)
        and people[one][1] != people[other][1]
    ]
    return pd.DataFrame(rows, columns=["subject", "split", "other", "other_split", "likeness"])
