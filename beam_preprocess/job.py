"""A planned job: write the shards, publish the dataset."""

import collections
import contextlib
import dataclasses
import json
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from tqdm import tqdm

from beam_preprocess import choice, looks, publish
from beam_preprocess.plan import JobConfig, Plan, fingerprint, with_spacing
from beam_preprocess.runner import write_shards
from beam_preprocess.shards import ShardTask
from beam_preprocess.spacing import warnings_of
from ixi_tfds.config import in_words
from ixi_tfds.datasets import MARKER
from ixi_tfds.documents import manifest, shard_record
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.documents.shard_record import ShardRecord, VolumeRecord, lost_people
from ixi_tfds.nifti import digest_of
from ixi_tfds.slices import same_spacing
from ixi_tfds.system import folders, storage
from ixi_tfds.system.errors import DatasetError, UserError
from ixi_tfds.system.files import is_litter

_COPIES_NAMED = 10


@dataclasses.dataclass(frozen=True)
class Made:
    """A dataset, and the seconds that the job took; None if the dataset existed before.

    `warnings` are about the voxels, the tilt and the look of the volumes.
    """

    manifest: Manifest
    seconds: float | None
    warnings: tuple[str, ...] = ()


def run_job(config: JobConfig, plan: Plan, options: PipelineOptions) -> Made:
    """Write and publish the dataset of a plan.

    An unfinished job with the same settings is resumed. A finished dataset is left as it is.

    Raises:
      DatasetError: the dataset exists and was made from other inputs.
      UserError: a volume was refused and the job is strict, too many volumes were refused, two are
        copies of each other, another job writes the same dataset, or something cannot be read or
        written. Nothing is published.
    """
    with folders.writing(config.dataset_dir.parent, "data_dir"):
        folders.recover(config.dataset_dir)
        if folders.is_whole(config.dataset_dir, MARKER) and not config.overwrite:
            return Made(_check_unchanged(config, plan), None)
        plan = _with_spacing(config, plan)
        _check_spacing(config, plan)
        started = time.time()
        _open_work_dir(plan.work_dir, plan.settings)
        with _progress(plan.tasks, plan.work_dir):
            write_shards(plan.tasks, options)
        records = [shard_record.read(task.record_path) for task in plan.tasks]
        _check_rejects(config, plan, records)
        if not config.allow_same_bytes:
            _check_copies([volume for record in records for volume in record.volumes])
        digests = {path: digest for record in records for path, digest in record.inputs.items()}
        made = publish.publish(config, plan, records, fingerprint(plan.settings, digests))
        notes = (*warnings_of(config.slices, records), *looks.warnings_of(records))
        return Made(made, time.time() - started, notes)


