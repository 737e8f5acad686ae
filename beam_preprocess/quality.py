"""The quality report: one HTML page to look over a whole cohort."""

import collections
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import jinja2

from ixi_tfds.cohorts.roster import is_original, read_roster
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.documents.shard_record import Refusal, ShardRecord
from ixi_tfds.splits import SPLITS

_TEMPLATE = pathlib.Path(__file__).with_name("quality.html")
_ORIGINAL = {True: "original", False: "not the original", None: "no checksum known"}


def render(
    manifest: Manifest,
    records: Sequence[ShardRecord],
    refused: Sequence[Refusal],
    warnings: Sequence[str],
    roster: pathlib.Path | None,
) -> str:
    """The report as one self-contained HTML page.

    Args:
      manifest: of the dataset.
      records: of all shards, with the description and thumbnail of each volume.
      refused: files that are not in the dataset.
      warnings: of the workbook.
      roster: of the cohort, as `read_roster` takes it.
    """
    entries = read_roster(roster)
    volumes = sorted(
        (
            vars(volume)
            | {
                "split": record.split,
                "original": _ORIGINAL[is_original(entries, volume.subject, volume.git_blob_sha1)],
            }
            for record in records
            for volume in record.volumes
        ),
        key=lambda volume: (SPLITS.index(volume["split"]), volume["subject"]),
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        config=manifest.config,
        manifest=manifest,
        splits=list(manifest.splits or {}),
        balance={title: _balance(volumes, field) for title, field in _BALANCES.items()},
        ages=_ages(volumes),
        originals=collections.Counter(volume["original"] for volume in volumes),
        sites=_sites(volumes),
        volumes=volumes,
        refused=refused,
        warnings=warnings,
    )


_BALANCES = {"Sex": "sex", "Ethnicity": "ethnicity", "Site": "site"}


def strata(records: Sequence[ShardRecord]) -> dict[str, dict[str, int]]:
    """Volumes of each split by stratum, `sex/ethnicity`."""
    counts: dict[str, collections.Counter[str]] = {}
    for record in records:
        for volume in record.volumes:
            stratum = f"{volume.sex}/{volume.ethnicity}"
            counts.setdefault(record.split, collections.Counter())[stratum] += 1
    return {split: dict(sorted(counter.items())) for split, counter in counts.items()}


def _balance(volumes: Sequence[dict[str, Any]], field: str) -> list[tuple[str, dict[str, Any]]]:
    """For each value of a field: count and share of it in each split."""
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
    """Medians of the intensity statistics by site, in scanner units."""
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
