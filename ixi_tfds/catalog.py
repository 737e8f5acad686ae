"""Which scans a source folder holds, whose they are, and which files are refused by name.

Nothing here opens a volume. `Scan` travels to small preprocessing workers, so this module imports
neither TensorFlow nor pandas.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ixi_tfds import bids, storage
from ixi_tfds.errors import ScanError, UserError

if TYPE_CHECKING:
    from ixi_tfds.demographics import Demographics

IXI_NAME = re.compile(r"IXI(?P<id>[0-9]{3})-(?P<site>Guys|HH|IOP)-(?P<number>[0-9]{4})-T1")
"""The form of a canonical name of IXI, without extension."""

_SITES = ("Guys", "HH", "IOP")
_IXI_DERIVED = re.compile(
    r"IXI(?P<id>[0-9]{3})-(?P<site>Guys|HH|IOP)-(?P<number>[0-9]{4})(?=$|[-_. ])", re.IGNORECASE
)
"""Begins the names of what was made from a volume of IXI, such as `IXI012-HH-1211-T1_brain`.

It shows the same person, and so has to be in the same split.
"""

_EXTENSION = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_SEPARATORS = re.compile(r"[-_. ]+")
_T1_SUFFIX = re.compile(r"[-_. ](t1|t1w|t1n)$", re.IGNORECASE)
_BIDS_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+(?=_)")

# fmt: off
_LABEL_MAPS = {
    "label", "labels", "labelmap", "mask", "masks", "brainmask", "seg", "dseg", "probseg",
    "segmentation", "lesion", "lesions", "aseg", "aparc", "parc", "wmparc", "parcellation", "atlas",
    "roi", "rois",
}
_T1 = {"t1", "t1w", "t1n", "mprage"}
_OTHER_MODALITIES = {
    "t2", "t2w", "t2f", "t2star", "t2starw", "pd", "pdw", "pdt2", "mra", "angio", "tof", "dti",
    "dwi", "adc", "fa", "md", "flair", "bold", "fmri", "epi", "sbref", "asl", "cbf", "swi", "swan",
    "t1c", "t1ce", "t1gd", "t1map", "t2map", "phase", "magnitude", "fieldmap", "ct", "pet",
}
# fmt: on


@dataclasses.dataclass(frozen=True)
class Scan:
    """One volume and the person in it.

    Attributes:
      subject: `IXI002`; for a file whose name does not begin as IXI's do, its name without
        extension and without a trailing `_T1w` or `-T1`, or the `sub-...` that a BIDS name begins
        with.
      site: `Guys`, `HH` or `IOP`; empty where unknown.
      path: where the volume lies.
      sex: one of `features.SEXES`.
      ethnicity: one of `features.ETHNICITIES`.
      age: in years, NaN where unknown.
    """

    subject: str
    site: str
    path: str
    sex: str = "unknown"
    ethnicity: str = "unknown"
    age: float = math.nan


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What a source folder holds.

    Attributes:
      scans: one for each subject, ordered by subject.
      refused: files that their names say are not T1 volumes, and in a BIDS folder all volumes of a
        person but the first; ordered by path.
      warnings: of a BIDS folder's `participants.tsv`, a sentence each.
    """

    scans: tuple[Scan, ...]
    refused: tuple[ScanError, ...]
    warnings: tuple[str, ...] = ()


def find_scans(source_dir: str, demographics: Demographics | None = None) -> Catalog:
    """Find the scans in a folder, one volume a person.

    In a BIDS folder that is the first of a person in the order of names, so that people with
    several sessions do not count more than others; sex and age are those of `participants.tsv`.

    Args:
      source_dir: the folder, as `find_volumes` takes it.
      demographics: of the cohort's workbook; looked up by the number in names of IXI's form.

    Raises:
      UserError: there is no such folder, no T1 volume in it, or (but in a BIDS folder) a subject
        stands in it twice.
    """
    paths, refused = find_volumes(source_dir)
    if bids.is_bids(source_dir):
        return _bids_catalog(source_dir, paths, refused)
    people = {} if demographics is None else demographics.table.to_dict("index")
    scans: dict[str, Scan] = {}
    for path in paths:
        scan = _scan_of(path, people)
        if scan.subject in scans:
            raise UserError(
                f"subject {scan.subject} stands twice, as {scans[scan.subject].path} and as {path}:"
                " keep one volume a person, in files whose names tell people apart"
            )
        scans[scan.subject] = scan
    return Catalog(tuple(scans[subject] for subject in sorted(scans)), tuple(refused))


