"""Scans for an ensemble: their brains on its grid, and maps back on the grid of the file."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from evaluator import viewer
from evaluator.brains.ensemble import Ensemble, marking_task
from evaluator.options import ScanChecks
from ixi_tfds.images.brain import Brain, brain_mask, brain_of
from ixi_tfds.images.resampling import places_of, reached, resample, weights
from ixi_tfds.images.tissue import match_tissues, tissue_means
from ixi_tfds.nifti import Volume, check_finite, read_volume
from ixi_tfds.slices import check_voxel_size
from ixi_tfds.system.errors import ScanError

FEW = 20
"""Fewer healthy brains than this make a poor threshold."""

MOST_OUTSIDE = 0.02
"""A warning is given if a larger share of the brain lies outside the models' box."""

MOST_APART = 0.08
"""A warning is given if grey or white matter lies farther from that of the training brains.

Measured at 2 mm: at most 0.04 in 14 T1 scans, four of them with tumours, in which what counts as
fluid lies up to 0.14 off; at least 0.11 in heads made to look like T2, FLAIR and proton density.
"""

MEANING = (
    "how unlike a healthy brain a voxel is to the models, from -1 to 1: above zero where the scan "
    "is brighter than they expect, below zero where it is darker"
)


@dataclasses.dataclass(frozen=True)
class BrainScan:
    """A scan and its brain.

    Attributes:
      path: of the scan.
      mask: path of the mask of its brain; None if the scan is skull-stripped.
      volume: the scan.
      inside: the brain on the scan's grid, bool [p, s, r].
      brain: the brain on the grid of the models, with the tissues of training.
      tissues: means of its fluid, grey and white matter before they were brought to those.
      warnings: why its maps may not be trusted.
    """

    path: str
    mask: str | None
    volume: Volume
    inside: np.ndarray
    brain: Brain
    tissues: tuple[float, float, float]
    warnings: list[str]


def open_scan(path: str, mask: str | None, joined: Ensemble, checks: ScanChecks) -> BrainScan:
    """Read a scan and bring its brain to the grid and the tissues of an ensemble.

    `mask` is the file with its brain; None if the scan is skull-stripped.

    Raises:
      ScanError: the scan or its mask cannot be used, or is unlike those of training and the check
        is strict.
    """
    allowed = checks.allow_unknown_orientation
    volume = read_volume(path, allow_unknown_orientation=allowed)
    check_finite(volume, path)
    check_voxel_size(volume, path, joined.slices.spacing or volume.zooms)
    read = None if mask is None else read_volume(mask, allow_unknown_orientation=allowed)
    inside = brain_mask(volume, path, read)
    brain = brain_of(volume, path, inside, joined.slices)
    means = tissue_means(brain.values[brain.mask])
    warnings = _warnings(brain, means, joined)
    if warnings and checks.strict:
        raise ScanError("unlike_training", path, f"{'; '.join(warnings)} (--strict)")
    matched = match_tissues(brain.values, brain.mask, joined.tissues)
    return BrainScan(
        path, mask, volume, inside, dataclasses.replace(brain, values=matched), means, warnings
    )


def _warnings(brain: Brain, means: Sequence[float], joined: Ensemble) -> list[str]:
    found = []
    if brain.outside > MOST_OUTSIDE:
        found.append(
            f"{brain.outside:.0%} of the brain lies outside the models' box and was not judged"
        )
    (_, grey, white), (_, usual_grey, usual_white) = means, joined.tissues
    if max(abs(grey - usual_grey), abs(white - usual_white)) > MOST_APART:
        found.append(
            f"grey and white matter lie at {grey:.2f} and {white:.2f}, those of the training "
            f"brains at {usual_grey:.2f} and {usual_white:.2f}: the scan may be no T1-weighted "
            "one, or its mask may hold more than brain"
        )
    return found


def ml(scan: BrainScan, marked: np.ndarray) -> float:
    """The volume of voxels of a scan's grid, bool [p, s, r]."""
    return float(marked.sum()) * math.prod(scan.volume.zooms) / 1000


def in_healthy(joined: Ensemble) -> str:
    """What lies above the threshold in healthy brains that no model learned from, in words."""
    healthy = joined.healthy
    few = (
        "; these are few, and others may have several times as much" if healthy.heads < FEW else ""
    )
    return (
        f"{healthy.ml:.1f} ml ({healthy.share:.2%}) on average in the {healthy.heads} healthy "
        f"brains that the threshold comes from{few}"
    )


def on_scan(scan: BrainScan, values: np.ndarray, unseen: float = 0.0) -> np.ndarray:
    """Values on the grid of the models, brought to the scan's; float32 [p, s, r].

    Voxels outside the box, and outside the brain, are `unseen`.
    """
    back = weights(places_of(scan.volume), scan.brain.places)
    brought = resample(values.astype(np.float32), back)
    return np.where(scan.inside & seen(scan), brought, np.float32(unseen))


def score_on_scan(scan: BrainScan, score: np.ndarray) -> np.ndarray:
    """A signed score brought to the scan's grid, as `on_scan`.

    Size and sign are brought apart: between a bright and a dark voxel a score is no smaller.
    """
    return np.copysign(on_scan(scan, np.abs(score)), on_scan(scan, score))


def seen(scan: BrainScan) -> np.ndarray:
    """Which voxels of the scan lie in the box of the models, bool [p, s, r]."""
    p, s, r = map(reached, weights(places_of(scan.volume), scan.brain.places))
    return np.asarray(p[:, None, None] & s[:, None] & r)


def on_grid(scan: BrainScan, marked: np.ndarray) -> np.ndarray:
    """A mask on the scan's grid, bool [p, s, r], brought to the grid of the models."""
    there = weights(scan.brain.places, places_of(scan.volume))
    return np.asarray(resample(marked.astype(np.float32), there) >= 0.5)


def write_view(
    folder: pathlib.Path,
    name: str,
    scan: BrainScan,
    score: np.ndarray,
    joined: Ensemble,
    *,
    lesion: np.ndarray | None = None,
) -> None:
    """Write a page and a picture of a scan and its scores, both on the scan's grid.

    `folder` exists; `lesion` is outlined.
    """
    marking = marking_task(each.task for each in joined.members)
    above = ml(scan, np.abs(score) > joined.threshold)
    facts = {
        "Scan": pathlib.PurePath(scan.path).name,
        "Models": ", ".join(
            f"{each.task} {each.plane} {each.digest[:8]}"
            for each in joined.members
            if each.task == marking
        ),
        "Threshold": f"{joined.threshold:.3f}",
        viewer.ABOVE: f"{above:.1f} ml",
        "Above it in healthy brains": in_healthy(joined),
        "Share of the brain in the models' box": f"{1 - scan.brain.outside:.1%}",
    }
    viewer.write_view(
        folder,
        name,
        scan.volume,
        np.where(scan.inside & seen(scan), score, np.nan),
        window=(0, scan.volume.voxels.shape[2]),
        meaning=MEANING,
        facts=facts,
        lesion=lesion,
        warnings=scan.warnings,
        levels=(joined.threshold, 1.0),
    )
