"""The scans in a source folder, their subjects, and the files that are refused by name.

Nothing here opens a volume. Preprocessing workers unpickle `Scan`, so this module imports neither
TensorFlow nor pandas.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ixi_tfds.cohorts import AS_NAMED, NameFlags, bids, subjects
from ixi_tfds.cohorts.bids_filter import Filter
from ixi_tfds.cohorts.cohort import Cohort, People
from ixi_tfds.cohorts.names import is_mask, refusal
from ixi_tfds.cohorts.participants import read_participants
from ixi_tfds.cohorts.walking import LINK, PassedOver, find_files
from ixi_tfds.formats import NIFTI, READ_FORMATS
from ixi_tfds.system import storage
from ixi_tfds.system.errors import ScanError, UserError


@dataclasses.dataclass(frozen=True)
class Scan:
    """One volume and its subject.

    Attributes:
      subject: the person, as `subjects.name_people` finds them: the id that the cohort reads from
        the file name, such as `IXI002`, or one of another rule.
      site: where the subject was scanned; empty where unknown.
      path: of the volume.
      sex: one of `features.SEXES`.
      ethnicity: one of `features.ETHNICITIES`.
      age: in years, NaN where unknown.
      alternatives: paths of other volumes of the subject, in the order to try where `path`, and the
        ones before, are refused when read.
    """

    subject: str
    site: str
    path: str
    sex: str = "unknown"
    ethnicity: str = "unknown"
    age: float = math.nan
    alternatives: tuple[str, ...] = ()

    @property
    def candidates(self) -> "tuple[Scan, ...]":
        """The scan with one path each, `path` first, in the order to try."""
        paths = (self.path, *self.alternatives)
        return tuple(dataclasses.replace(self, path=path, alternatives=()) for path in paths)


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The scans in a source folder, and the files that are refused.

    Attributes:
      scans: one for each subject, ordered by subject.
      refused: files whose names say that they are not T1 volumes, or are not asked for; ordered by
        path.
      warnings: about the workbook or a BIDS folder's `participants.tsv`, and people of a BIDS
        folder who are left out; one sentence each.
      told_apart: how people were told apart, with examples, a line for each rule.
      passed_over: images of other formats and the like that are not read.
      links: paths of links to folders that were followed.
    """

    scans: tuple[Scan, ...]
    refused: tuple[ScanError, ...]
    warnings: tuple[str, ...] = ()
    told_apart: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    links: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Volumes:
    """The volumes in a folder and the files that are not read.

    Attributes:
      paths: of the T1 volumes, sorted.
      refused: files that are refused by name, ordered by path.
      passed_over: images of other formats and the like, ordered by folder.
      links: paths of links to folders that were followed.
    """

    paths: list[str]
    refused: list[ScanError]
    passed_over: tuple[PassedOver, ...] = ()
    links: tuple[str, ...] = ()


def find_scans(
    source_dir: str,
    cohort: Cohort,
    workbook: str | None = None,
    *,
    bids_filter: Filter | None = None,
    names: NameFlags = AS_NAMED,
    but_masks: bool = False,
) -> Catalog:
    """Find the scans in a folder, one for each subject, with sex, ethnicity and age.

    A scan has all volumes of its subject, in the order to try; one of them counts, so that subjects
    with several sessions do not count more than others. In a BIDS folder the order is that of
    `bids.by_person`, and sex and age come from `participants.tsv`. In others, `subjects` says who
    the person is, and the order is by name.

    Args:
      source_dir: the folder, as in `find_volumes`.
      cohort: reads file names and workbook; not used in a BIDS folder. The workbook describes only
        subjects whose file names are in the cohort's form, or whom a flag names so.
      workbook: path of the cohort's workbook, where it is not in the folder.
      bids_filter: which volumes of a BIDS folder are asked for; empty or None for all.
      names: who is the person in a file, and whether names are believed.
      but_masks: whether volumes named as masks are refused even if names are not believed.

    Raises:
      UserError: the folder does not exist or has no T1 volume; a flag does not fit the folder; the
        workbook cannot be read; or it is not certain who the person in a file is.
    """
    if bids.is_bids(source_dir):
        _check_flags_of_bids(source_dir, workbook, names)
        catalog = _bids_catalog(source_dir, bids_filter or {}, names.allow_names)
        pairs = [(_below(scan.path, source_dir), scan.subject) for scan in catalog.scans[:3]]
        shown = "; ".join(f"{file} -> {person}" for file, person in pairs)
        told = f"by the folders of BIDS ({len(catalog.scans)} people): {shown}"
        return dataclasses.replace(catalog, told_apart=(told,))
    people = cohort.find_people(source_dir, workbook)
    found = look(source_dir, bids_filter, names.allow_names, but_masks)
    files = {path: _below(path, source_dir) for path in found.paths}
    named, left, warnings = subjects.name_people(files, cohort, names)
    by_person = subjects.by_person(named)
    return Catalog(
        scans=tuple(_scan_of(by_person[person], people) for person in sorted(by_person)),
        refused=tuple(sorted([*found.refused, *left], key=lambda error: error.path)),
        warnings=(*warnings, *people.warnings),
        told_apart=subjects.told_apart(named),
        passed_over=found.passed_over,
        links=found.links,
    )


def find_volumes(
    source_dir: str, bids_filter: Filter | None = None, *, allow_names: bool = False
) -> tuple[list[str], list[ScanError]]:
    """The T1 volumes in a folder and the files that are refused by name, both ordered by path.

    Arguments and errors are those of `look`.
    """
    found = look(source_dir, bids_filter, allow_names)
    return found.paths, found.refused


