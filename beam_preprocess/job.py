"""The whole preprocessing job: plan, write the shards, publish."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from tqdm import tqdm

from beam_preprocess import publish
from beam_preprocess.pipeline import write_shards
from beam_preprocess.shards import STRICT_FAILURE, ShardTask
from beam_preprocess.workers import LOST
from ixi_tfds import folders, storage
from ixi_tfds.bids import is_bids
from ixi_tfds.catalog import Catalog, Scan, find_scans
from ixi_tfds.configs import VERSION, SliceConfig
from ixi_tfds.datasets import MARKER, read_manifest
from ixi_tfds.demographics import find_workbook, read_demographics
from ixi_tfds.errors import DatasetError, ScanError, UserError
from ixi_tfds.nifti import read_file
from ixi_tfds.roster import git_blob_sha1
from ixi_tfds.splits import SPLITS, assign_splits


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """What the command line asks for.

    Attributes:
      source_dir: folder of volumes, any depth, and perhaps the workbook; or a BIDS folder.
      data_dir: root of the datasets; this one lands in `ixi_t1/<config>/<version>/` below it.
      slices: geometry and scaling.
      workbook: path of the demographics, or None to look for it in `source_dir`.
      volumes_per_shard: volumes that one shard holds, and one task reads.
      strict: fail at the first volume that is refused.
      max_rejected_fraction: share of refused volumes above which nothing is published.
      overwrite: replace a dataset that was made from other inputs.
    """

    source_dir: str
    data_dir: str
    slices: SliceConfig
    workbook: str | None = None
    volumes_per_shard: int = 16
    strict: bool = False
    max_rejected_fraction: float = 0.05
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.volumes_per_shard < 1:
            raise UserError(f"--volumes_per_shard={self.volumes_per_shard}: must be at least 1")
        for flag in ("source_dir", "data_dir"):
            if not getattr(self, flag):
                raise UserError(f"--{flag}=: give a folder")
            storage.at(getattr(self, flag))  # refuses unknown schemes
        if not 0 <= self.max_rejected_fraction <= 1:
            raise UserError(
                f"--max_rejected_fraction={self.max_rejected_fraction}: must be between 0 and 1"
            )

    @property
    def dataset_dir(self) -> pathlib.Path:
        """Where the finished dataset stands."""
        return storage.at(self.data_dir, "ixi_t1", self.slices.name, VERSION)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job will do, known before any volume is read."""

    catalog: Catalog
    splits: dict[str, str]
    warnings: tuple[str, ...]
    tasks: tuple[ShardTask, ...]
    work_dir: pathlib.Path

    def planned(self, config: SliceConfig) -> dict[str, tuple[int, int]]:
        """(subjects, slices) of each split if no volume is refused."""
        subjects = collections.Counter(self.splits.values())
        return {s: (subjects[s], subjects[s] * config.slices_per_volume) for s in SPLITS}


def plan_job(config: JobConfig) -> Plan:
    """Find the scans, look up the people, and deal scans to splits and shards.

    Raises:
      UserError: no scans, a subject twice, or demographics that cannot be read or used.
    """
    if not storage.at(config.source_dir).is_dir():
        raise UserError(f"--source_dir={config.source_dir}: no such folder")
    catalog, warnings = _find_people(config)
    splits = assign_splits(catalog.scans)
    work_dir = config.dataset_dir.with_name(f".incomplete-{VERSION}")
    tasks = tuple(
        ShardTask(
            split=split,
            index=index,
            count=len(shards),
            scans=scans,
            config=config.slices,
            source_dir=config.source_dir,
            work_dir=str(work_dir),
            strict=config.strict,
        )
        for split in SPLITS
        for shards in [_deal(catalog.scans, splits, split, config.volumes_per_shard)]
        for index, scans in enumerate(shards)
    )
    return Plan(catalog, splits, warnings, tasks, work_dir)


