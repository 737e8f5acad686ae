"""The plan of a job, made without Beam and before any volume is read."""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from beam_preprocess.shards import ShardTask
from beam_preprocess.spacing import CohortSpacing, cohort_spacing
from ixi_tfds.cohorts import CohortFlags, find_cohort
from ixi_tfds.cohorts.catalog import Scan, find_scans
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.roster import read_roster
from ixi_tfds.config import CONFIGS, SCALINGS, VERSION, SliceConfig, slices_in
from ixi_tfds.documents import codec
from ixi_tfds.documents.shard_record import Refusal
from ixi_tfds.slices import MAX_REJECTED_FRACTION
from ixi_tfds.splits import SPLITS, assign_splits
from ixi_tfds.system import flags, storage
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag

PADDING = "background"
"""Padding of configs of the user's own. Those of earlier versions were padded with zeros."""

_MILLIMETRES = re.compile(r"([-+]?[0-9]+(?:\.[0-9]+)?)mm:([-+]?[0-9]+(?:\.[0-9]+)?)mm")


@dataclasses.dataclass(frozen=True)
class SliceFlags:
    """The name of a config, and the geometry of a config of the user's own."""

    config: str = flag(f"Name of the config: {', '.join(CONFIGS)}, or your own.", "thesis")
    in_plane: str | None = flag(
        "Voxels (posterior x superior) a volume must have, or 'any'. --size is the default.", None
    )
    size: str | None = flag("Height x width of stored slices; others are padded or cropped.", None)
    slices: str | None = flag(
        "Slices FIRST:LAST of the right axis to store, without LAST. With --spacing also in mm "
        "around the middle of the head, as in -36mm:36mm.",
        None,
    )
    spacing: str | None = flag(
        "Resample every volume to voxels of this size in mm before slicing: 2, or 2x2x2 for "
        "posterior x superior x right.",
        None,
    )
    scaling: str | None = flag("Scale to 8 bits by slice or by volume.", None, choices=SCALINGS)

    def slice_config(self) -> SliceConfig:
        """The config that the flags name and describe.

        Raises:
          UserError: an unknown name without a geometry, or a geometry under a known name.
        """
        if self.config in CONFIGS:
            for name in ("slices", "size", "in_plane", "spacing", "scaling"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name}: the config {self.config} is fixed; name a geometry of your own "
                        "by another --config"
                    )
            return CONFIGS[self.config]
        if not (self.slices and self.size):
            raise UserError(
                f"--config={self.config}: not one of {', '.join(CONFIGS)}; a config of your own "
                "needs --slices and --size"
            )
        if self.in_plane and self.spacing:
            raise UserError("--in_plane: not with --spacing, which takes volumes of any size")
        size = _pair("size", self.size, "x")
        in_plane: tuple[int, int] | None = size
        if self.in_plane == "any" or self.spacing:
            in_plane = None
        elif self.in_plane:
            in_plane = _pair("in_plane", self.in_plane, "x")
        spacing = _spacing(self.spacing) if self.spacing else None
        window, window_mm = _window(self.slices, spacing)
        return SliceConfig(
            name=self.config,
            in_plane=in_plane,
            size=size,
            window=window,
            scaling=self.scaling or "slice",
            spacing=spacing,
            window_mm=window_mm,
            padding=PADDING,
        )


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """The volumes that a dataset is made from, and how many go into a shard."""

    source_dir: str = flag("Folder with the volumes at any depth, or a BIDS folder.")
    people: CohortFlags = dataclasses.field(default_factory=CohortFlags, kw_only=True)
    volumes_per_shard: int = flag("Volumes in a shard.", 16, least=1)
    allow_unknown_orientation: bool = flag(
        "Read volumes that do not say how the head lies in them, by their format's convention.",
        False,
    )


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """The settings of a job that makes the dataset `DATA_DIR/COHORT/CONFIG/VERSION`."""

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
    allow_spacing: bool = flag(
        "Without --spacing, take volumes whose voxels differ by more than 5% from the cohort's "
        "median.",
        False,
    )
    overwrite: bool = flag("Replace a dataset that was made from other inputs.", False)

    def __post_init__(self) -> None:
        flags.check(self)
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
      scans: the volumes to read, one for each subject.
      skipped: files refused by name, and further volumes of a person in a BIDS folder.
      splits: the split of each subject.
      warnings: about the demographics.
      tasks: the shards to write.
      work_dir: folder of the unfinished dataset.
      settings: everything except the contents of the input files that decides the bytes of the
        dataset, as JSON values.
      spacing: voxel sizes of the scans where those of other sizes are refused, else None.
    """

    scans: tuple[Scan, ...]
    skipped: tuple[Refusal, ...]
    splits: dict[str, str]
    warnings: tuple[str, ...]
    tasks: tuple[ShardTask, ...]
    work_dir: pathlib.Path
    settings: dict[str, Any]
    spacing: CohortSpacing | None = None

    def planned(self, config: SliceConfig) -> dict[str, tuple[int, int]]:
        """Numbers of subjects and slices in each split if no volume is refused."""
        subjects = collections.Counter(self.splits.values())
        return {s: (subjects[s], subjects[s] * config.slices_per_volume) for s in SPLITS}


def plan_job(
    source: SourceConfig,
    slices: SliceConfig,
    dataset_dir: pathlib.Path,
    *,
    strict: bool = False,
    allow_spacing: bool = False,
) -> Plan:
    """Find the scans, look up the people, and divide the scans among splits and shards.

    `dataset_dir` is the folder of the finished dataset. With `strict` the first refused volume
    fails its task. Under a config of the user's own without `spacing`, volumes whose voxels are of
    another size than those of the cohort are refused, unless `allow_spacing`.

    Raises:
      UserError: there are no scans, two of one subject, or unusable demographics.
    """
    if not storage.at(source.source_dir).is_dir():
        raise UserError(f"--source_dir={source.source_dir}: no such folder")
    cohort = find_cohort(source.people.cohort)
    catalog = find_scans(source.source_dir, cohort, source.people.workbook)
    splits = assign_splits(catalog.scans, read_roster(cohort.roster))
    work_dir = dataset_dir.with_name(f".incomplete-{VERSION}")
    spacing = None
    if slices.padding and slices.spacing is None and not allow_spacing:
        spacing = cohort_spacing([scan.path for scan in catalog.scans])
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
            zooms=spacing.typical if spacing else None,
            allow_unknown_orientation=source.allow_unknown_orientation,
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
        settings=_settings(source, slices, catalog.scans, splits, spacing),
        spacing=spacing,
    )


def fingerprint(settings: Mapping[str, Any], digests: Mapping[str, str | None]) -> str:
    """SHA-256, in hex, of everything that decides the bytes of a dataset.

    Args:
      settings: those of the plan.
      digests: `git_blob_sha1` of each input file by its path; None for an unreadable file.
    """
    text = json.dumps([settings, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(
    source: SourceConfig,
    slices: SliceConfig,
    scans: Sequence[Scan],
    splits: Mapping[str, str],
    spacing: CohortSpacing | None,
) -> dict[str, Any]:
    """The `settings` of a plan. Refused voxel sizes are in them only where there are any."""
    settings = {
        "version": VERSION,
        "config": codec.to_plain(slices),
        "volumes_per_shard": source.volumes_per_shard,
        "people": {scan.subject: _describe(scan, splits[scan.subject]) for scan in scans},
    }
    if source.allow_unknown_orientation:
        settings["allow_unknown_orientation"] = True
    if spacing and spacing.others:
        others = [os.path.relpath(path, source.source_dir) for path in spacing.others]
        settings["other_spacing"] = sorted(others)
    return settings


def _describe(scan: Scan, split: str) -> list[str | float | None]:
    age = None if math.isnan(scan.age) else scan.age
    return [split, scan.site, scan.sex, scan.ethnicity, age]


def _deal(
    scans: Sequence[Scan], splits: dict[str, str], split: str, volumes_per_shard: int
) -> list[tuple[Scan, ...]]:
    """Divide the scans of a split among shards, in the order of a hash to mix the sites."""
    mine = [scan for scan in scans if splits[scan.subject] == split]
    mine.sort(key=lambda scan: hashlib.sha256(f"shards:{scan.subject}".encode()).digest())
    count = math.ceil(len(mine) / volumes_per_shard)
    return [tuple(mine[index::count]) for index in range(count)]


def _spacing(text: str) -> tuple[float, float, float]:
    """The three sides of a voxel in `--spacing`."""
    try:
        sides = [float(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 3) or not all(0 < side < math.inf for side in sides):
        raise UserError(f"--spacing={text}: give a side in mm as in 2, or three as in 2x2x2")
    posterior, superior, right = sides if len(sides) == 3 else sides * 3
    return posterior, superior, right


def _window(
    text: str, spacing: tuple[float, float, float] | None
) -> tuple[tuple[int, int], tuple[float, float] | None]:
    """`window` and `window_mm` of a config, from `--slices`."""
    if "mm" not in text:
        return _pair("slices", text, ":"), None
    found = _MILLIMETRES.fullmatch(text)
    if not found:
        raise UserError(f"--slices={text}: give a window in mm as in -36mm:36mm")
    if spacing is None:
        raise UserError(f"--slices={text}: a window in mm needs --spacing, such as --spacing=2")
    window_mm = float(found[1]), float(found[2])
    return (0, slices_in(window_mm, spacing)), window_mm


def _pair(flag: str, text: str, separator: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    if not (first.isdecimal() and second.isdecimal()):
        raise UserError(f"--{flag}={text}: give two numbers as in 1{separator}2")
    return int(first), int(second)
