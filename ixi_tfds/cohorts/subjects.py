"""Who is the person in each scan, the promise on which every split rests.

Flags say it (`--subjects`, `--subject_pattern`), or else the names: those of the cohort, those of
public datasets (`CONVENTIONS`), folders of persons, and last the file name itself. Where names
leave open whether files show one person or several, nothing is guessed.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ixi_tfds.cohorts import NameFlags, marks, pattern_hint, person_folders, subject_table
from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.names import without_t1
from ixi_tfds.formats import stem_of
from ixi_tfds.system.errors import ScanError, UserError

WHICH_FLAG = (
    "say who is who by --subjects=FILE (columns file, person) or --subject_pattern=REGEX "
    "(with (?P<person>...))"
)
"""What to do where names leave open who the person is."""

_MOST_CHANNELS = 9
"""A name with more numbers than this has people behind it, not nnU-Net's channels."""


@dataclasses.dataclass(frozen=True)
class Convention:
    """A way to name files in which the person is certain.

    Attributes:
      name: for people.
      pattern: searched in the path below the source folder, without extension. Its group `person`
        is the subject.
      example: a file of that form, and its subject.
      prefix: is put before the person.
    """

    name: str
    pattern: re.Pattern[str]
    example: tuple[str, str]
    prefix: str = ""


def _convention(name: str, pattern: str, file: str, person: str, prefix: str = "") -> Convention:
    return Convention(name, re.compile(rf"(?:^|/){pattern}"), (file, person), prefix)


CONVENTIONS = (
    _convention("OASIS-1", r"(?:[^/]*_)?(?P<person>OAS1_[0-9]{4})_MR[0-9]+(?![0-9])",
                "OAS1_0003_MR1_mpr-1_anon.nii.gz", "OAS1_0003"),
    _convention("OASIS-2", r"(?:[^/]*_)?(?P<person>OAS2_[0-9]{4})_MR[0-9]+(?![0-9])",
                "OAS2_0001_MR1/RAW/mpr-1.nii.gz", "OAS2_0001"),
    # With sub-, so that downloads in both forms show the same person.
    _convention("OASIS-3", r"(?:sub-)?(?P<person>OAS[34][0-9]{4})_(?:MR|sess?)[-_]d[0-9]{4}",
                "OAS30001_MR_d0129.nii.gz", "sub-OAS30001", "sub-"),
    _convention("ADNI", r"(?:[^/]*_)?(?P<person>[0-9]{3}_S_[0-9]{4})(?![0-9])",
                "ADNI_002_S_0295_MR_MPRAGE_br_raw_2006_1_S13408_I13722.nii", "002_S_0295"),
    _convention("LONI", r"(?P<person>(?:PPMI|AIBL|ABIDE|ABIDEII)_[0-9]+)_MRI?_",
                "PPMI_3000_MR_MPRAGE_br_raw_2011_1_S12_I34.nii", "PPMI_3000"),
    _convention("BraTS", r"(?P<person>BraTS-[A-Za-z]+-[0-9]{5})-[0-9]{3}(?![0-9])",
                "BraTS-GLI-00000-000-t1n.nii.gz", "BraTS-GLI-00000"),
    _convention("UPENN-GBM", r"(?P<person>UPENN-GBM-[0-9]{5})_[0-9]{2}(?![0-9])",
                "UPENN-GBM-00001_11_T1.nii.gz", "UPENN-GBM-00001"),
    _convention("HCP", r"(?P<person>[0-9]{6})_(?:V[0-9]_)?[37]T_T1w",
                "100307_3T_T1w_MPR1.nii.gz", "100307"),
    _convention("ISBI 2015", r"(?P<person>(?:training|test)[0-9]{2})_[0-9]{2}_mprage",
                "training01_02_mprage_pp.nii", "training01"),
    _convention("FreeSurfer", r"(?:[^/]*\.long\.)?(?P<person>[^/]+)/mri/(?:orig/)?[^/]+$",
                "bert/mri/T1.nii.gz", "bert"),
    _convention("BIDS names", r"(?P<person>sub-[A-Za-z0-9]+)_[^/]*$",
                "sub-01_ses-2_T1w.nii.gz", "sub-01"),
)  # fmt: skip
"""Names of public datasets, in the order in which they are tried."""

