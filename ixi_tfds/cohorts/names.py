"""What a file name says: whose head it is not, and that it is no plain T1 volume.

Nothing here opens a file.
"""

import re
from pathlib import PurePath

from ixi_tfds.formats import stem_of
from ixi_tfds.system.errors import ScanError

_SEPARATORS = re.compile(r"[-_. ]+")
_T1_SUFFIX = re.compile(r"[-_. ](t1|t1w|t1n)$", re.IGNORECASE)

# fmt: off
LESION_MASKS = {
    "lesion", "lesions", "lesionmask", "lesionmasks", "mask", "label", "labels", "seg", "dseg",
    "segmentation", "roi",
}
"""Words, in lower case, in the names of masks that may mark the lesions of a volume."""

_LABEL_MAPS = LESION_MASKS | {
    "labelmap", "masks", "brainmask", "probseg", "aseg", "aparc", "parc", "wmparc", "parcellation",
    "atlas", "rois", "segm", "fseg", "segs", "segmentations", "labelmaps", "pveseg", "defacemask",
    "otmulticlass",
}
"""Words that say a label map wherever they are in a name."""

T1 = {"t1", "t1w", "t1n", "mprage", "memprage", "spgr", "fspgr", "bravo"}
"""Words, in lower case, for T1, the only modality that is read."""

_LABELS_LAST = {
    "gt", "groundtruth", "truth", "goldstandard", "consensus", "annotation", "annotations", "ot",
    "wmh", "gm", "wm", "csf", "pve", "ribbon", "filled", "tpm", "prob", "contour", "contours",
}
"""Words that say a label map or a tissue map unless a word for T1 follows."""

_OTHER_MODALITIES = {
    "dwi", "dti", "dki", "hardi", "diffusion", "dmri", "noddi", "adc", "fa", "colfa", "md", "trace",
    "tracew", "b0", "b1000", "b2000", "t2star", "t2starw", "r2star", "swi", "swan", "qsm", "minip",
    "mip", "mra", "mrv", "angio", "tof", "bold", "fmri", "rsfmri", "rfmri", "func", "functional",
    "meanfunc", "meanbold", "meanepi", "rest", "epi", "sbref", "zstat", "tstat", "spmt", "spmf",
    "asl", "cbf", "cbv", "rcbv", "dsc", "dce", "perf", "perfusion", "pwi", "mtt", "ttp", "tmax",
    "ktrans", "phase", "phasediff", "ph", "imaginary", "magnitude", "fieldmap", "map", "maps",
    "jacobian", "warpfield", "thickness", "t1rho", "irt1", "mtr", "mtsat", "mtw", "mton", "mtoff",
    "vfa", "mese", "megre", "mwf", "inv1", "inv2", "stir", "tirm", "dir", "dp",
    "ct", "cta", "ctp", "ncct", "cbct", "pet", "fdg", "pib", "av45", "suv", "suvr", "spect",
    "localizer", "localiser", "scout", "survey",
}
"""Words for other images than T1 volumes; `_GLUED` knows those of T2, PD and FLAIR."""

_CONTRAST_AGENT = {
    "gadolinium", "gado", "gadovist", "magnevist", "dotarem", "contrast", "contrastenhanced",
    "postcontrast", "postgd", "postgad", "postgado", "withcontrast", "cet1", "cet1w", "gdt1",
    "gdt1w", "gadt1", "gadt1w", "t1withcontrast",
}
"""Words that say a contrast agent wherever they are in a name."""

_CONTRAST_AFTER_T1 = {
    "post", "ce", "c", "gd", "gad", "cont", "enhanced", "enh", "km", "ks", "plus", "inj",
}
"""Words that say a contrast agent behind a word for T1, in the same word or the next."""

