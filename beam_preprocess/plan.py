"""What a job will do, known before any volume is read, and without Beam."""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from beam_preprocess.shards import ShardTask
from ixi_tfds import storage
from ixi_tfds.cohorts import CohortFlags, find_cohort
from ixi_tfds.cohorts.catalog import Scan, find_scans
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.configs import CONFIGS, SCALINGS, VERSION, SliceConfig
from ixi_tfds.documents.shard_record import Refusal
from ixi_tfds.errors import UserError
from ixi_tfds.slices import MAX_REJECTED_FRACTION
from ixi_tfds.splits import SPLITS, assign_splits
from ixi_tfds.system import flags
from ixi_tfds.system.flags import flag


@dataclasses.dataclass(frozen=True)
class SliceFlags:
    """The name of a config, and its geometry where it is one of the user's own."""

    config: str = flag(f"Name of the config: {', '.join(CONFIGS)}, or one of your own.", "thesis")
    in_plane: str | None = flag(
        "Voxels (posterior x superior) a volume must have, or 'any'; by default those of --size.",
        None,
    )
    size: str | None = flag("Height x width of stored slices; others are padded or cropped.", None)
    slices: str | None = flag("Window of slices FIRST:LAST of the right axis, LAST excluded.", None)
    scaling: str | None = flag("8-bit range by slice or by volume.", None, choices=SCALINGS)

    def slice_config(self) -> SliceConfig:
        """The config that the flags name and describe.

        Raises:
          UserError: an unknown name without a geometry, or a geometry under a known name.
        """
        window = _pair("slices", self.slices, ":") if self.slices else None
        in_plane = size = _pair("size", self.size, "x") if self.size else None
        if self.in_plane == "any":
            in_plane = None
        elif self.in_plane:
            in_plane = _pair("in_plane", self.in_plane, "x")
        if self.config in CONFIGS:
            for name in ("slices", "size", "in_plane", "scaling"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name}: the config {self.config} is fixed; give a geometry of your own "
                        "another name with --config"
                    )
            return CONFIGS[self.config]
        if not (window and size):
            raise UserError(
                f"--config={self.config}: not one of {', '.join(CONFIGS)}; a config of your own "
                "needs --slices and --size"
            )
        scaling = self.scaling or "slice"
        return SliceConfig(self.config, in_plane, size, window, scaling)


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """The volumes that a dataset is made from, and how they are dealt to shards."""

    source_dir: str = flag("Folder of the volumes, any depth; or a BIDS folder.")
    people: CohortFlags = dataclasses.field(default_factory=CohortFlags, kw_only=True)
    volumes_per_shard: int = flag("Volumes in a shard.", 16, least=1)


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """What the command line asks for; the dataset comes to `DATA_DIR/COHORT/CONFIG/VERSION`."""

    source: SourceConfig
    data_dir: str = flag("Root of the datasets.")
    geometry: SliceFlags = dataclasses.field(default_factory=SliceFlags, kw_only=True)
    strict: bool = flag("Fail at the first refused volume.", False)
    max_rejected_fraction: float = flag(
        "Publish nothing if more of the volumes are refused.",
        MAX_REJECTED_FRACTION,
        least=0,
        most=1,
    )
    overwrite: bool = flag("Replace a dataset that was made from other inputs.", False)

    def __post_init__(self) -> None:
        flags.check(self)
        for folder in (self.source.source_dir, self.data_dir):
            storage.at(folder)  # refuses unknown schemes

    @property
    def cohort(self) -> Cohort:
        """That the volumes are of."""
        return find_cohort(self.source.people.cohort)

    @property
    def slices(self) -> SliceConfig:
        """Geometry and scaling."""
        return self.geometry.slice_config()

    @property
    def dataset_dir(self) -> pathlib.Path:
        """Where the finished dataset is."""
        return storage.at(self.data_dir, self.cohort.name, self.slices.name, VERSION)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes:
      scans: the candidates.
      skipped: files refused by name, and further ones of a person in a BIDS folder.
      splits: of each subject.
      warnings: about the demographics.
      tasks: the shards to write.
      work_dir: folder of the unfinished dataset.
      settings: all but the contents of the input files that decides the bytes, as JSON values.
    """

    scans: tuple[Scan, ...]
    skipped: tuple[Refusal, ...]
    splits: dict[str, str]
    warnings: tuple[str, ...]
    tasks: tuple[ShardTask, ...]
    work_dir: pathlib.Path
    settings: dict[str, Any]

    def planned(self, config: SliceConfig) -> dict[str, tuple[int, int]]:
        """(subjects, slices) of each split if no volume is refused."""
        subjects = collections.Counter(self.splits.values())
        return {s: (subjects[s], subjects[s] * config.slices_per_volume) for s in SPLITS}


def plan_job(
    source: SourceConfig, slices: SliceConfig, dataset_dir: pathlib.Path, *, strict: bool = False
) -> Plan:
    """Find the scans, look up the people, and deal scans to splits and shards.

    Args:
      source: the volumes.
      slices: geometry and scaling.
      dataset_dir: where the finished dataset shall be.
      strict: fail at the first refused volume.

    Raises:
      UserError: no scans, a subject twice, or demographics that cannot be read or used.
    """
    if not storage.at(source.source_dir).is_dir():
        raise UserError(f"--source_dir={source.source_dir}: no such folder")
    cohort = find_cohort(source.people.cohort)
    catalog = find_scans(source.source_dir, cohort, source.people.workbook)
    splits = assign_splits(catalog.scans, read_roster(cohort.roster))
    work_dir = dataset_dir.with_name(f".incomplete-{VERSION}")
    tasks = tuple(
        ShardTask(
            dataset=cohort.name,
            split=split,
            index=index,
            count=len(shards),
            scans=scans,
            config=slices,
            source_dir=source.source_dir,
            work_dir=str(work_dir),
            strict=strict,
        )
        for split in SPLITS
        for shards in [_deal(catalog.scans, splits, split, source.volumes_per_shard)]
        for index, scans in enumerate(shards)
    )
    return Plan(
        scans=catalog.scans,
        skipped=tuple(
            Refusal(os.path.relpath(error.path, source.source_dir), error.reason, error.detail)
            for error in catalog.refused
        ),
        splits=splits,
        warnings=catalog.warnings,
        tasks=tasks,
        work_dir=work_dir,
        settings=_settings(catalog.scans, splits, slices, source.volumes_per_shard),
    )


def fingerprint(settings: Mapping[str, Any], digests: Mapping[str, str | None]) -> str:
    """SHA-256, in hex, of all that decides the bytes of a dataset.

    Args:
      settings: of the plan.
      digests: `git_blob_sha1` of each input file by its path; None where it cannot be read.
    """
    text = json.dumps([settings, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(
    scans: Sequence[Scan], splits: Mapping[str, str], slices: SliceConfig, volumes_per_shard: int
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "config": dataclasses.asdict(slices),
        "volumes_per_shard": volumes_per_shard,
        "people": {
            scan.subject: [
                splits[scan.subject],
                scan.site,
                scan.sex,
                scan.ethnicity,
                None if math.isnan(scan.age) else scan.age,
            ]
            for scan in scans
        },
    }


def _deal(
    scans: Sequence[Scan], splits: dict[str, str], split: str, volumes_per_shard: int
) -> list[tuple[Scan, ...]]:
    """Deal the scans of a split to shards, in the order of a hash so that sites are mixed."""
    mine = [scan for scan in scans if splits[scan.subject] == split]
    mine.sort(key=lambda scan: hashlib.sha256(f"shards:{scan.subject}".encode()).digest())
    count = math.ceil(len(mine) / volumes_per_shard)
    return [tuple(mine[index::count]) for index in range(count)]


def _pair(flag: str, text: str, separator: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise UserError(f"--{flag}={text}: give two numbers as in 1{separator}2")
    return int(first), int(second)
