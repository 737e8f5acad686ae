"""The command that checks and repairs datasets."""

from __future__ import annotations

import dataclasses
import pathlib

from etils import epy

from beam_preprocess.plan import JobConfig
from ixi_tfds import integrity
from ixi_tfds.cohorts import CohortFlags, NameFlags, find_cohort
from ixi_tfds.documents import manifest
from ixi_tfds.documents.manifest import Manifest
from ixi_tfds.system import storage
from ixi_tfds.system.commands import Command
from ixi_tfds.system.errors import DatasetError, UserError
from ixi_tfds.system.flags import flag, like

with epy.lazy_imports():
    from beam_preprocess import alike, leakage

_USAGE = """
python -m beam_preprocess verify --data_dir=D [--config=C]
  [--repair --source_dir=S [--brain_masks=M]]

Reads every byte of the datasets in D. Lists the files that are damaged, missing, edited or of
another run, the people and slices in more than one split, and the people of different splits whose
heads look like one. --repair makes the damaged files again, byte for byte, and leaves the others.
"""

_PAIRS_SHOWN = 3
_MOST_SHOWN = 20
_NOT_KNOWN = (
    "not known: whether scans of other contrasts, or with and without the skull, are of one person"
)
_APART = (
    "give the scans of one person one name, or leave one out, and make the dataset again with "
    "--overwrite"
)


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """The datasets to check, and the volumes to repair them from."""

    data_dir: str = like(JobConfig, "data_dir")
    config: str | None = flag("Check only this config of the cohort.", None)
    people: CohortFlags = dataclasses.field(default_factory=CohortFlags, kw_only=True)
    names: NameFlags = dataclasses.field(default_factory=NameFlags, kw_only=True)
    dataset: str | None = flag("Check only this dataset, as COHORT/CONFIG.", None)
    repair: bool = flag("Make damaged files again.", False)
    source_dir: str | None = flag("Folder of the volumes, for --repair.", None, path=True)
    brain_masks: str | None = flag("Folder of the brain masks, for --repair.", None, path=True)
    strict: bool = flag("Fail where heads of different splits look like one.", False)


def verify_all(config: VerifyConfig) -> None:
    """Check datasets, repair them if asked, and print the results.

    Raises:
      DatasetError: no dataset was found, or one of them is damaged or has a leak between splits.
      UserError: a dataset cannot be repaired.
    """
    faults = {folder: fault for folder in _folders(config) if (fault := verify(folder, config))}
    if faults:
        advice = ""
        if "damage" in faults.values() and not config.repair:
            advice += "; --repair --source_dir=S repairs damaged files"
        if "leak" in faults.values():
            advice += f"; {_APART}"
        raise DatasetError(
            f"{', '.join(map(str, faults))}: not as it should be, for the reasons above{advice}"
        )


def verify(folder: pathlib.Path, config: VerifyConfig) -> str:
    """Check a dataset as `verify_all` does; return "damage", "leak", or "" where all is well."""
    try:
        made = manifest.read(folder)
    except DatasetError as error:
        print(error)
        return "damage"
    damaged = integrity.find_damage(folder, made)
    for damage in damaged:
        print(f"{folder / damage.name}: {damage.what}")
    if made.digest is None:
        print(f"{folder}: the manifest of this earlier version has no digest and cannot be checked")
    if damaged and config.repair:
        from beam_preprocess import repair

        repair.repair(
            folder,
            made,
            damaged,
            config.source_dir,
            config.people,
            config.names,
            brain_masks=config.brain_masks,
        )
        damaged = integrity.find_damage(folder, made)
        print(f"{folder}: still damaged" if damaged else f"{folder}: repaired")
    if damaged:
        return "damage"
    return "leak" if _print_leaks(folder, made, strict=config.strict) else ""


def _print_leaks(folder: pathlib.Path, made: Manifest, *, strict: bool) -> bool:
    """Print what an undamaged dataset holds and what of it is in two splits; return if any is.

    Heads that look like one count only if `strict`.
    """
    slices = leakage.read_slices(folder, made)
    leaks = leakage.find_leaks(slices)
    for leak in leaks:
        print(f"{folder}: {leak}")
    people = slices.table["subject"].nunique()
    print(
        f"{folder}: {len(made.shards)} undamaged shards, {len(slices.table):,} "
        f"slices of {people} people" + ("" if leaks else ", none of them in two splits by name")
    )
    similar = _print_alike(slices, named=bool(leaks))
    print(f"  {_NOT_KNOWN}")
    return bool(leaks or (similar and strict))


def _print_alike(slices: leakage.Slices, *, named: bool) -> int:
    """Print the people of different splits whose heads are most alike; return how many are alike.

    `named` says whether leaks were printed before, whose people are not compared.
    """
    nearest = leakage.alike_across_splits(slices)
    if nearest.empty:
        others = " but those named above" if named else ""
        print(f"  heads were not compared: there are no two people of different splits{others}")
        return 0
    pairs = int((nearest["likeness"] >= alike.ALIKE).sum())
    print(
        f"  people of different splits whose heads are at least {alike.ALIKE} alike, as two scans "
        f"of one head would be: {pairs} pairs of people"
        + ("; are they one person? Closest:" if pairs else ". Closest:")
    )
    for row in nearest.head(max(_PAIRS_SHOWN, min(pairs, _MOST_SHOWN))).itertuples():
        pair = f"{row.subject} ({row.split}) and {row.other} ({row.other_split})"
        print(f"  {row.likeness:.4f}  {pair}")
    if pairs:
        print(f"  if so, {_APART}")
    return pairs


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
