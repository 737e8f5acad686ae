"""The command that checks and repairs datasets."""

import dataclasses
import pathlib

from beam_preprocess import leakage
from beam_preprocess.plan import JobConfig
from ixi_tfds import integrity
from ixi_tfds.cohorts import CohortFlags, NameFlags, find_cohort
from ixi_tfds.documents import manifest
from ixi_tfds.system import storage
from ixi_tfds.system.commands import Command
from ixi_tfds.system.errors import DatasetError, UserError
from ixi_tfds.system.flags import flag, like

_USAGE = """
python -m beam_preprocess verify --data_dir=D [--config=C] [--repair --source_dir=S]

Reads every byte of the datasets in D. Lists the files that are damaged, missing, edited or of
another run, the people and slices in more than one split, and the most similar slices of different
splits. --repair makes the damaged files again, byte for byte, and leaves the others.
"""

_PAIRS_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """The datasets to check, and the volumes to repair them from."""

    data_dir: str = like(JobConfig, "data_dir")
    config: str | None = flag("Check only this config of the cohort.", None)
    people: CohortFlags = dataclasses.field(default_factory=CohortFlags, kw_only=True)
    names: NameFlags = dataclasses.field(default_factory=NameFlags, kw_only=True)
    dataset: str | None = flag("Check only this dataset, as COHORT/CONFIG.", None)
    repair: bool = flag("Make damaged files again.", False)
    source_dir: str | None = flag("Folder of the volumes, for --repair.", None)


def verify_all(config: VerifyConfig) -> None:
    """Check datasets, repair them if asked, and print the results.

    Raises:
      DatasetError: no dataset was found, or one of them is damaged or has a leak between splits.
      UserError: a dataset cannot be repaired.
    """
    bad = [folder for folder in _folders(config) if not verify(folder, config)]
    if bad:
        raise DatasetError(
            f"{', '.join(map(str, bad))}: not as it should be, for the reasons above"
            + ("" if config.repair else "; --repair --source_dir=S repairs damaged files")
        )


def verify(folder: pathlib.Path, config: VerifyConfig) -> bool:
    """Check a dataset as `verify_all` does; return whether it has no damage and no leak now."""
    try:
        made = manifest.read(folder)
    except DatasetError as error:
        print(error)
        return False
    damaged = integrity.find_damage(folder, made)
    for damage in damaged:
        print(f"{folder / damage.name}: {damage.what}")
    if made.digest is None:
        print(f"{folder}: the manifest of this earlier version has no digest and cannot be checked")
    if damaged and config.repair:
        from beam_preprocess import repair

        repair.repair(folder, made, damaged, config.source_dir, config.people, config.names)
        damaged = integrity.find_damage(folder, made)
        print(f"{folder}: still damaged" if damaged else f"{folder}: repaired")
    if damaged:
        return False
    slices = leakage.read_slices(folder, made)
    leaks = leakage.find_leaks(slices)
    for leak in leaks:
        print(f"{folder}: {leak}")
    people = slices.table["subject"].nunique()
    print(
        f"{folder}: {len(made.shards)} undamaged shards, {len(slices.table):,} "
        f"slices of {people} people" + ("" if leaks else ", none of them in two splits")
    )
    _print_nearest(slices)
    return not leaks


def _print_nearest(slices: leakage.Slices) -> None:
    nearest = leakage.nearest_across_splits(slices)
    alike = int((nearest["distance"] < leakage.SUSPICIOUS).sum())
    print(
        f"  slices of two people in different splits that are closer than {leakage.SUSPICIOUS}, as "
        f"copies would be: {alike} pairs of people"
        + ("; are they one person? Closest:" if alike else ". Closest:")
    )
    for row in nearest.head(_PAIRS_SHOWN).itertuples():
        print(f"  {row.distance:.4f}  {row.key} ({row.split}) and {row.other} ({row.other_split})")


def _folders(config: VerifyConfig) -> list[pathlib.Path]:
    root = storage.at(config.data_dir)
    if config.config and config.dataset:
        raise UserError("--config and --dataset: give one of them")
    cohort = find_cohort(config.people.cohort)
    name = config.dataset or (f"{cohort.name}/{config.config}" if config.config else "*/*")
    # Either file shows a dataset, because the other one may be lost.
    found = {
        path.parent
        for file in ("manifest.json", "dataset_info.json")
        for path in root.glob(f"{name}/[0-9]*.[0-9]*.[0-9]*/{file}")
    }
    if not found:
        raise DatasetError(f"--data_dir={root}: has no dataset {name.replace('*/*', 'at all')}")
    return sorted(found)


COMMAND = Command(
    config=VerifyConfig,
    main=verify_all,
    summary="check datasets for damage and for people in two splits; repair them",
    usage=_USAGE,
)