NNUNET = "nnU-Net"
FOLDER = "a folder for each person"
PLAIN = "the file name"
_MAY_BE_ONE = {NNUNET, FOLDER, PLAIN, "FreeSurfer"}
"""Rules by which two visits of a person may have come out as two people."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A file and the person in it.

    Attributes:
      path: of the file.
      file: the same below the source folder.
      person: the subject.
      rule: what told the person.
      site: empty where unknown.
      session: orders the scans of a person; empty where unknown.
      facts: sex and age from a table.
      certain: whether two files of this person are two scans of one person.
      in_cohort: whether the person is one of the cohort, whom its workbook may describe.
    """

    path: str
    file: str
    person: str
    rule: str
    site: str = ""
    session: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    certain: bool = True
    in_cohort: bool = False


def name_people(
    files: Mapping[str, str], cohort: Cohort, flags: NameFlags
) -> tuple[list[Named], list[ScanError], list[str]]:
    """The person in each file.

    Args:
      files: paths below the source folder, with `/`, by path.
      cohort: reads file names of its own.
      flags: `subjects` or `subject_pattern` decide alone if given.

    Returns:
      The files of persons, ordered by path; the files that a flag names no person for; warnings
      about the table.

    Raises:
      UserError: a flag is wrong or names nobody, or it cannot be told whether files show one person
        or several.
    """
    if flags.subjects and flags.subject_pattern:
        raise UserError("--subjects and --subject_pattern: give one of them")
    if flags.subjects:
        return _by_table(files, flags.subjects)
    if flags.subject_pattern:
        return _by_pattern(files, flags.subject_pattern)
    return _by_names(files, cohort), [], []


def by_person(named: Iterable[Named]) -> dict[str, list[Named]]:
    """The scans of each person, ordered by session and path, numbers by size.

    Raises:
      UserError: two files have the same person, and it is not certain that they show one.
    """
    people: dict[str, list[Named]] = {}
    for one in sorted(named, key=lambda one: (_natural(one.session), _natural(one.path))):
        people.setdefault(one.person, []).append(one)
    for person, scans in people.items():
        if len(scans) > 1 and not all(one.certain for one in scans):
            raise UserError(
                f"subject {person} has two volumes, {scans[0].path} and {scans[1].path}: keep one "
                "volume for each subject, and a file name of its own for each subject, or "
                f"{WHICH_FLAG}"
            )
    return people


def told_apart(named: Iterable[Named]) -> tuple[str, ...]:
    """How people were told apart: a line for each rule, with three examples."""
    rules: dict[str, list[Named]] = {}
    for one in named:
        rules.setdefault(one.rule, []).append(one)
    lines = []
    for rule, mine in sorted(rules.items(), key=lambda item: -len(item[1])):
        shown = "; ".join(f"{one.file} -> {one.person}" for one in mine[:3])
        lines.append(f"by {rule} ({len(mine)} file{'s' if len(mine) > 1 else ''}): {shown}")
    return tuple(lines)


def _by_table(
    files: Mapping[str, str], path_of_table: str
) -> tuple[list[Named], list[ScanError], list[str]]:
    table = subject_table.read_table(path_of_table)
    where = f"--subjects={path_of_table}"
    named, left, used = [], [], set()
    for path, file in sorted(files.items()):
        row = subject_table.row_of(table, file)
        if row is None:
            left.append(ScanError("no_person", path, f"no row of {where} names it"))
            continue
        used.add(row.line)
        rule = "the table of --subjects"
        one = Named(path, file, row.person, rule, row.site, row.session, row.facts, in_cohort=True)
        named.append(one)
    idle = [row for row in table.rows if row.line not in used]
    if not named:
        raise UserError(f"{where}: none of its {len(table.rows)} rows fits a volume")
    warnings = [
        f"{where}: {len(idle)} of {len(table.rows)} rows fit no volume, the first in line "
        f"{row.line}, {row.file}"
        for row in idle[:1]
    ]
    return named, left, warnings


def _by_pattern(
    files: Mapping[str, str], pattern: str
) -> tuple[list[Named], list[ScanError], list[str]]:
    where = f"--subject_pattern={pattern}"
    try:
        regex = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{where}: is no regular expression ({error})") from error
    if "person" not in regex.groupindex:
        raise UserError(f"{where}: has no group (?P<person>...), which matches the person's name")
    named, left = [], []
    for path, file in sorted(files.items()):
        match = regex.search(_bare(file) if "/" in pattern else stem_of(file))
        said = match.groupdict() if match else {}
        if not said.get("person"):
            left.append(ScanError("no_person", path, f"{where} finds no person in its name"))
            continue
        site, session = said.get("site") or "", said.get("session") or ""
        rule = "--subject_pattern"
        named.append(Named(path, file, said["person"], rule, site, session, in_cohort=True))
    if not named:
        raise UserError(f"{where}: fits none of {len(files)} files, such as {min(files.values())}")
    return named, left, []


