"""Turning a folder of shards into a dataset, all or nothing."""

import collections
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from beam_preprocess import quality
from beam_preprocess.shards import shard_name
from ixi_tfds import folders
from ixi_tfds.builder import builder_for
from ixi_tfds.configs import VERSION, SliceConfig
from ixi_tfds.datasets import MARKER, median_geometry, save_manifest
from ixi_tfds.splits import SPLITS


def publish(
    config: SliceConfig,
    *,
    work_dir: pathlib.Path,
    dataset_dir: pathlib.Path,
    records: Sequence[Mapping[str, Any]],
    skipped: Sequence[Mapping[str, Any]],
    warnings: Sequence[str],
    settings: Mapping[str, Any],
    fingerprint: str,
) -> dict[str, Any]:
    """Write metadata, manifest and reports beside the shards, then rename the folder.

    Args:
      config: geometry and scaling.
      work_dir: folder with the whole shards and their records.
      dataset_dir: where the dataset shall stand; what stands there is replaced.
      records: of all shards, as `shards.write_shard` leaves them.
      skipped: files refused by name.
      warnings: of the workbook.
      settings: all but the input files that decides the bytes.
      fingerprint: of settings and input files.

    Returns:
      The manifest.
    """
    records = _number_shards(work_dir, records)
    rejected = [entry for record in records for entry in record["rejected"]]
    volumes = {
        volume["subject"]: {"split": record["split"], "shard": record["shard"]}
        | {key: volume[key] for key in ("path", "git_blob_sha1")}
        for record in records
        for volume in record["volumes"]
    }
    filled = [record for record in records if record["slices"]]
    manifest = {
        "version": VERSION,
        "config": settings["config"],
        "volumes_per_shard": settings["volumes_per_shard"],
        "fingerprint": fingerprint,
        "splits": _split_counts(filled),
        "strata": quality.strata(filled),
        "rejected": dict(sorted(collections.Counter(r["reason"] for r in rejected).items())),
        "skipped": dict(sorted(collections.Counter(s["reason"] for s in skipped).items())),
        "geometry": median_geometry(
            (volume["shape"], volume["zooms"]) for record in records for volume in record["volumes"]
        ),
        "bytes": sum(record["bytes"] for record in filled),
        "shards": {record["shard"]: record["sha256"] for record in filled},
        "volumes": dict(sorted(volumes.items())),
    }
    write_tfds_metadata(config, work_dir, filled)
    write_lines(work_dir / "rejected.jsonl", [*rejected, *skipped])
    (work_dir / "quality.html").write_text(
        quality.render(config, manifest, records, rejected, skipped, warnings), encoding="utf-8"
    )
    save_manifest(work_dir, manifest)
    # Records of progress, shards that an earlier, interrupted publishing numbered otherwise, and
    # what workers of a job that was killed wrote for a moment longer.
    for path in [*work_dir.glob("*.tfrecord-*"), *work_dir.glob("*.tmp")]:
        if path.name not in manifest["shards"]:
            # A temporary file is in both lists, or its worker may have removed it.
            path.unlink(missing_ok=True)
    (work_dir / "plan.json").unlink()
    folders.put_in_place(work_dir, dataset_dir, MARKER)
    return manifest


def write_lines(path: pathlib.Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, ordered by path."""
    ordered = sorted(entries, key=lambda entry: entry["path"])
    path.write_text("".join(json.dumps(entry, sort_keys=True) + "\n" for entry in ordered))


def _number_shards(
    work_dir: pathlib.Path, records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Take shards without any slice out of the count, for TFDS cannot read them."""
    numbered = []
    for split in SPLITS:
        mine = [record for record in records if record["split"] == split]
        filled = [record for record in mine if record["slices"]]
        for record in mine:
            if record["slices"]:
                name = shard_name(split, filled.index(record), len(filled))
                (work_dir / record["shard"]).rename(work_dir / name)
                numbered.append(dict(record) | {"shard": name})
            else:
                (work_dir / record["shard"]).unlink()
                numbered.append(dict(record))
    return numbered


def _split_counts(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    return {
        split: {
            "volumes": sum(len(r["volumes"]) for r in records if r["split"] == split),
            "slices": sum(r["slices"] for r in records if r["split"] == split),
        }
        for split in SPLITS
        if any(r["split"] == split for r in records)
    }


def write_tfds_metadata(
    config: SliceConfig,
    work_dir: pathlib.Path,
    records: Sequence[Mapping[str, Any]],
) -> None:
    """Write what `tfds.builder_from_directory` reads: features and the shards of each split."""
    # With the root of the datasets it would read what stands there, be it damaged.
    info = builder_for(config, str(work_dir)).info
    template = tfds.core.ShardedFileTemplate(
        data_dir=work_dir, dataset_name="ixi_t1", filetype_suffix="tfrecord"
    )
    infos = []
    for split in SPLITS:
        mine = [record for record in records if record["split"] == split]
        if mine:
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[record["slices"] for record in mine],
                    num_bytes=sum(record["bytes"] for record in mine),
                    filename_template=template.replace(split=split),
                )
            )
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(work_dir)
