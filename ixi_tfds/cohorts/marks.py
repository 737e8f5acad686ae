"""What is left of a name without the words that say nothing about the person.

These are marks of visits, scans, runs and echoes (`ses-1`, `visit2`, `MR1`, `mpr-1`, `run-02`,
`echo1`), words for T1, and words for processing (`brain`, `norm`, `MNI`).
"""

import re

from ixi_tfds.cohorts.names import T1

_SEPARATORS = re.compile(r"[-_. ]+")
_ENTITIES = re.compile(
    r"(?:^|(?<=[-_. ]))(?:ses|session|visit|run|echo|acq|rec)-[a-z0-9]+(?=$|[-_. ])"
)
_MARKS = re.compile(r" (?:ses|sess|session|visit|run|echo|mpr|acq|tp|timepoint) ?[0-9]{1,4}(?= )")
"""Marks of a visit, run or echo. Nothing else has such names."""

_WEAK_MARKS = re.compile(
    r" (?:(?:scan|study|exam|series|wave|day|week|month|year|time|fu|rep|repeat|v|e) ?[0-9]{1,2}"
    r"|mri?[0-9]{1,2}|baseline|bl|follow ?up|rescan|retest|repeat|pre|post|preop|postop"
    r"|(?:19|20)[0-9]{2} ?(?:0[1-9]|1[0-2]) ?(?:[0-2][0-9]|3[01]))(?= )"
)
"""Marks of a visit or scan if something else in the name says the person: `scan1` may be one."""

_SMALL_NUMBERS = re.compile(r" [0-9]{1,2}(?= )")

# fmt: off
_SAY_NOTHING = T1 | {
    "3dt1", "mpr", "mp2rage", "mri", "mr", "anat", "anatomical", "structural", "struct", "nifti",
    "raw", "orig", "original", "rawavg", "norm", "normalized", "nu", "brain", "bet", "stripped",
    "skullstripped", "masked", "n3", "n4", "bfc", "bias", "biascorrected", "corrected", "anon",
    "deface", "defaced", "reg", "registered", "coreg", "mni", "acpc", "dc", "restore", "restored",
    "3d", "sag", "sagittal", "ax", "axial", "cor", "coronal", "tra", "iso", "hires", "highres",
    "conformed", "conform", "resampled", "cropped", "crop", "pp", "preproc", "preprocessed", "gfc",
    "tfe", "tfl", "fl3d", "1mm", "2mm",
}
_FOLDERS = {
    "nii", "dicom", "dicoms", "images", "imagestr", "imagests", "image", "scans", "data", "volumes",
    "t1s", "heads", "unprocessed", "3t", "7t", "resources", "files", "input", "sourcedata",
}
# fmt: on


def core(name: str, *, weak: bool = False, small_numbers: bool = False) -> str:
    """The words of a name that may say who the person is, in lower case, separated by spaces.

    Args:
      name: of a file without extension, or of a folder.
      weak: whether marks that may also be names, such as `scan1` and dates, are left out too.
      small_numbers: whether numbers of one or two digits are left out too.
    """
    text = f" {' '.join(_SEPARATORS.split(_ENTITIES.sub('', name.lower())))} "
    text = _MARKS.sub("", text)
    if weak:
        text = _WEAK_MARKS.sub("", text)
    if small_numbers:
        text = _SMALL_NUMBERS.sub("", text)
    return " ".join(word for word in text.split() if word not in _SAY_NOTHING)


def identity(name: str) -> str:
    """What two names of one person have in common where they differ in marks only."""
    return core(name, weak=True) or core(name)


def names_a_person(folder: str, *, weak: bool) -> bool:
    """Whether a folder's name may be that of a person: it has words beside marks and the like."""
    return folder.lower() not in _FOLDERS and bool(core(folder, weak=weak))
