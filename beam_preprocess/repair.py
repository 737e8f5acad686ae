"""Making the damaged files of a dataset again, and no others."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from beam_preprocess import publish
from beam_preprocess.plan import SourceConfig, plan_job
from beam_preprocess.shards import ShardTask, write_shard
from ixi_tfds.cohorts import AS_NAMED, CohortFlags, NameFlags, find_cohort
from ixi_tfds.cohorts.bids_filter import BidsFlags
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.documents.manifest import Manifest, file_sha256
from ixi_tfds.integrity import Damage, split_of
from ixi_tfds.system import folders, storage
from ixi_tfds.system.errors import DatasetError, UserError


def repair(
    folder: pathlib.Path,
    manifest: Manifest,
    damaged: Sequence[Damage],
    source_dir: str | None,
    people: CohortFlags,
    names: NameFlags = AS_NAMED,
    *,
    brain_masks: str | None = None,
) -> None:
    """Make the damaged files of a dataset again, byte for byte, and replace them.

    Shards are made from volumes, TFDS's metadata from the manifest. Shards of another run go.

    Args:
      folder: of a dataset that the Beam job made.
      manifest: the undamaged manifest of the dataset.
      damaged: the result of `integrity.find_damage`.
      source_dir: folder of the volumes; None if no shard is damaged.
      people: the workbook of the volumes; the cohort is that of the dataset, whatever `people` has.
      names: who is the person in a file, as when the dataset was made.
      brain_masks: folder of the masks that a dataset of brains was made with, if any.

    Raises:
      DatasetError: the dataset was not made by the Beam job, or was made from other volumes or
        another workbook. Files that were repaired before this error stay repaired.
      UserError: `source_dir` is needed and missing.
    """
    if manifest.volumes is None:
        raise DatasetError(
            f"{folder}: was not made by python -m beam_preprocess, so single files of it cannot "
            "be made again; make the whole dataset again"
        )
    with folders.writing(folder.parent, "data_dir"), _scratch(folder) as scratch:
        for damage in damaged:
            if damage.name not in manifest.shards and split_of(damage.name):
                (folder / damage.name).unlink()
        digests = manifest.metadata or {}
        metadata = [damage.name for damage in damaged if damage.name in digests]
        if metadata:
            _write_metadata(folder, manifest, scratch)
        for name in metadata:
            _put(scratch / name, folder / name, digests[name])
        shards = [damage.name for damage in damaged if damage.name in manifest.shards]
        if shards:
            tasks = _tasks(folder, manifest, source_dir, people, names, brain_masks)
        for name in shards:
            task = dataclasses.replace(_task_of(name, manifest, tasks), work_dir=str(scratch))
            write_shard(task)
            _put(task.path, folder / name, manifest.shards[name])


@contextlib.contextmanager
def _scratch(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    scratch = folder.with_name(f".repair-{folder.name}")
    storage.remove_tree(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield scratch
    finally:
        storage.remove_tree(scratch)


def _put(made: pathlib.Path, path: pathlib.Path, digest: str) -> None:
    if file_sha256(made) != digest:
        raise _other_source(path.name)
    made.replace(path)


def _other_source(name: str) -> DatasetError:
    return DatasetError(
        f"{name}: cannot be made again byte for byte, because the dataset was made from other "
        "volumes or another workbook than those in --source_dir, or with other flags such as "
        "--subjects, --subject_pattern, --allow_names and --brain_masks; find the original ones, "
        "or make the dataset again with --overwrite"
    )


def _write_metadata(folder: pathlib.Path, manifest: Manifest, scratch: pathlib.Path) -> None:
    people = [source.shard for source in (manifest.volumes or {}).values()]
    sizes, slices_in = manifest.shard_bytes or {}, manifest.config.slices_of_a_volume
    shards = [
        (split_of(name), people.count(name) * slices_in(split_of(name)), sizes[name])
        for name in sorted(manifest.shards)
    ]
    publish.write_tfds_metadata(_cohort_of(folder), manifest.config, scratch, shards)


def _cohort_of(folder: pathlib.Path) -> Cohort:
    return find_cohort(folder.parents[1].name)


def _tasks(
    folder: pathlib.Path,
    manifest: Manifest,
    source_dir: str | None,
    people: CohortFlags,
    names: NameFlags,
    brain_masks: str | None,
) -> Sequence[ShardTask]:
    if source_dir is None:
        raise UserError("--repair needs --source_dir, the volumes that the dataset was made from")
    source = SourceConfig(
        source_dir=source_dir,
        people=dataclasses.replace(people, cohort=_cohort_of(folder).name),
        bids=BidsFlags(bids_filter=manifest.bids_filter),
        names=names,
        brain_masks=brain_masks,
        volumes_per_shard=manifest.volumes_per_shard or 1,
        splits=manifest.splitting or "roster",
        # Of the volumes in the dataset, this is known to have been allowed.
        allow_unknown_orientation=True,
    )
    return plan_job(source, manifest.config, folder).tasks


def _task_of(name: str, manifest: Manifest, tasks: Sequence[ShardTask]) -> ShardTask:
    # Not by name: shards have other numbers if all volumes of one were refused.
    volumes = (manifest.volumes or {}).items()
    people = {subject: source.path for subject, source in volumes if source.shard == name}
    for task in tasks:
        if task.split == split_of(name) and people.keys() <= {s.subject for s in task.scans}:
            mine = [scan for scan in task.scans if scan.subject in people]
            scans = tuple(_as_taken(task, scan, people[scan.subject]) for scan in mine)
            return dataclasses.replace(task, scans=scans)
    raise _other_source(name)


def _as_taken(task: ShardTask, scan: Scan, taken: str) -> Scan:
    """The scan with the volume that the dataset was made from, where that is among its volumes.

    The preferred volume of a BIDS folder may be another one: refused then and not now, or by the
    rules of an earlier version.
    """
    found = [one for one in scan.candidates if task.relative(one) == taken]
    return found[0] if found else scan