def _find_people(config: JobConfig) -> tuple[Catalog, tuple[str, ...]]:
    """The scans with what is known of the people, and what had to be given up."""
    if is_bids(config.source_dir):
        if config.workbook is not None:
            raise UserError(
                f"--workbook={config.workbook}: {config.source_dir} is a BIDS folder, whose "
                "participants.tsv tells sex and age; leave the flag out"
            )
        catalog = find_scans(config.source_dir)
        return catalog, catalog.warnings
    workbook = config.workbook or find_workbook(config.source_dir)
    if workbook is None:
        lacks = "no workbook: sex, ethnicity and age of everyone will be missing"
        return find_scans(config.source_dir), (lacks,)
    demographics = read_demographics(workbook)
    return find_scans(config.source_dir, demographics), demographics.warnings


def run_job(config: JobConfig, plan: Plan, options: PipelineOptions) -> dict[str, Any]:
    """Write and publish the dataset of a plan; give its manifest.

    An unfinished job of the same settings is continued; a finished one is left as it is.

    Raises:
      DatasetError: the dataset stands there, made from other inputs.
      ScanError: a volume was refused and the job is strict.
      UserError: too many volumes were refused, another job writes the same dataset, or something
        cannot be read or written; nothing is published then.
    """
    with folders.writing(config.dataset_dir.parent, "data_dir"):
        return _run_alone(config, plan, options)


def _run_alone(config: JobConfig, plan: Plan, options: PipelineOptions) -> dict[str, Any]:
    settings = {
        "version": VERSION,
        "config": dataclasses.asdict(config.slices),
        "volumes_per_shard": config.volumes_per_shard,
        "people": {
            scan.subject: [
                plan.splits[scan.subject],
                scan.site,
                scan.sex,
                scan.ethnicity,
                None if math.isnan(scan.age) else scan.age,
            ]
            for scan in plan.catalog.scans
        },
    }
    folders.recover(config.dataset_dir)
    if folders.is_whole(config.dataset_dir, MARKER) and not config.overwrite:
        return _check_unchanged(config, plan, settings)
    started = time.time()
    _open_work_dir(plan.work_dir, settings)
    with _progress(plan.tasks, plan.work_dir):
        _run_pipeline(plan, options)
    records = [json.loads(task.record_path.read_text()) for task in plan.tasks]
    rejected = [entry for record in records for entry in record["rejected"]]
    _check_rejects(config, plan, rejected)
    digests = {
        entry["path"]: entry["git_blob_sha1"]
        for record in records
        for entry in record["volumes"] + record["rejected"]
    }
    manifest = publish.publish(
        config.slices,
        work_dir=plan.work_dir,
        dataset_dir=config.dataset_dir,
        records=records,
        skipped=_skipped(config, plan.catalog),
        warnings=plan.warnings,
        settings=settings,
        fingerprint=fingerprint(settings, digests),
    )
    return manifest | {"seconds": time.time() - started}