def find_volumes(source_dir: str) -> tuple[list[str], list[ScanError]]:
    """The T1 volumes in a folder and the files that their names say are something else, by path.

    In a BIDS folder they are those of `bids.t1_volumes`, of all sessions. In any other they are
    `*.nii` and `*.nii.gz` (in any case) at any depth; hidden files are passed over, and links to
    folders not followed.

    Raises:
      UserError: there is no such folder, or no T1 volume in it.
    """
    if not storage.at(source_dir).is_dir():
        raise UserError(f"{source_dir}: no such folder; name the one that holds the volumes")
    is_bids = bids.is_bids(source_dir)
    found = bids.t1_volumes(source_dir) if is_bids else sorted(_volumes_under(source_dir))
    paths, refused = [], []
    for path in found:
        error = _refusal(path)
        if error is None:
            paths.append(path)
        else:
            refused.append(error)
    if not paths:
        also = f"; {len(refused)} refused by name, the first as {refused[0]}" if refused else ""
        raise UserError(f"{source_dir}: no T1 volumes (*.nii, *.nii.gz at any depth) in it{also}")
    return paths, refused


def stem_of(path: str) -> str:
    """A volume's file name without `.nii` or `.nii.gz`."""
    return _EXTENSION.sub("", PurePath(path).name)


def _volumes_under(source_dir: str) -> Iterator[str]:
    """Paths of all NIfTI files in a folder, at any depth, in no particular order."""

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
    tokens = [token.lower() for token in _SEPARATORS.split(stem_of(path))]
    for token in tokens:
        if token in _LABEL_MAPS:
            return ScanError("label_map", path, f"{token!r} in its name says a label map or mask")
    # The last word on modality counts: PD_003_T1w is a T1 volume, space-T1w_bold is not.
    modalities = [token for token in tokens if token in _T1 | _OTHER_MODALITIES]
    if modalities and modalities[-1] in _OTHER_MODALITIES:
        detail = f"{modalities[-1]!r} in its name says another modality than T1"
        return ScanError("other_modality", path, detail)
    return None


def _bids_catalog(source_dir: str, paths: list[str], refused: list[ScanError]) -> Catalog:
    people, warnings = bids.read_participants(source_dir)
    scans: dict[str, Scan] = {}
    others = list(refused)
    for path in paths:
        subject = bids.subject_of(path, source_dir)
        if subject in scans:
            first = os.path.relpath(scans[subject].path, source_dir)
            detail = f"is another volume of {subject}, of whom {first} is taken"
            others.append(ScanError("same_person", path, detail))
            continue
        scans[subject] = Scan(subject=subject, site="", path=path, **people.get(subject, {}))
    others.sort(key=lambda error: error.path)
    unlisted = sorted(scans.keys() - people.keys()) if people else []
    if unlisted:
        lacks = f"{len(unlisted)} subjects, {unlisted[0]} the first, have no row"
        warnings = (*warnings, f"{lacks} in participants.tsv: their sex and age will be missing")
    return Catalog(tuple(scans[name] for name in sorted(scans)), tuple(others), warnings)


def _scan_of(path: str, people: Mapping[Any, Mapping[Any, Any]]) -> Scan:
    stem = stem_of(path)
    match = _IXI_DERIVED.match(stem)
    if match is None:
        # Sessions of one BIDS subject must not count as several people: splits are by person.
        bids = _BIDS_SUBJECT.match(stem)
        return Scan(subject=bids[0] if bids else _T1_SUFFIX.sub("", stem), site="", path=path)
    person = people.get(int(match["id"]))
    known = {} if person is None else {key: person[key] for key in ("sex", "ethnicity", "age")}
    site = next(name for name in _SITES if name.lower() == match["site"].lower())
    return Scan(subject=f"IXI{match['id']}", site=site, path=path, **known)
