"""Turning a folder of shards into a dataset, completely or not at all."""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

import tensorflow_datasets as tfds

from beam_preprocess import choice, looks, quality, spacing
from beam_preprocess.plan import JobConfig, Plan
from beam_preprocess.shards import shard_name
from ixi_tfds.builder import builder_for
from ixi_tfds.cohorts import walking
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.config import VERSION, SliceConfig
from ixi_tfds.datasets import MARKER
from ixi_tfds.documents import codec, manifest
from ixi_tfds.documents.manifest import Counts, Manifest, Source
from ixi_tfds.documents.shard_record import Refusal, ShardRecord, lost_people
from ixi_tfds.images.look import typical
from ixi_tfds.splits import SPLITS
from ixi_tfds.system import folders
from ixi_tfds.system.files import PARTIAL


def publish(
    config: JobConfig, plan: Plan, records: Sequence[ShardRecord], fingerprint: str
) -> Manifest:
    """Write metadata, manifest and reports beside the shards, then rename the folder.

    An existing dataset is replaced. The work folder of `plan` holds all shards; `records` are
    theirs. `fingerprint` is that of the settings and input files. Returns the manifest.
    """
    cohort, work_dir = config.cohort, plan.work_dir
    source_dir = config.source.source_dir
    skipped = _skipped(plan, records, source_dir)
    records = _number_shards(cohort.name, work_dir, records)
    refused = not_taken(plan, records, source_dir)
    made = dataclasses.replace(
        _manifest(config, plan, records, fingerprint), skipped=_by_reason(skipped)
    )
    sizes = [(record.split, record.slices, record.bytes) for record in records if record.slices]
    write_tfds_metadata(cohort, config.slices, work_dir, sizes)
    write_lines(work_dir / "rejected.jsonl", refused)
    notes = (*spacing.warnings_of(config.slices, records), *looks.warnings_of(records))
    warnings = (*notes, *plan.warnings)
    for name, page in quality.render(made, records, refused, warnings, cohort, plan.told_apart):
        (work_dir / name).write_text(page, encoding="utf-8")
    made = manifest.write(work_dir, made)
    # Records of shards, shards that an interrupted publishing had numbered differently, and files
    # that the workers of a killed job wrote after it.
    for path in [*work_dir.glob("*.tfrecord-*"), *work_dir.glob(f"{PARTIAL}*")]:
        if path.name not in made.shards:
            # A partial file may be in both lists, or its worker may have removed it.
            path.unlink(missing_ok=True)
    (work_dir / "plan.json").unlink()
    folders.put_in_place(work_dir, config.dataset_dir, MARKER)
    return made


def not_taken(plan: Plan, records: Sequence[ShardRecord], source_dir: str) -> list[Refusal]:
    """The lines of `rejected.jsonl`: what is refused, skipped and passed over, in this order."""
    passed_over = [
        Refusal(os.path.relpath(one.folder, source_dir), "passed_over", one.detail)
        for one in plan.passed_over
    ]
    rejected = [entry for record in records for entry in record.rejected]
    return [*rejected, *_skipped(plan, records, source_dir), *passed_over]


def _skipped(plan: Plan, records: Sequence[ShardRecord], source_dir: str) -> list[Refusal]:
    taken = {volume.subject: volume.path for record in records for volume in record.volumes}
    return [*plan.skipped, *choice.left(plan.scans, taken, source_dir)]


def _manifest(
    config: JobConfig, plan: Plan, records: Sequence[ShardRecord], fingerprint: str
) -> Manifest:
    filled = [record for record in records if record.slices]
    volumes = [(record, volume) for record in filled for volume in record.volumes]
    rejected = [entry for record in records for entry in record.rejected]
    lost = len(lost_people(rejected))
    return Manifest(
        version=VERSION,
        config=config.slices,
        fingerprint=fingerprint,
        shards={record.shard: record.sha256 for record in filled},
        geometry=manifest.median_geometry(
            ((volume.shape, volume.zooms) for _, volume in volumes),
            [volume.off_middle for _, volume in volumes if volume.off_middle is not None],
        ),
        voxels=manifest.voxel_range(volume.zooms for _, volume in volumes),
        look=typical([volume.look for _, volume in volumes if volume.look]),
        volumes_per_shard=config.source.volumes_per_shard,
        splitting=None if config.source.splits == "roster" else config.source.splits,
        splits=_split_counts(filled),
        strata=quality.strata(filled),
        rejected=_by_reason(rejected),
        passed_over=walking.by_kind(plan.passed_over) or None,
        people_lost=lost if lost < len(rejected) else None,
        bytes=sum(record.bytes for record in filled),
        bids_filter=plan.settings.get("bids_filter"),
        volumes={
            volume.subject: Source(
                record.split, record.shard, volume.path, volume.git_blob_sha1, volume.assumed_axes
            )
            for record, volume in volumes
        },
    )


def _by_reason(refused: Iterable[Refusal]) -> dict[str, int]:
    return dict(sorted(collections.Counter(entry.reason for entry in refused).items()))


def write_lines(path: pathlib.Path, entries: Iterable[Refusal]) -> None:
    """Write refused files as one JSON object a line, ordered by path."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    lines = [json.dumps(codec.to_plain(entry), sort_keys=True) + "\n" for entry in ordered]
    path.write_text("".join(lines))


def _number_shards(
    dataset: str, work_dir: pathlib.Path, records: Sequence[ShardRecord]
) -> list[ShardRecord]:
    """Remove shards without slices, which TFDS cannot read, and number the others again."""
    numbered = []
    for split in SPLITS:
        mine = [record for record in records if record.split == split]
        filled = [record for record in mine if record.slices]
        for record in mine:
            if record.slices:
                name = shard_name(dataset, split, filled.index(record), len(filled))
                (work_dir / record.shard).rename(work_dir / name)
                numbered.append(dataclasses.replace(record, shard=name))
            else:
                (work_dir / record.shard).unlink()
                numbered.append(record)
    return numbered


def _split_counts(records: Sequence[ShardRecord]) -> dict[str, Counts]:
    counts = {}
    for split in SPLITS:
        mine = [record for record in records if record.split == split]
        if mine:
            volumes = sum(len(record.volumes) for record in mine)
            counts[split] = Counts(volumes, sum(record.slices for record in mine))
    return counts


def write_tfds_metadata(
    cohort: Cohort,
    config: SliceConfig,
    work_dir: pathlib.Path,
    shards: Sequence[tuple[str, int, int]],
) -> None:
    """Write what `tfds.builder_from_directory` reads: features and the shards of each split.

    `shards` has the split, number of slices and bytes of each shard, ordered by number.
    """
    # With the root of the datasets, the builder would read an existing, perhaps damaged dataset.
    info = builder_for(config, str(work_dir), cohort).info
    template = tfds.core.ShardedFileTemplate(
        data_dir=work_dir, dataset_name=cohort.name, filetype_suffix="tfrecord"
    )
    by_split = {s: [(slices, size) for its, slices, size in shards if its == s] for s in SPLITS}
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[slices for slices, _ in mine],
            num_bytes=sum(size for _, size in mine),
            filename_template=template.replace(split=split),
        )
        for split, mine in by_split.items()
        if mine
    ]
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(work_dir)
