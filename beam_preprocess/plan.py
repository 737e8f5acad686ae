"""The plan of a job, made without Beam and before any volume is read."""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beam_preprocess.geometry import SliceFlags
from beam_preprocess.shards import ShardTask
from beam_preprocess.spacing import CohortSpacing, cohort_spacing
from ixi_tfds.cohorts import CohortFlags, NameFlags, find_cohort
from ixi_tfds.cohorts.bids_filter import BidsFlags, as_text
from ixi_tfds.cohorts.brain_masks import find_masks
from ixi_tfds.cohorts.catalog import Catalog, Scan, find_scans
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.cohorts.walking import PassedOver
from ixi_tfds.config import VERSION, SliceConfig
from ixi_tfds.documents import codec
from ixi_tfds.documents.shard_record import Refusal
from ixi_tfds.slices import MAX_REJECTED_FRACTION
from ixi_tfds.splits import SPLIT_HINT, SPLITS, SPLITTINGS, assign_splits
from ixi_tfds.system import flags, storage
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """The volumes that a dataset is made from, and how many go into a shard."""

    source_dir: str = flag("Folder with the volumes at any depth, or a BIDS folder.", path=True)
    people: CohortFlags = dataclasses.field(default_factory=CohortFlags, kw_only=True)
    bids: BidsFlags = dataclasses.field(default_factory=BidsFlags, kw_only=True)
    names: NameFlags = dataclasses.field(default_factory=NameFlags, kw_only=True)
    volumes_per_shard: int = flag("Volumes in a shard.", 16, least=1)
    brain_masks: str | None = flag(
        "Folder with a brain mask or label map for each volume, found by the volume's name, for "
        "configs of brains. Without it, heads have to be skull-stripped.",
        None,
        path=True,
    )
    splits: str = flag(
        "Who is in which split: as the cohort's roster fixes it, or by a hash of the names of the "
        "people who are present.",
        "roster",
        choices=SPLITTINGS,
    )
    allow_unknown_orientation: bool = flag(
        "Read volumes that do not say how the head lies in them, by their format's convention.",
        False,
    )


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """The settings of a job that makes the dataset `DATA_DIR/COHORT/CONFIG/VERSION`."""

    source: SourceConfig
    data_dir: str = flag("Root of the datasets.", path=True)
    geometry: SliceFlags = dataclasses.field(default_factory=SliceFlags, kw_only=True)
    strict: bool = flag("Fail at the first refused volume.", False)
    max_rejected_fraction: float = flag(
        "Publish nothing if more of the volumes are refused.",
        MAX_REJECTED_FRACTION,
        least=0,
        most=1,
    )
    allow_spacing: bool = flag(
        "Without --spacing, take volumes whose voxels differ by more than 5% from the cohort's "
        "median.",
        False,
    )
    allow_same_bytes: bool = flag(
        "Keep volumes of different people that are copies of each other.", False
    )
    overwrite: bool = flag("Replace a dataset that was made from other inputs.", False)

    def __post_init__(self) -> None:
        flags.check(self)
        if self.source.brain_masks and self.slices.scaling != "tissue":
            raise UserError("--brain_masks: only for configs of brains, such as brain_2mm_axial")
        for folder in (self.source.source_dir, self.data_dir):
            storage.at(folder)  # refuses unknown schemes

    @property
    def cohort(self) -> Cohort:
        """The cohort of the volumes."""
        return find_cohort(self.source.people.cohort)

    @property
    def slices(self) -> SliceConfig:
        """The geometry and scaling."""
        return self.geometry.slice_config()

    @property
    def dataset_dir(self) -> pathlib.Path:
        """The folder of the finished dataset."""
        return storage.at(self.data_dir, self.cohort.name, self.slices.name, VERSION)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes:
      scans: the people, each with the volumes to try.
      skipped: files refused by name, and volumes of a BIDS folder that are not asked for.
      splits: the split of each subject.
      warnings: about the demographics.
      told_apart: how people were told apart, with examples, a line for each rule.
      passed_over: images of other formats and the like that are not read.
      tasks: the shards to write.
      work_dir: folder of the unfinished dataset.
      settings: everything except the contents of the input files that decides the bytes of the
        dataset, as JSON values.
      spacing: voxel sizes of the scans where those of other sizes are refused, else None.
      masks: path of the brain's mask, by path of the volume.
    """

    scans: tuple[Scan, ...]
    skipped: tuple[Refusal, ...]
    splits: dict[str, str]
    warnings: tuple[str, ...]
    told_apart: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]
    tasks: tuple[ShardTask, ...]
    work_dir: pathlib.Path
    settings: dict[str, Any]
    spacing: CohortSpacing | None = None
    masks: dict[str, str] = dataclasses.field(default_factory=dict)

    def planned(self, config: SliceConfig) -> dict[str, tuple[int, int]]:
        """Numbers of subjects and slices in each split if no volume is refused."""
        subjects = collections.Counter(self.splits.values())
        return {s: (subjects[s], subjects[s] * config.slices_of_a_volume(s)) for s in SPLITS}

    def empty_splits(self) -> str:
        """A sentence about the splits that nobody is in; "" where there are none."""
        empty = [split for split in SPLITS if split not in self.splits.values()]
        if not empty:
            return ""
        which = f"nobody is in the {' and the '.join(empty)} split{'s' * (len(empty) > 1)}"
        if len(self.splits) < len(SPLITS):
            return f"{which}: three people or more are needed for one in each"
        return (
            f"{which}: the roster fixes the split of each of its people, and none of those who are "
            f"present belong there; {SPLIT_HINT}"
        )


def plan_job(
    source: SourceConfig,
    slices: SliceConfig,
    dataset_dir: pathlib.Path,
    *,
    strict: bool = False,
) -> Plan:
    """Find the scans, look up the people, and divide the scans among splits and shards.

    `dataset_dir` is the folder of the finished dataset. With `strict` the first refused volume
    fails its task.

    Raises:
      UserError: there are no scans, two of one subject, or unusable demographics.
    """
    cohort = find_cohort(source.people.cohort)
    catalog = _catalog(source, cohort)
    roster = read_roster(cohort.roster if source.splits == "roster" else None)
    splits = assign_splits(catalog.scans, roster)
    work_dir = dataset_dir.with_name(f".incomplete-{VERSION}")
    masks: dict[str, str] = {}
    if source.brain_masks:
        paths = [volume.path for scan in catalog.scans for volume in scan.candidates]
        masks = find_masks(source.brain_masks, source.source_dir, paths)
    common = ShardTask(
        dataset=cohort.name,
        split="",
        index=0,
        count=0,
        scans=(),
        config=slices,
        source_dir=source.source_dir,
        work_dir=str(work_dir),
        strict=strict,
        allow_unknown_orientation=source.allow_unknown_orientation,
        masks=masks,
    )
    return Plan(
        scans=catalog.scans,
        skipped=_skipped(catalog, source.source_dir),
        splits=splits,
        warnings=(*_of_links(catalog, source.source_dir), *catalog.warnings),
        told_apart=catalog.told_apart,
        passed_over=catalog.passed_over,
        tasks=tuple(_tasks(common, catalog.scans, splits, source.volumes_per_shard)),
        work_dir=work_dir,
        settings=_settings(source, slices, catalog.scans, splits),
        masks=masks,
    )


def with_spacing(plan: Plan, source_dir: str, slices: SliceConfig) -> Plan:
    """The plan that refuses volumes whose voxels are of another size than those of the cohort.

    The headers of all volumes are read. Only configs of the user's own without `spacing` refuse
    such volumes; under others the plan stays as it is.
    """
    if not slices.padding or slices.spacing is not None:
        return plan
    spacing = cohort_spacing([volume.path for scan in plan.scans for volume in scan.candidates])
    if spacing is None:
        return plan
    settings = plan.settings
    if spacing.others:
        others = [os.path.relpath(path, source_dir) for path in spacing.others]
        settings = settings | {"other_spacing": sorted(others)}
    tasks = tuple(dataclasses.replace(task, zooms=spacing.typical) for task in plan.tasks)
    return dataclasses.replace(plan, settings=settings, tasks=tasks, spacing=spacing)


def _catalog(source: SourceConfig, cohort: Cohort) -> Catalog:
    if not storage.at(source.source_dir).is_dir():
        raise UserError(f"--source_dir={source.source_dir}: no such folder")
    return find_scans(
        source.source_dir,
        cohort,
        source.people.workbook,
        bids_filter=source.bids.asked,
        names=source.names,
    )


def _settings(
    source: SourceConfig,
    slices: SliceConfig,
    scans: Sequence[Scan],
    splits: Mapping[str, str],
) -> dict[str, Any]:
    """`Plan.settings`. What earlier versions lack is in it only where it changes something."""
    settings = {
        "version": VERSION,
        "config": codec.to_plain(slices),
        "volumes_per_shard": source.volumes_per_shard,
        "people": {scan.subject: _describe(scan, splits[scan.subject]) for scan in scans},
    }
    if source.allow_unknown_orientation:
        settings["allow_unknown_orientation"] = True
    if source.splits != "roster":
        settings["splits"] = source.splits
    asked = source.bids.asked
    if asked:
        settings["bids_filter"] = as_text(asked)
    if source.names.subjects or source.names.subject_pattern:
        volumes = [volume for scan in scans for volume in scan.candidates]
        settings["people_of_files"] = {
            os.path.relpath(volume.path, source.source_dir): volume.subject for volume in volumes
        }
    return settings


def fingerprint(settings: Mapping[str, Any], digests: Mapping[str, str | None]) -> str:
    """SHA-256, in hex, of everything that decides the bytes of a dataset.

    Args:
      settings: those of the plan.
      digests: `git_blob_sha1` of each input file by its path; None for an unreadable file.
    """
    text = json.dumps([settings, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _skipped(catalog: Catalog, source_dir: str) -> tuple[Refusal, ...]:
    return tuple(
        Refusal(os.path.relpath(error.path, source_dir), error.reason, error.detail)
        for error in catalog.refused
    )


def _of_links(catalog: Catalog, source_dir: str) -> list[str]:
    if not catalog.links:
        return []
    first = os.path.relpath(catalog.links[0], source_dir)
    count = len(catalog.links)
    counted = "1 link to a folder is" if count == 1 else f"{count} links to folders are"
    return [f"{counted} followed, such as {first}"]


def _describe(scan: Scan, split: str) -> list[str | float | None]:
    age = None if math.isnan(scan.age) else scan.age
    return [split, scan.site, scan.sex, scan.ethnicity, age]


def _tasks(
    common: ShardTask, scans: Sequence[Scan], splits: dict[str, str], volumes_per_shard: int
) -> Iterator[ShardTask]:
    """The shards of all splits; `common` has the fields in which they agree."""
    for split in SPLITS:
        shards = _deal(scans, splits, split, volumes_per_shard)
        for index, mine in enumerate(shards):
            paths = [volume.path for scan in mine for volume in scan.candidates]
            masks = {path: common.masks[path] for path in paths if path in common.masks}
            yield dataclasses.replace(
                common, split=split, index=index, count=len(shards), scans=mine, masks=masks
            )


def _deal(
    scans: Sequence[Scan], splits: dict[str, str], split: str, volumes_per_shard: int
) -> list[tuple[Scan, ...]]:
    """Divide the scans of a split among shards, in the order of a hash to mix the sites."""
    mine = [scan for scan in scans if splits[scan.subject] == split]
    mine.sort(key=lambda scan: hashlib.sha256(f"shards:{scan.subject}".encode()).digest())
    count = math.ceil(len(mine) / volumes_per_shard)
    return [tuple(mine[index::count]) for index in range(count)]
