"""The volumes of a dataset that a person should look at first."""

from collections.abc import Mapping, Sequence

import numpy as np

from beam_preprocess import looks, spacing
from ixi_tfds.documents.shard_record import ShardRecord, VolumeRecord

FAR_OUT = 3.0
"""A mean stands out if it is this many interquartile ranges beyond the quartiles of its site.

This is Tukey's rule for values that are far out.
"""


def outstanding(records: Sequence[ShardRecord]) -> dict[str, dict[str, str]]:
    """For each way to stand out, how each such volume does, by path, the worst first.

    Ways in which no volume stands out are left out.
    """
    volumes = [volume for record in records for volume in record.volumes]
    unlike = looks.unlike_others(records)
    off = spacing.off_the_others(volumes)
    found = {
        "unlike the others": {path: "; ".join(said) for path, said in unlike.items()},
        "extreme mean": _extreme_means(volumes),
        "tilted": _worst(
            {v.path: v.tilt for v in volumes if v.tilt and v.tilt > spacing.MOST_TILT},
            "tilted by {:.0f} degrees",
        ),
        "off the middle": _worst(
            {path: mm for path, mm in off.items() if mm > spacing.MOST_OFF_MIDDLE},
            "slices {:.0f} mm off those of the others",
        ),
        "cropped": _worst({v.path: v.cropped for v in volumes if v.cropped}, "{:.1%} cropped"),
        "axes assumed": {
            v.path: f"axes assumed: {v.assumed_axes}" for v in volumes if v.assumed_axes
        },
    }
    return {way: by_path for way, by_path in found.items() if by_path}


def _worst(sizes: Mapping[str, float], words: str) -> dict[str, str]:
    ordered = sorted(sizes, key=lambda path: (-sizes[path], path))
    return {path: words.format(sizes[path]) for path in ordered}


def _extreme_means(volumes: Sequence[VolumeRecord]) -> dict[str, str]:
    beyond, said = {}, {}
    for site in sorted({volume.site for volume in volumes}):
        mine = [volume for volume in volumes if volume.site == site]
        low, high = np.percentile([volume.mean for volume in mine], (25, 75)).tolist()
        for volume in mine:
            distance = max(low - volume.mean, volume.mean - high)
            if distance > FAR_OUT * (high - low):
                beyond[volume.path] = distance / (high - low or 1.0)
                half = f"{low:.0f} to {high:.0f}"
                said[volume.path] = f"mean {volume.mean:.0f}; half of its site have {half}"
    return {path: said[path] for path in _worst(beyond, "")}