_WITHOUT_CONTRAST = {
    "nocontrast", "noncontrast", "precontrast", "withoutcontrast", "uncontrast", "nongd", "pregd",
    "pregad", "noce", "nonce",
}
_HARMLESS = {
    "w", "wi", "n", "pre", "ax", "axial", "sag", "sagittal", "cor", "coronal", "tra", "trans", "3d",
    "2d", "se", "tse", "fse", "tfe", "tfl", "ffe", "fs", "iso", "mpr", "mprage", "spgr", "fspgr",
    "bravo", "vibe", "flash", "flair", "brain", "reg", "space", "cube",
}
_T2_TAILS = {
    "w", "wi", "f", "star", "map", "flair", "tse", "fse", "frfse", "space", "spc", "cube", "blade",
    "prop", "propeller", "haste", "fs", "fatsat", "ciss", "dark", "fluid", "gre", "relaxometry",
}
# fmt: on


def _any(words: set[str]) -> str:
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


_PLANES = r"(?:ax|axial|sag|sagittal|cor|coronal|tra|trans|inplane|3d|2d|iso|fs|brain|reg)"
_T1_TAIL = _any(_HARMLESS | _CONTRAST_AFTER_T1 | _CONTRAST_AGENT | _WITHOUT_CONTRAST)
_GLUED_T1 = re.compile(rf"{_PLANES}*+(?:t1|{_any(T1)})((?:{_T1_TAIL})*+)")
_GLUED = re.compile(
    rf"{_PLANES}*+(?:t2|pd|flair)(?:{_any(_T2_TAILS)}|{_PLANES}|t2)*+|[a-z0-9]+maps?|[zt]stat[0-9]+"
)
_OF_SEQUENCE = re.compile(rf"{_any(_HARMLESS - {'pre'})}|{_PLANES}|p[0-9]|fl[23]d|ns|[0-9]mm")
_PIECES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CONTRAST_ENTITY = re.compile(r"(?:^|_)ce-[a-z]+", re.IGNORECASE)
_GLUED_LABELS = re.compile(
    r"[a-z0-9]*masks?[0-9]{0,2}|(?:seg|label)[0-9]{1,2}"
    r"|(?:lesions?|tumou?r|brain|tissue)(?:seg|labels?|rois?)"
)
_SPM_TISSUE = re.compile(r"s?[0-9]*m0?w[pc][1-6]", re.IGNORECASE)
_TEMPLATE = re.compile(r"(?:^|/)((?:fsaverage|cvs_avg35)[^/]*)/(?:[^/]+/)*mri[^/]*/")
"""Subjects of FreeSurfer that are averages of many people."""

_LABEL_FOLDERS = {"labelstr", "labelsts", "maskstr", "masksts"}
"""nnU-Net's folders of label maps, whose files have the names of cases."""


def without_t1(stem: str) -> str:
    """A file name without extension, without a trailing `-T1`, `_T1w` or `_T1n`."""
    return _T1_SUFFIX.sub("", stem)


def words_of(path: str) -> list[str]:
    """The words of a volume's file name, in lower case, split at `-`, `_`, `.` and spaces."""
    return [word.lower() for word in _SEPARATORS.split(stem_of(path))]


def is_mask(path: str) -> bool:
    """Whether one of `LESION_MASKS` is among the words of a file name."""
    return not LESION_MASKS.isdisjoint(words_of(path))


