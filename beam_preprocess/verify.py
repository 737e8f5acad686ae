"""Is a dataset still what was made? `python -m beam_preprocess verify --help`."""

import dataclasses
import pathlib

from ixi_tfds import integrity, leakage, storage
from ixi_tfds.cohorts import CohortFlags, find_cohort
from ixi_tfds.documents import manifest
from ixi_tfds.errors import DatasetError, UserError
from ixi_tfds.system.commands import Command
from ixi_tfds.system.flags import flag

_USAGE = """
python -m beam_preprocess verify --data_dir=D [--config=C] [--repair --source_dir=S]

Reads every byte of the datasets in D, names each file that is damaged, missing, edited or of
another run, and says whether any person or slice is in two splits and how alike slices of
different splits are. --repair makes the damaged files again, byte for byte, and no others.
"""

_PAIRS_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """Which datasets to check, and what to repair them from."""

    data_dir: str = flag("Root of the datasets.")
    config: str | None = flag("Look at this config of the cohort only.", None)
    people: CohortFlags = dataclasses.field(default_factory=CohortFlags, kw_only=True)
    dataset: str | None = flag("Look at this one only, given as COHORT/CONFIG.", None)
    repair: bool = flag("Make damaged files again.", False)
    source_dir: str | None = flag("The volumes that the dataset was made from.", None)


def verify_all(config: VerifyConfig) -> None:
    """Check every dataset that is asked for, and print what was found.

    Raises:
      DatasetError: there is none, or one is not as it should be.
      UserError: one cannot be repaired.
    """
    bad = [folder for folder in _folders(config) if not verify(folder, config)]
    if bad:
        raise DatasetError(
            f"{', '.join(map(str, bad))}: not as it should be, for the reasons above"
            + ("" if config.repair else "; --repair --source_dir=S mends damaged files")
        )


def verify(folder: pathlib.Path, config: VerifyConfig) -> bool:
    """Check a dataset, repair it if that is asked for, and print what was found.

    Returns:
      Whether all is well now.

    Raises:
      UserError: it cannot be repaired.
    """
    try:
        made = manifest.read(folder)
    except DatasetError as error:
        print(error)
        return False
    damaged = integrity.find_damage(folder, made)
    for damage in damaged:
        print(f"{folder / damage.name}: {damage.what}")
    if made.digest is None:
        print(f"{folder}: of an earlier version, whose manifest cannot be checked itself")
    if damaged and config.repair:
        from beam_preprocess import repair

        repair.repair(folder, made, damaged, config.source_dir, config.people)
        damaged = integrity.find_damage(folder, made)
        print(f"{folder}: mended" if not damaged else f"{folder}: still damaged")
    if damaged:
        return False
    slices = leakage.read_slices(folder, made)
    leaks = leakage.find_leaks(slices)
    for leak in leaks:
        print(f"{folder}: {leak}")
    people = slices.table["subject"].nunique()
    print(
        f"{folder}: {len(made.shards)} shards as they were written, {len(slices.table):,} "
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
    # By either file: the other may be what is lost.
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
    summary="check that a dataset is what was made and has nobody in two splits; repair it",
    usage=_USAGE,
)
