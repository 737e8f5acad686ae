"""From a scan to its slice examples, for the builder and the Beam job."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import google_crc32c
import numpy as np

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import SliceConfig
from ixi_tfds.features import slice_key
from ixi_tfds.images.scaling import percentile_range, stored_slice
from ixi_tfds.nifti import Volume, check_volume, read_volume

MAX_REJECTED_FRACTION = 0.05
"""Default share of refused volumes above which no dataset is made."""


def slices_of(
    scan: Scan, config: SliceConfig, volume: Volume | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, example) for each slice of the window, in the order of the slices.

    The same file and config always give the same examples. An example has the fields of
    `ixi_tfds.features.slice_features`.

    Args:
      scan: the scan; its file is read.
      config: geometry and scaling.
      volume: the scan's volume, if the caller has read it already.

    Raises:
      ScanError: the volume is refused, before any slice is yielded.
    """
    if volume is None:
        volume = read_volume(scan.path)
    check_volume(volume, scan.path, config)
    limits = percentile_range(volume, config) if config.scaling == "volume" else None
    for index in range(*config.window):
        image, low, high = stored_slice(volume, index, config, limits)
        yield (
            slice_key(scan.subject, index),
            {
                "image": image[..., None],
                "subject": scan.subject,
                "site": scan.site,
                "slice_index": index,
                "sex": scan.sex,
                "ethnicity": scan.ethnicity,
                "age": scan.age,
                "low": low,
                "high": high,
            },
        )


def pixels_digest(images: Iterable[np.ndarray]) -> str:
    """Digest, in hex, of the stored slices of a volume, uint8 [height, width, 1] each.

    Volumes with the same voxels have the same, whatever their containers and units.
    """
    # A checksum a slice takes a twentieth of the time of SHA-1 over all pixels; sixty of them are
    # the same by chance as rarely.
    checksums = [google_crc32c.value(image.tobytes()) for image in images]
    return hashlib.sha1(repr(checksums).encode(), usedforsecurity=False).hexdigest()
