"""The quality report: one HTML page about the volumes of a dataset."""

import collections
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import jinja2

from beam_preprocess import looks
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.roster import is_original, read_roster
from ixi_tfds.config import in_words
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.documents.shard_record import Refusal, ShardRecord
from ixi_tfds.splits import SPLITS

_TEMPLATE = pathlib.Path(__file__).with_name("quality.html")
_BALANCED = ("sex", "ethnicity", "site")
_UP = {
    "axial": "nose up, the right side to the right",
    "coronal": "superior up, the right side to the right",
}
_ORIGINAL = {True: "original", False: "not the original", None: "no checksum known"}


def render(
    manifest: Manifest,
    records: Sequence[ShardRecord],
    refused: Sequence[Refusal],
    warnings: Sequence[str],
    cohort: Cohort,
    told_apart: Sequence[str] = (),
) -> str:
    """The report as one self-contained HTML page.

    `records` are those of all shards, `refused` the files that are not in the dataset, `warnings`
    those about demographics, voxels and looks, `told_apart` how people were told apart.
    """
    roster = read_roster(cohort.roster)
    volumes = []
    for record in records:
        for volume in record.volumes:
            original = _ORIGINAL[is_original(roster, volume.subject, volume.git_blob_sha1)]
            facts = {"split": record.split, "original": original, "mm": in_words(volume.zooms)}
            volumes.append(vars(volume) | facts)
    volumes.sort(key=lambda volume: (SPLITS.index(volume["split"]), volume["subject"]))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        cohort=cohort,
        config=manifest.config,
        manifest=manifest,
        splits=list(manifest.splits or {}),
        balance={field.title(): _balance(volumes, field) for field in _BALANCED},
        ages=_ages(volumes),
        originals=collections.Counter(volume["original"] for volume in volumes),
        sites=_sites(volumes),
        volumes=volumes,
        spacing=manifest.config.spacing and in_words(manifest.config.spacing),
        part="brain" if manifest.config.scaling == "tissue" else "head",
        up=_UP.get(manifest.config.plane or "", "superior up, nose to the left"),
        cropped=sorted(
            (volume for volume in volumes if volume["cropped"]), key=lambda v: -v["cropped"]
        ),
        backgrounds=_backgrounds(volumes),
        unlike=looks.unlike_others(records),
        refused=refused,
        warnings=warnings,
        told_apart=told_apart,
    )


def strata(records: Sequence[ShardRecord]) -> dict[str, dict[str, int]]:
    """Number of volumes in each split by stratum, which is `sex/ethnicity`."""
    counts: dict[str, collections.Counter[str]] = {}
    for record in records:
        for volume in record.volumes:
            stratum = f"{volume.sex}/{volume.ethnicity}"
            counts.setdefault(record.split, collections.Counter())[stratum] += 1
    return {split: dict(sorted(counter.items())) for split, counter in counts.items()}


def _balance(volumes: Sequence[dict[str, Any]], field: str) -> list[tuple[str, dict[str, Any]]]:
    """For each value of a field: its count and its share of the volumes in each split."""
    sizes = collections.Counter(volume["split"] for volume in volumes)
    counts = collections.Counter((volume[field], volume["split"]) for volume in volumes)
    values = sorted({value for value, _ in counts})
    return [
        (
            value or "unknown",
            {split: (counts[value, split], counts[value, split] / sizes[split]) for split in sizes},
        )
        for value in values
    ]


def _backgrounds(volumes: Sequence[dict[str, Any]]) -> str:
    """The range of the backgrounds, such as `0` or `-1000 to 3.5`."""
    known = [volume["background"] for volume in volumes if volume["background"] is not None]
    ends = dict.fromkeys(f"{end:g}" for end in (min(known), max(known))) if known else ["unknown"]
    return " to ".join(ends)


def _ages(volumes: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Median and range of the known ages in each split."""
    lines = {}
    for split in dict.fromkeys(volume["split"] for volume in volumes):
        ages = [v["age"] for v in volumes if v["split"] == split and v["age"] is not None]
        lines[split] = (
            f"{statistics.median(ages):.0f} ({min(ages):.0f} to {max(ages):.0f}), {len(ages)} known"
            if ages
            else "none known"
        )
    return lines


def _sites(volumes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of lowest, mean and highest value by site, in scanner units."""
    rows = []
    for site in sorted({volume["site"] for volume in volumes}):
        mine = [volume for volume in volumes if volume["site"] == site]
        medians = {
            field: statistics.median(volume[field] for volume in mine)
            for field in ("lowest", "mean", "highest")
        }
        shapes = collections.Counter("x".join(map(str, v["shape"])) for v in mine)
        rows.append({"site": site or "unknown", "volumes": len(mine), "shapes": shapes} | medians)
    return rows