def _by_names(files: Mapping[str, str], cohort: Cohort) -> list[Named]:
    known = {path: _known(path, file, cohort) for path, file in files.items()}
    named = {path: one for path, one in known.items() if one is not None}
    bare = {path: _bare(file) for path, file in files.items() if path not in named}
    folders = person_folders.find(bare, WHICH_FLAG)
    person_folders.check_parents(set(folders.values()), WHICH_FLAG)
    for path, folder in folders.items():
        named[path] = Named(path, files[path], _person_of_folder(folder), FOLDER)
    cases = _cases({path: file for path, file in files.items() if path not in named})
    for path, file in files.items():
        if path in cases:
            named[path] = Named(path, file, cases[path], NNUNET)
        elif path not in named:
            person = without_t1(stem_of(path))
            named[path] = Named(path, file, person, PLAIN, certain=False)
    in_order = [named[path] for path in sorted(files)]
    _check_marks(in_order)
    return in_order


def _known(path: str, file: str, cohort: Cohort) -> Named | None:
    """The person in a file by the names of the cohort or of public datasets."""
    for part in (stem_of(file), *reversed(PurePosixPath(file).parent.parts)):
        read = cohort.read_name(part)
        if read is not None:
            rule = f"{cohort.title}'s names"
            return Named(path, file, read[0], rule, read[1], certain=False, in_cohort=True)
    bare = _bare(file)
    for convention in CONVENTIONS:
        match = convention.pattern.search(bare)
        if match:
            return Named(path, file, convention.prefix + match["person"], convention.name)
    return None


def _person_of_folder(folder: str) -> str:
    name = PurePosixPath(folder).name
    bids = re.match(r"sub-[A-Za-z0-9]+", name)
    return bids[0] if bids else without_t1(name)


def _cases(files: Mapping[str, str]) -> dict[str, str]:
    """The case, by path, of files named as nnU-Net names channel 0000 of its cases.

    Raises:
      UserError: a case has other channels too, of which it is not known which is T1.
    """
    twice = person_folders.repeated([stem_of(file) for file in files.values()])
    channels: dict[str, dict[str, str]] = {}
    for path, file in sorted(files.items()):
        match = re.fullmatch(r"(.+)_([0-9]{4})", stem_of(file))
        if match and stem_of(file).lower() not in twice:
            channels.setdefault(match[1], {})[match[2]] = path
    cases = {}
    for case, paths in channels.items():
        if "0000" not in paths or len(paths) > _MOST_CHANNELS:
            continue
        if len(paths) > 1:
            first, second = sorted(paths.values())[:2]
            raise UserError(
                f"{first} and {second}: are channels of one case in nnU-Net's names; say which is "
                "T1, for channel 0000 by --subject_pattern='(?P<person>.+)_0000$'; if they are "
                "people, say so by --subject_pattern='(?P<person>.+)', or give --subjects=FILE"
            )
        cases[paths["0000"]] = case
    return cases


def _check_marks(named: Sequence[Named]) -> None:
    """Refuse two people whose names differ only in marks such as `ses-1` and `ses-2`."""
    first: dict[str, Named] = {}
    for one in named:
        if one.rule not in _MAY_BE_ONE:
            continue
        other = first.setdefault(marks.identity(one.person), one)
        if other.person != one.person:
            words = pattern_hint.marks_between(other.person, one.person)
            said = " and ".join(map(repr, words)) or "capital letters"
            pattern = _pattern_without(words, named)
            todo = f"if so, pass --subject_pattern='{pattern}'; else " if pattern else ""
            raise UserError(
                f"{other.path} and {one.path}: their names differ only in {said}, a mark of visit, "
                f"scan, run, echo or processing, so they may be one person; {todo}{WHICH_FLAG}"
            )


def _pattern_without(words: list[str], named: Sequence[Named]) -> str | None:
    """The pattern that takes names that differ in marks as one person; None if none does."""
    files = {one.path: one.file for one in named}
    people = {
        one.path: marks.identity(one.person) if one.rule in _MAY_BE_ONE else one.person
        for one in named
    }

    def name(pattern: str) -> dict[str, str]:
        try:
            return {one.path: one.person for one in _by_pattern(files, pattern)[0]}
        except UserError:
            return {}

    return pattern_hint.find_pattern(words, people, name)


def _bare(file: str) -> str:
    """A path below the source folder without extension, with `/`."""
    return str(PurePosixPath(file).with_name(stem_of(file)))


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in texts by size."""
    parts = re.split(r"([0-9]+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
