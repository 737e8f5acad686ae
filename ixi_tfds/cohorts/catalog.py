"""The scans in a source folder, their subjects, and the files that are refused by name.

Nothing here opens a volume. Preprocessing workers unpickle `Scan`, so this module imports neither
TensorFlow nor pandas.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import PurePath

from ixi_tfds.cohorts import bids
from ixi_tfds.cohorts.bids_filter import Filter
from ixi_tfds.cohorts.cohort import Cohort, People
from ixi_tfds.cohorts.participants import read_participants
from ixi_tfds.system import storage
from ixi_tfds.system.errors import ScanError, UserError

_EXTENSION = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[-_. ]+")
_T1_SUFFIX = re.compile(r"[-_. ](t1|t1w|t1n)$", re.IGNORECASE)
_BIDS_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+(?=_)")

# fmt: off
LESION_MASKS = {
    "lesion", "lesions", "mask", "label", "labels", "seg", "dseg", "segmentation", "roi",
}
"""Words, in lower case, in the names of masks that may mark the lesions of a volume."""

_LABEL_MAPS = LESION_MASKS | {
    "labelmap", "masks", "brainmask", "probseg", "aseg", "aparc", "parc", "wmparc", "parcellation",
    "atlas", "rois",
}
T1 = {"t1", "t1w", "t1n", "mprage"}
"""Words, in lower case, for T1, the only modality that is read."""

_OTHER_MODALITIES = {
    "t2", "t2w", "t2f", "t2star", "t2starw", "pd", "pdw", "pdt2", "mra", "angio", "tof", "dti",
    "dwi", "adc", "fa", "md", "flair", "bold", "fmri", "epi", "sbref", "asl", "cbf", "swi", "swan",
    "t1c", "t1ce", "t1gd", "t1map", "t2map", "phase", "magnitude", "fieldmap", "ct", "pet",
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class Scan:
    """One volume and its subject.

    Attributes:
      subject: the id that the cohort reads from the file name, such as `IXI002`. Where the cohort
        does not know the name: the `sub-...` that a BIDS name begins with, or the name without
        extension and without a trailing `_T1w` or `-T1`.
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
    """

    scans: tuple[Scan, ...]
    refused: tuple[ScanError, ...]
    warnings: tuple[str, ...] = ()


def find_scans(
    source_dir: str,
    cohort: Cohort,
    workbook: str | None = None,
    *,
    bids_filter: Filter | None = None,
) -> Catalog:
    """Find the scans in a folder, one for each subject, with sex, ethnicity and age.

    In a BIDS folder a scan has all volumes of its subject, in the order of `bids.by_person`; one of
    them counts, so that subjects with several sessions do not count more than others. Sex and age
    come from `participants.tsv`.

    Args:
      source_dir: the folder, as in `find_volumes`.
      cohort: reads file names and workbook; not used in a BIDS folder. The workbook describes only
        subjects whose file names are in the cohort's form.
      bids_filter: which volumes of a BIDS folder are asked for; empty or None for all.
      workbook: path of the cohort's workbook, where it is not in the folder.

    Raises:
      UserError: the folder does not exist or has no T1 volume; outside BIDS, a subject has two
        volumes or the workbook cannot be read; or a workbook was named for a BIDS folder.
    """
    if bids.is_bids(source_dir):
        if workbook is not None:
            raise UserError(
                f"--workbook={workbook}: {source_dir} is a BIDS folder, whose participants.tsv "
                "has sex and age; leave the flag out"
            )
        return _bids_catalog(source_dir, bids_filter or {})
    people = cohort.find_people(source_dir, workbook)
    paths, refused = find_volumes(source_dir, bids_filter)
    scans: dict[str, Scan] = {}
    for path in paths:
        scan = _scan_of(path, cohort, people)
        if scan.subject in scans:
            raise UserError(
                f"subject {scan.subject} has two volumes, {scans[scan.subject].path} and {path}: "
                "keep one volume for each subject, and a file name of its own for each subject"
            )
        scans[scan.subject] = scan
    in_order = tuple(scans[subject] for subject in sorted(scans))
    return Catalog(in_order, tuple(refused), people.warnings)


def find_volumes(
    source_dir: str, bids_filter: Filter | None = None
) -> tuple[list[str], list[ScanError]]:
    """The T1 volumes in a folder and the files that are refused by name, both ordered by path.

    In a BIDS folder the volumes are those of `bids.t1_volumes`, from all sessions. In any other
    they are `*.nii` and `*.nii.gz` (in any case) at any depth. Hidden files are ignored, and links
    to folders are not followed.

    Raises:
      UserError: the folder does not exist, has no T1 volume, or is no BIDS folder and a filter is
        given.
    """
    if not storage.at(source_dir).is_dir():
        raise UserError(f"{source_dir}: no such folder; name the one that holds the volumes")
    refused: list[ScanError] = []
    if bids.is_bids(source_dir):
        found, refused = bids.t1_volumes(source_dir, bids_filter)
    elif bids_filter:
        raise UserError(f"--bids_filter: {source_dir} is no BIDS folder; leave the flag out")
    else:
        found = sorted(_volumes_under(source_dir))
    paths = []
    for path in found:
        error = _refusal(path)
        if error is None:
            paths.append(path)
        else:
            refused.append(error)
    if not paths:
        also = f"; {len(refused)} refused by name, the first as {refused[0]}" if refused else ""
        raise UserError(f"{source_dir}: no T1 volumes (*.nii, *.nii.gz at any depth) in it{also}")
    refused.sort(key=lambda error: error.path)
    return paths, refused


def stem_of(path: str) -> str:
    """A volume's file name without `.nii` or `.nii.gz`."""
    return _EXTENSION.sub("", PurePath(path).name)