def _open_work_dir(work_dir: pathlib.Path, settings: dict[str, Any]) -> None:
    """Keep the shards of an unfinished job with the same settings; remove everything else."""
    plan_file = work_dir / "plan.json"
    text = json.dumps(settings, sort_keys=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    if not plan_file.exists() or plan_file.read_text() != text:
        storage.remove_tree(work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        plan_file.write_text(text)
    # Files of killed workers and of earlier versions.
    for leftover in {*work_dir.iterdir()} - {plan_file, *work_dir.glob("[!.]*.tfrecord-*")}:
        if not is_litter(leftover.name):
            leftover.unlink()


@contextlib.contextmanager
def _progress(tasks: Sequence[ShardTask], records: pathlib.Path) -> Iterator[None]:
    """Show a bar of volumes that grows as the records of shards appear in a folder."""
    done = threading.Event()
    # Each look is a request if the folder is remote.
    interval = 3.0 if storage.is_remote(records) else 0.3
    volumes = {task.record_path.name: len(task.scans) for task in tasks}
    with tqdm(total=sum(volumes.values()), unit="volume", desc="preprocess", disable=None) as bar:

        def watch() -> None:
            finished = False
            while volumes and not finished:
                finished = done.wait(interval)
                try:
                    written = volumes.keys() & {path.name for path in records.glob("*.json")}
                # The workers meet the same error and report it.
                except (OSError, UserError):
                    return
                for name in written:
                    bar.update(volumes.pop(name))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _with_spacing(config: JobConfig, plan: Plan) -> Plan:
    """The plan that refuses voxels of other sizes, unless these are allowed."""
    if config.allow_spacing:
        return plan
    return with_spacing(plan, config.source.source_dir, config.slices)


def _check_spacing(config: JobConfig, plan: Plan) -> None:
    """Refuse a cohort of mixed voxels before its volumes are read."""
    if plan.spacing is None or not plan.spacing.others:
        return
    others, volumes = plan.spacing.others, len(plan.scans)
    lost = [scan for scan in plan.scans if others.keys() >= {v.path for v in scan.candidates}]
    if (lost and config.strict) or len(lost) > config.max_rejected_fraction * volumes:
        path = lost[0].path
        raise UserError(
            f"{len(lost)} of {volumes} volumes have other voxels than the cohort's median of "
            f"{in_words(plan.spacing.typical)} mm (posterior x superior x right), such as {path} "
            f"with {in_words(others[path])} mm; bring all to one size by --spacing, such as "
            f"--spacing={max(plan.spacing.typical):.2g} in place of --in_plane, or take them as "
            "they are by --allow_spacing"
        )


def _check_rejects(config: JobConfig, plan: Plan, records: Sequence[ShardRecord]) -> None:
    volumes = len(plan.scans)
    lost = lost_people([entry for record in records for entry in record.rejected])
    if not lost:
        return
    planned = collections.Counter(plan.splits.values())
    refused = collections.Counter(entry.split for entry in lost)
    empty = [split for split in refused if refused[split] == planned[split]]
    share, first = config.max_rejected_fraction, lost[0]
    if len(lost) == volumes:
        what = f"all {volumes} volumes were refused"
    elif empty:
        first = next(entry for entry in lost if entry.split == empty[0])
        what = f"every volume of the {empty[0]} split was refused"
    elif len(lost) > share * volumes:
        what = f"{len(lost)} of {volumes} volumes were refused, more than "
        what += f"--max_rejected_fraction={share}"
    else:
        return
    report = plan.work_dir / "rejected.jsonl"
    publish.write_lines(report, publish.not_taken(plan, records, config.source.source_dir))
    reasons = collections.Counter(entry.reason for entry in lost)
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    advice = "repair or remove these files"
    if config.slices.spacing is None and reasons.keys() == {"wrong_in_plane_size"}:
        advice = "take volumes of any size by --spacing in place of --in_plane, under a --config "
        advice += "of your own"
    raise UserError(
        f"{what}, the first one: {first.path}: {first.detail}; all {len(lost)} by reason: "
        f"{counted}; {advice}: nothing was published, {report} lists them"
    )


def _check_copies(volumes: Sequence[VolumeRecord]) -> None:
    """Refuse volumes of two people with the same file, or the same voxels in another file."""
    first: dict[str, VolumeRecord] = {}
    pairs = []
    for volume in sorted(volumes, key=lambda volume: volume.path):
        digests = [digest for digest in (volume.git_blob_sha1, volume.pixels) if digest]
        other = next((first[digest] for digest in digests if digest in first), None)
        if other:
            same = "bytes" if other.git_blob_sha1 == volume.git_blob_sha1 else "voxels"
            pairs.append(f"{other.path} and {volume.path} (the same {same})")
        for digest in digests:
            first.setdefault(digest, volume)
    if pairs:
        more = f" and {len(pairs) - _COPIES_NAMED} more" if len(pairs) > _COPIES_NAMED else ""
        raise UserError(
            f"volumes of two people are copies: {', '.join(pairs[:_COPIES_NAMED])}{more}; nothing "
            "was published: remove one of each pair, or pass --allow_same_bytes to keep both"
        )


def _check_unchanged(config: JobConfig, plan: Plan) -> Manifest:
    """The manifest of the existing dataset, if the same inputs would make the same one again."""
    made = manifest.read(config.dataset_dir)
    refused = sum((made.rejected or {}).values())
    lost = refused if made.people_lost is None else made.people_lost
    if (refused and config.strict) or lost > config.max_rejected_fraction * len(plan.splits):
        raise DatasetError(
            f"{config.dataset_dir}: was made without {refused} refused volumes, which --strict "
            "or --max_rejected_fraction do not allow now; its rejected.jsonl names them"
        )
    taken = {subject: source.path for subject, source in (made.volumes or {}).items()}
    scans = tqdm(plan.scans, unit="volume", desc="compare", disable=None)
    read = choice.tried(scans, taken, config.source.source_dir)
    digests = {path: digest_of(scan.path) for path, scan in read}
    digests |= choice.digests_of_masks(plan.masks, config.source.source_dir)

    def is_made_by(plan: Plan) -> bool:
        return fingerprint(_settings_by_rules_of(made, plan), digests) == made.fingerprint

    # The headers of the volumes need no new look where the manifest says enough.
    same = is_made_by(plan) and (config.allow_spacing or _voxels_are_alike(made))
    if not (same or is_made_by(_with_spacing(config, plan))):
        raise DatasetError(
            f"{config.dataset_dir}: this dataset was made from other inputs or settings; pass "
            "--overwrite to replace it, or choose another --data_dir or --config"
        )
    return made


def _voxels_are_alike(made: Manifest) -> bool:
    """Whether a manifest says that all volumes have voxels of the typical size."""
    if made.voxels is None or made.geometry is None:
        return False
    ends, typical = (made.voxels.lowest, made.voxels.highest), made.geometry.zooms
    return all(same_spacing(sides, typical) for sides in ends)


def _settings_by_rules_of(made: Manifest, plan: Plan) -> dict[str, Any]:
    """The settings of a plan, by the rules that made an existing dataset.

    Earlier versions padded with zeros and took voxels of any size.
    """
    if made.config.padding:
        return plan.settings
    config = {name: value for name, value in plan.settings["config"].items() if name != "padding"}
    kept = {name: value for name, value in plan.settings.items() if name != "other_spacing"}
    return kept | {"config": config}
