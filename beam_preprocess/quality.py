"""The quality report: HTML pages about the volumes of a dataset."""

import collections
import itertools
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2

from beam_preprocess import looks
from beam_preprocess.outstanding import outstanding
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.roster import is_original, read_roster
from ixi_tfds.config import in_words
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.documents.shard_record import Refusal, ShardRecord
from ixi_tfds.splits import SPLITS

MOST_PICTURES = 600
"""So many pictures are on a page at most. The 581 volumes of IXI are on one."""

_TEMPLATES = pathlib.Path(__file__).parent
_MOST_SHOWN = 12  # of those that stand out in one way
_BALANCED = ("sex", "ethnicity", "site")
_UP = {
    "axial": "nose up, the right side to the right",
    "coronal": "superior up, the right side to the right",
}
_ORIGINAL = {True: "original", False: "not the original", None: "without a published checksum"}


def render(
    manifest: Manifest,
    records: Sequence[ShardRecord],
    refused: Sequence[Refusal],
    warnings: Sequence[str],
    cohort: Cohort,
    told_apart: Sequence[str] = (),
) -> Iterator[tuple[str, str]]:
    """The report: names and HTML of its pages, which need no other file to be shown.

    With up to `MOST_PICTURES` volumes the report is one page, `quality.html`. With more, that page
    has the volumes to look at first and a table of all, and the pictures are on further pages:
    `quality-001.html` and so on.

    `records` are those of all shards, `refused` the files that are not in the dataset, `warnings`
    those about demographics, voxels and looks, `told_apart` how people were told apart.
    """
    volumes = _volumes(records, cohort)
    pages = _place(volumes)
    config, part = manifest.config, "brain" if manifest.config.scaling == "tissue" else "head"
    up = _UP.get(config.plane or "", "superior up, nose to the left")
    shared = {"pages": pages, "cohort": cohort, "manifest": manifest, "part": part, "up": up}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    told = {"refused": refused, "warnings": warnings, "told_apart": told_apart}
    numbers = _numbers(manifest, records, volumes)
    yield "quality.html", templates.get_template("quality.html").render(shared | told | numbers)
    pictures = templates.get_template("quality_pictures.html")
    for page in pages:
        groups = _by_split([volume for volume in volumes if volume["page"] == page])
        yield page, pictures.render(shared | {"page": page, "groups": groups})


def _volumes(records: Sequence[ShardRecord], cohort: Cohort) -> list[dict[str, Any]]:
    """What a page says of each volume, ordered by split and subject."""
    roster = read_roster(cohort.roster)
    volumes = []
    for record in records:
        for volume in record.volumes:
            original = _ORIGINAL[is_original(roster, volume.subject, volume.git_blob_sha1)]
            facts = {"split": record.split, "original": original, "mm": in_words(volume.zooms)}
            volumes.append(vars(volume) | facts | {"note": ""})
    volumes.sort(key=lambda volume: (SPLITS.index(volume["split"]), volume["subject"]))
    return volumes


def _place(volumes: Sequence[dict[str, Any]]) -> list[str]:
    """The pages of pictures, none if all fit on the first; gives each volume its place on them."""
    large = len(volumes) > MOST_PICTURES
    for number, volume in enumerate(volumes):
        volume["page"] = f"quality-{number // MOST_PICTURES + 1:03d}.html" if large else ""
        volume["id"] = f"n{number + 1}"
    return list(dict.fromkeys(volume["page"] for volume in volumes if large))


def _by_split(volumes: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    splits = dict.fromkeys(volume["split"] for volume in volumes)
    return [(split, [v for v in volumes if v["split"] == split]) for split in splits]


def _numbers(
    manifest: Manifest, records: Sequence[ShardRecord], volumes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the first page says of the volumes."""
    config = manifest.config
    return {
        "config": config,
        "splits": list(manifest.splits or {}),
        "balance": {field.title(): _balance(volumes, field) for field in _BALANCED},
        "ages": _ages(volumes),
        "originals": collections.Counter(volume["original"] for volume in volumes),
        "sites": _sites(volumes),
        "volumes": volumes,
        "groups": _by_split(volumes),
        "first": _first(records, volumes),
        "spacing": config.spacing and in_words(config.spacing),
        "cropped": sorted(
            (volume for volume in volumes if volume["cropped"]), key=lambda v: -v["cropped"]
        ),
        "backgrounds": _backgrounds(volumes),
        "unlike": looks.unlike_others(records),
    }


def _first(
    records: Sequence[ShardRecord], volumes: Sequence[dict[str, Any]]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The volumes to look at first, by how they stand out; gives each volume its `ways`."""
    found = outstanding(records)
    by_path = {volume["path"]: volume for volume in volumes}
    for path, volume in by_path.items():
        volume["ways"] = ", ".join(way for way, paths in found.items() if path in paths)
    groups = []
    for way, paths in found.items():
        heading = f"{way.capitalize()}: {len(paths):,} of {len(volumes):,} volumes"
        if len(paths) > _MOST_SHOWN:
            heading += f", the first {_MOST_SHOWN}"
        shown = itertools.islice(paths.items(), _MOST_SHOWN)
        groups.append((heading, [by_path[path] | {"note": note} for path, note in shown]))
    return groups


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