def without_t1(stem: str) -> str:
    """A file name without extension, without a trailing `-T1`, `_T1w` or `_T1n`."""
    return _T1_SUFFIX.sub("", stem)


def words_of(path: str) -> list[str]:
    """The words of a volume's file name, in lower case, split at `-`, `_`, `.` and spaces."""
    return [word.lower() for word in _SEPARATORS.split(stem_of(path))]


def _volumes_under(source_dir: str) -> Iterator[str]:

    def complain(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot list this folder ({error.strerror})")

    for folder, subfolders, names in storage.walk(storage.at(source_dir), onerror=complain):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and _EXTENSION.search(name):
                yield str(storage.at(folder, name))


def _refusal(path: str) -> ScanError | None:
    """The error for a file whose name says that it is not a T1 volume."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return ScanError("unreadable", ascii(path), "its name is not UTF-8; rename it")
    words = words_of(path)
    for word in words:
        if word in _LABEL_MAPS:
            return ScanError("label_map", path, f"{word!r} in its name says a label map or mask")
    # The last word on modality counts: PD_003_T1w is a T1 volume, space-T1w_bold is not.
    modalities = [word for word in words if word in T1 | _OTHER_MODALITIES]
    if modalities and modalities[-1] in _OTHER_MODALITIES:
        detail = f"{modalities[-1]!r} in its name says another modality than T1"
        return ScanError("other_modality", path, detail)
    return None


def _bids_catalog(source_dir: str, asked: Filter) -> Catalog:
    paths, left = find_volumes(source_dir, asked)
    people, warnings = read_participants(source_dir)
    scans = []
    for subject, (first, *others) in sorted(bids.by_person(paths, source_dir).items()):
        facts = people.get(subject, {})
        scans.append(
            Scan(subject=subject, site="", path=first, alternatives=tuple(others), **facts)
        )
    found = {scan.subject for scan in scans}
    unlisted = sorted(found - people.keys()) if people else []
    if unlisted:
        lacks = f"{len(unlisted)} subjects, {unlisted[0]} the first, have no row"
        warnings = (*warnings, f"{lacks} in participants.tsv: their sex and age will be missing")
    missing = bids.left_out(source_dir, found, left, asked)
    noisy = [bids.NOISY] if "unit1" in asked.get("suffix", ()) else []
    return Catalog(tuple(scans), tuple(left), (*missing, *noisy, *warnings))


def _scan_of(path: str, cohort: Cohort, people: People) -> Scan:
    stem = stem_of(path)
    read = cohort.read_name(stem)
    if read is None:
        # Sessions of one BIDS subject must not count as several people: splits are by person.
        bids_name = _BIDS_SUBJECT.match(stem)
        return Scan(subject=bids_name[0] if bids_name else without_t1(stem), site="", path=path)
    subject, site = read
    return Scan(subject=subject, site=site, path=path, **people.facts.get(subject, {}))