def look(
    source_dir: str,
    bids_filter: Filter | None = None,
    allow_names: bool = False,
    but_masks: bool = False,
) -> Volumes:
    """The T1 volumes in a folder, and the files there that are not read.

    In a BIDS folder the volumes are those of `bids.t1_volumes`, from all sessions, and images that
    are no NIfTI are counted outside of `derivatives/` and `sourcedata/`. In any other folder
    they are those of `walking.find_files`. `allow_names` takes them whatever their names say, with
    `but_masks` all except those named as masks.

    Raises:
      UserError: the folder does not exist, has no T1 volume, has a folder that cannot be listed, or
        is no BIDS folder and a filter is given.
    """
    if not storage.at(source_dir).is_dir():
        raise UserError(f"{source_dir}: no such folder; name the one that holds the volumes")
    asked = bids_filter or {}
    if bids.is_bids(source_dir):
        found = _look_in_bids(source_dir, asked)
    elif asked:
        raise UserError(f"--bids_filter: {source_dir} is no BIDS folder; leave the flag out")
    else:
        files = find_files(source_dir)
        found = Volumes([*files.volumes], [], files.passed_over, files.links)
    paths, refused = [], [*found.refused]
    for path in found.paths:
        allowed = allow_names and not (but_masks and is_mask(path))
        error = refusal(path, allow_names=allowed, agents="ceagent" in asked)
        if error is None:
            paths.append(path)
        else:
            refused.append(error)
    refused.sort(key=lambda error: error.path)
    looked = dataclasses.replace(found, paths=paths, refused=refused)
    if not paths:
        raise UserError(_nothing(source_dir, looked))
    return looked


def _look_in_bids(source_dir: str, asked: Filter) -> Volumes:
    """The volumes of a BIDS folder that the filter asks for, and the images that are not read."""
    files = find_files(source_dir, (NIFTI,), bids.NOT_READ)
    try:
        paths, refused = bids.t1_volumes(source_dir, asked)
    except UserError as error:
        raise UserError("; ".join([str(error), *_kinds(files.passed_over)])) from error
    # In BIDS each link of a subject is followed: two names are two people.
    left = [one.folder for one in files.passed_over if one.kind == LINK]
    read = {link for link in left if any(path.startswith(f"{link}/") for path in paths)}
    passed = tuple(one for one in files.passed_over if one.folder not in read)
    return Volumes(paths, refused, passed, tuple(sorted({*files.links, *read})))


def _kinds(passed_over: Iterable[PassedOver]) -> list[str]:
    """An example of each kind of images that are not read, in words."""
    kinds = {one.kind: one for one in passed_over}
    return [f"{one.folder}: {one.detail}" for one in kinds.values()]


def _nothing(source_dir: str, looked: Volumes) -> str:
    """The message for a folder without volumes: all reasons, counted."""
    text = f"{source_dir}: no T1 volumes ({READ_FORMATS}, at any depth) in it"
    if looked.refused:
        counts = collections.Counter(error.reason for error in looked.refused)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        text += f"; {len(looked.refused)} refused by name, {reasons}, such as {looked.refused[0]}"
    return "; ".join([text, *_kinds(looked.passed_over)])


def _check_flags_of_bids(source_dir: str, workbook: str | None, names: NameFlags) -> None:
    if workbook is not None:
        raise UserError(
            f"--workbook={workbook}: {source_dir} is a BIDS folder, whose participants.tsv "
            "has sex and age; leave the flag out"
        )
    if names.subjects or names.subject_pattern:
        raise UserError(
            f"--subjects, --subject_pattern: {source_dir} is a BIDS folder, whose folders name "
            "the people; leave the flag out"
        )


def _bids_catalog(source_dir: str, asked: Filter, allow_names: bool) -> Catalog:
    looked = look(source_dir, asked, allow_names)
    people, warnings = read_participants(source_dir)
    scans = []
    for subject, (first, *others) in sorted(bids.by_person(looked.paths, source_dir).items()):
        facts = people.get(subject, {})
        scans.append(
            Scan(subject=subject, site="", path=first, alternatives=tuple(others), **facts)
        )
    found = {scan.subject for scan in scans}
    unlisted = sorted(found - people.keys()) if people else []
    if unlisted:
        lacks = f"{len(unlisted)} subjects, {unlisted[0]} the first, have no row"
        warnings = (*warnings, f"{lacks} in participants.tsv: their sex and age will be missing")
    missing = bids.left_out(source_dir, found, looked.refused, asked)
    noisy = [bids.NOISY] if "unit1" in asked.get("suffix", ()) else []
    return Catalog(
        scans=tuple(scans),
        refused=tuple(looked.refused),
        warnings=(*missing, *noisy, *warnings),
        passed_over=looked.passed_over,
        links=looked.links,
    )


def _scan_of(scans: Sequence[subjects.Named], people: People) -> Scan:
    """The scan of a person, of whom these are the volumes, in the order to try."""
    first, *others = scans
    facts: Mapping[str, Any] = people.facts.get(first.person, {}) if first.in_cohort else {}
    stated = {name: value for one in reversed(scans) for name, value in one.facts.items()}
    return Scan(
        subject=first.person,
        site=first.site,
        path=first.path,
        alternatives=tuple(one.path for one in others),
        **{**facts, **stated},
    )


def _below(path: str, source_dir: str) -> str:
    return storage.at(path).relative_to(storage.at(source_dir)).as_posix()