def fingerprint(settings: dict[str, Any], digests: dict[str, str | None]) -> str:
    """SHA-256, in hex, of all that decides the bytes of a dataset: settings and input files."""
    text = json.dumps([settings, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _deal(
    scans: Sequence[Scan], splits: dict[str, str], split: str, volumes_per_shard: int
) -> list[tuple[Scan, ...]]:
    """Deal the scans of a split to shards, in the order of a hash so that sites are mixed."""
    mine = [scan for scan in scans if splits[scan.subject] == split]
    mine.sort(key=lambda scan: hashlib.sha256(f"shards:{scan.subject}".encode()).digest())
    count = math.ceil(len(mine) / volumes_per_shard)
    return [tuple(mine[index::count]) for index in range(count)]


def _open_work_dir(work_dir: pathlib.Path, settings: dict[str, Any]) -> None:
    """Make the folder of the unfinished dataset, or go on in it where its settings are the same."""
    plan_file = work_dir / "plan.json"
    text = json.dumps(settings, sort_keys=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    if not plan_file.exists() or plan_file.read_text() != text:
        storage.remove_tree(work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        plan_file.write_text(text)
    for leftover in [*work_dir.glob("*.tmp"), *work_dir.glob(STRICT_FAILURE)]:
        leftover.unlink()


def _run_pipeline(plan: Plan, options: PipelineOptions) -> None:
    try:
        write_shards(plan.tasks, options)
    except Exception as error:
        failure = plan.work_dir / STRICT_FAILURE
        if failure.exists():
            raise UserError(f"--strict: {failure.read_text()}") from error
        if LOST in str(error):
            raise UserError(LOST) from error
        raise


@contextlib.contextmanager
def _progress(tasks: Sequence[ShardTask], records: pathlib.Path) -> Iterator[None]:
    """Show a bar of volumes while the shards' records appear in a folder, whoever writes them."""
    done = threading.Event()
    # Each look is a request where the folder is remote.
    interval = 3.0 if storage.is_remote(records) else 0.3
    total = sum(len(task.scans) for task in tasks)
    with tqdm(total=total, unit="volume", desc="preprocess", disable=None) as bar:

        def watch() -> None:
            waiting = list(tasks)
            while waiting:
                finished = done.wait(interval)
                try:
                    there = {path.name for path in records.glob("*.json")}
                # Whoever writes there meets it as well, and says so.
                except (OSError, UserError):
                    return
                for task in [t for t in waiting if t.record_path.name in there]:
                    bar.update(len(task.scans))
                    waiting.remove(task)
                if finished:
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _skipped(config: JobConfig, catalog: Catalog) -> list[dict[str, Any]]:
    """Files refused by name, and further ones of a person in a BIDS folder.

    They were never candidates, and do not count as rejected volumes.
    """
    return [
        {
            "path": os.path.relpath(error.path, config.source_dir),
            "reason": error.reason,
            "detail": error.detail,
        }
        for error in catalog.refused
    ]


def _check_rejects(config: JobConfig, plan: Plan, rejected: list[dict[str, Any]]) -> None:
    volumes = len(plan.catalog.scans)
    if len(rejected) == volumes:
        first = ScanError(rejected[0]["reason"], rejected[0]["path"], rejected[0]["detail"])
        raise UserError(f"all {volumes} volumes were refused, the first one: {first}")
    _check_splits(plan, rejected)
    if len(rejected) > config.max_rejected_fraction * volumes:
        report = plan.work_dir / "rejected.jsonl"
        publish.write_lines(report, rejected)
        raise UserError(
            f"{len(rejected)} of {volumes} volumes were refused, more than "
            f"--max_rejected_fraction={config.max_rejected_fraction}; nothing was published, "
            f"{report} tells why"
        )


def _check_splits(plan: Plan, rejected: list[dict[str, Any]]) -> None:
    planned = collections.Counter(plan.splits.values())
    refused = collections.Counter(entry["split"] for entry in rejected)
    empty = [split for split in SPLITS if 0 < planned[split] == refused[split]]
    if empty:
        first = next(entry for entry in rejected if entry["split"] == empty[0])
        raise UserError(
            f"every volume of the {empty[0]} split was refused, such as {first['path']}: "
            f"{first['detail']}; nothing was published: mend these files, or take them away"
        )


def _check_unchanged(config: JobConfig, plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the dataset that stands there, if these inputs would give the same again."""
    manifest = read_manifest(config.dataset_dir)
    refused = sum(manifest.get("rejected", {}).values())
    if refused and (config.strict or refused > config.max_rejected_fraction * len(plan.splits)):
        raise DatasetError(
            f"{config.dataset_dir}: was made leaving out {refused} refused volumes, which --strict "
            "or --max_rejected_fraction do not allow now; its rejected.jsonl names them"
        )
    paths = [scan.path for scan in plan.catalog.scans]
    digests = {}
    for path in tqdm(paths, unit="volume", desc="compare", disable=None):
        try:
            digest = git_blob_sha1(read_file(path))
        except OSError:
            digest = None
        digests[os.path.relpath(path, config.source_dir)] = digest
    if fingerprint(settings, digests) != manifest["fingerprint"]:
        raise DatasetError(
            f"{config.dataset_dir}: a dataset from other inputs or settings stands there; pass "
            "--overwrite to replace it, or choose another --data_dir or --config"
        )
    return manifest | {"unchanged": True}