def refusal(path: str, *, allow_names: bool = False, agents: bool = False) -> ScanError | None:
    """The error for a file whose name says that it is not a plain T1 volume.

    Words for label maps and contrast agents count anywhere. Of the words for T1 and for other
    things the last one counts: `PD_003_T1w` is a T1 volume, `space-T1w_bold` is not. Words may be
    glued together, as in `T1POST` and `inplaneT2`.

    Args:
      path: of the file; only names are looked at, its own and those of its folders.
      allow_names: refuse only names that are not text.
      agents: take names that say a contrast agent.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return ScanError("unreadable", ascii(path), "its name is not UTF-8; rename it")
    if allow_names:
        return None
    for word in words_of(path):
        if word in _LABEL_MAPS or _GLUED_LABELS.fullmatch(word):
            return ScanError("label_map", path, f"{word!r} in its name says a label map or mask")
    if _SPM_TISSUE.match(stem_of(path)):
        return ScanError("label_map", path, "its name begins as SPM's maps of tissue do")
    if PurePath(path).parent.name.lower() in _LABEL_FOLDERS:
        detail = f"its folder {PurePath(path).parent.name} holds nnU-Net's label maps"
        return ScanError("label_map", path, detail)
    template = _TEMPLATE.search(path)
    if template:
        return ScanError("no_person", path, f"{template[1]} is a template of FreeSurfer")
    entity = _CONTRAST_ENTITY.search(stem_of(path))
    found = [(entity[0].strip("_"), "contrast")] if entity else []
    said = [(term, _meaning(term)) for term in _terms(stem_of(path))]
    found += [pair for pair in _with_context(said) if pair[1] == "contrast"]
    if found and not agents:
        detail = f"{found[0][0]!r} in its name says a contrast agent, which makes another modality"
        return ScanError("other_modality", path, f"{detail} than plain T1")
    told = [pair for pair in said if pair[1]]
    if told and told[-1][1] == "label":
        detail = f"{told[-1][0]!r} in its name says a label map or mask"
        return ScanError("label_map", path, detail)
    if told and told[-1][1] == "other":
        detail = f"{told[-1][0]!r} in its name says another modality than T1"
        return ScanError("other_modality", path, detail)
    return None


def _terms(stem: str) -> list[str]:
    """The terms of a name in lower case: words, parts of glued words, and two words that make one.

    `inplaneT2` gives `inplane` and `t2` unless the word as a whole is known; `GOLD_STANDARD` gives
    `goldstandard`.
    """
    terms: list[str] = []
    for word in re.split(r"[\W_]+", stem):
        parts = [word] if _meaning(word.lower()) else _PIECES.split(word)
        terms += [part.lower() for part in parts if part]
    joined: list[str] = []
    for term in terms:
        pair = joined[-1] + term if joined else ""
        # Single letters make no word: MR_a is no MRA.
        long = len(pair) > len(term) + 1 and (len(term) > 1 or term.isdecimal())
        if long and pair in _TWO_WORDS:
            joined[-1] = pair
        else:
            joined.append(term)
    return joined


_TWO_WORDS = (
    _LABELS_LAST | _OTHER_MODALITIES | _CONTRAST_AGENT | _WITHOUT_CONTRAST | {"t1map", "t2map"}
) - {"t1n"}


def _meaning(term: str) -> str:
    """What a term says: `t1`, `contrast`, `other`, `label`, or "" for nothing."""
    if term in T1:
        return "t1"
    if term in _CONTRAST_AGENT:
        return "contrast"
    if term in _LABELS_LAST or term in _LABEL_MAPS:
        return "label"
    if term in _OTHER_MODALITIES:
        return "other"
    glued = _GLUED_T1.fullmatch(term)
    if glued:
        tails = re.findall(_T1_TAIL, glued[1])
        agent = set(tails) & (_CONTRAST_AFTER_T1 | _CONTRAST_AGENT)
        return "contrast" if agent else "t1"
    return "other" if _GLUED.fullmatch(term) else ""


def _with_context(said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same, with words as `post` read as contrast agents where they follow a word for T1.

    Words of the sequence may lie between, as in `t1_mprage_sag_p2_iso_KM`.
    """
    read, t1 = [], ""
    for term, meaning in said:
        if t1 and not meaning and term in _CONTRAST_AFTER_T1:
            read.append((f"{t1} {term}", "contrast"))
        else:
            read.append((term, meaning))
        if meaning == "t1":
            t1 = term
        elif meaning or not _OF_SEQUENCE.fullmatch(term):
            t1 = ""
    return read
