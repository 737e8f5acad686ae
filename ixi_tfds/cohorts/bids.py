"""BIDS folders: their T1 volumes, and which of a person's volumes comes first.

See https://bids-specification.readthedocs.io. Only `sub-*/[ses-*/]anat/*_T1w.nii[.gz]` is read, and
`*_UNIT1.nii[.gz]` where asked for; other modalities, `derivatives/` and `sourcedata/` are ignored.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ixi_tfds.cohorts import bids_filter
from ixi_tfds.cohorts.bids_filter import LONG_NAMES, Filter
from ixi_tfds.system import storage
from ixi_tfds.system.errors import ScanError, UserError

_T1W = re.compile(r"_(T1w|UNIT1)\.nii(\.gz)?$", re.IGNORECASE)
_SUFFIXES = {"t1w": "T1w", "unit1": "UNIT1"}
"""The suffixes that can be read, by their names in lower case."""
_DEFAULT = ("t1w",)
_FOLDERS = ("sub-*/anat", "sub-*/ses-*/anat")

_PLAIN = {"subject", "session", "run", "datatype", "suffix", "extension"}
_AFTER_PLAIN = ("acquisition", "reconstruction")
"""Entities of volumes that come next after plain ones; all others are of parts or derivatives."""

NOT_READ = ("derivatives", "sourcedata")
"""Folders of a BIDS folder that hold no scans of its own."""

_NO_MAGNITUDE = {"phase", "real", "imag"}
_NAMED = 5
_NOBODY = "sub-emptyroom"
"""The folder of MEG noise recordings."""

_CONTRAST = "volumes with contrast agent only (--bids_filter=ceagent=null,ceagent=* takes them too)"
_ALL_REFUSED = "all of their volumes are refused, as listed in rejected.jsonl"

NOISY = (
    "UNIT1 volumes are read: the background of MP2RAGE's uniform image is noise as bright as the "
    "head, unless it was removed; look at quality.html"
)
"""The warning for `suffix=UNIT1`."""


def is_bids(folder: str) -> bool:
    """Whether a folder has a `dataset_description.json` or a subject's `anat` folder."""
    root = storage.at(folder)
    described = (root / "dataset_description.json").is_file()
    return described or any(True for pattern in _FOLDERS for _ in root.glob(pattern))


def t1_volumes(folder: str, asked: Filter | None = None) -> tuple[list[str], list[ScanError]]:
    """Paths of the T1 volumes of all subjects and sessions, and those left out, both sorted.

    Left out are volumes that the filter does not ask for, volumes with a contrast agent (`ce-`) and
    volumes of phase (`part-phase`, `-real`, `-imag`), unless the filter names `ceagent` or `part`.
    Without `suffix` in the filter, only `T1w` is looked at.

    Raises:
      UserError: the folder holds no T1 volume, or none that the filter asks for.
    """
    asked = asked or {}
    found = _entities_of_all(folder)
    suffix = asked.get("suffix", _DEFAULT)
    looked_at = {path: e for path, e in found.items() if bids_filter.matches({"suffix": suffix}, e)}
    if not looked_at:
        raise UserError(_nothing(folder, found, suffix))
    taken, left = [], []
    for path, entities in sorted(looked_at.items()):
        error = _refusal(path, entities, asked)
        if error is None:
            taken.append(path)
        else:
            left.append(error)
    if not taken and all(error.reason == "not_asked_for" for error in left):
        values = bids_filter.describe_values(looked_at.values(), asked)
        raise UserError(
            f"--bids_filter={bids_filter.in_words(asked)}: asks for none of the {len(left)} "
            f"volumes in {folder}; there are: {values}"
        )
    return taken, left


def subject_of(path: str, folder: str) -> str:
    """The subject of a volume in a BIDS folder, such as `sub-01`, without the session."""
    return storage.at(path).relative_to(storage.at(folder)).parts[0]


def by_person(paths: Iterable[str], folder: str) -> dict[str, list[str]]:
    """The volumes of each subject, the preferred one first.

    A plain T1w comes first, then those with `acq-`, with `rec-`, with any other entity (`desc-`,
    `space-`, ...), and with a contrast agent; of these, those with fewer entities; then by session
    and run, in the order of their numbers or names. UNIT1 comes after T1w.
    """
    people: dict[str, list[str]] = {}
    for path in sorted(paths, key=lambda path: _preference(path, folder)):
        people.setdefault(subject_of(path, folder), []).append(path)
    return people


def left_out(
    folder: str, people: Iterable[str], left: Iterable[ScanError], asked: Filter
) -> list[str]:
    """Warnings that name the people without a volume, one for each cause.

    `people` are the subjects with a volume, `left` the volumes that were left out under a filter.
    """
    causes = {error.path: _cause(error) for error in left}
    suffix = {"suffix": asked.get("suffix", _DEFAULT)}
    cause_of: dict[str, str] = {}
    for path, entities in _entities_of_all(folder).items():
        subject = subject_of(path, folder)
        if bids_filter.matches(suffix, entities):
            cause_of[subject] = causes.get(path, _ALL_REFUSED)
        else:
            other = entities["suffix"]
            hint = "--bids_filter=suffix=T1w,suffix=UNIT1 takes them too"
            only = f"{other} volumes only ({hint})"
            cause_of.setdefault(subject, only)
    # A broken link to a folder is a person, too.
    folders = {path.name for path in storage.at(folder).glob("sub-*") if not path.is_file()}
    lacking: dict[str, list[str]] = {}
    for subject in folders.difference(people, [_NOBODY]):
        lacking.setdefault(cause_of.get(subject, "no T1w volume"), []).append(subject)
    return [f"{_names(lacking[cause])} left out: {cause}" for cause in sorted(lacking)]


def _entities_of_all(folder: str) -> dict[str, dict[str, str]]:
    """Entities of each T1w and UNIT1 volume, by path."""
    return {
        str(path): _entities(path, folder)
        for pattern in _FOLDERS
        for path in storage.at(folder).glob(f"{pattern}/sub-*")
        if _T1W.search(path.name)
    }


def _entities(path: pathlib.Path, folder: str) -> dict[str, str]:
    """Labels by the long names of the entities, with datatype, suffix and extension.

    Subject and session are those of the folders. Parts of the name that are no entity of BIDS are
    kept under their own names.
    """
    (suffix,) = _T1W.findall(path.name)
    stem = _T1W.sub("", path.name)
    found = {"datatype": "anat", "suffix": _SUFFIXES[suffix[0].lower()]}
    found["extension"] = f".nii{suffix[1].lower()}"
    folders = path.relative_to(storage.at(folder)).parts[:-2]
    for part in (*stem.split("_"), *folders):
        short, _, value = part.partition("-")
        long = LONG_NAMES.get(short, short)
        found[long] = value
    return found


def _refusal(path: str, entities: Mapping[str, str], asked: Filter) -> ScanError | None:
    if not bids_filter.matches(asked, entities):
        return ScanError("not_asked_for", path, "is not what --bids_filter asks for")
    agent = entities.get("ceagent")
    if agent is not None and "ceagent" not in asked:
        hint = f"--bids_filter=ceagent=null,ceagent={agent} takes it too"
        return ScanError("other_modality", path, f"has a contrast agent (ce-{agent}); {hint}")
    part = entities.get("part")
    if part in _NO_MAGNITUDE and "part" not in asked:
        hint = f"--bids_filter=part=null,part={part} takes it too"
        return ScanError("other_modality", path, f"holds no magnitude (part-{part}); {hint}")
    return None


def _preference(path: str, folder: str) -> tuple[Any, ...]:
    entities = _entities(storage.at(path), folder)
    extra = entities.keys() - _PLAIN
    ranks = {name: rank for rank, name in enumerate(_AFTER_PLAIN, start=1)}
    last = len(_AFTER_PLAIN)
    rank = max((ranks.get(name, last + 1) for name in extra), default=0)
    if "ceagent" in extra:
        rank = last + 2
    session = _natural(entities.get("session", ""))
    return entities["suffix"] != "T1w", rank, len(extra), session, _natural(path)


def _natural(text: str) -> list[str | int]:
    """A key that sorts the numbers in texts by size, so that ses-10 comes after ses-2."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _nothing(folder: str, found: Mapping[str, Mapping[str, str]], suffix: Iterable[Any]) -> str:
    wanted = "|".join(_SUFFIXES.get(str(name), str(name)) for name in suffix)
    text = f"{folder}: is a BIDS folder without T1 volumes (sub-*/[ses-*/]anat/*_{wanted}.nii.gz)"
    others = sorted({entities["suffix"] for entities in found.values()})
    if others:
        text += f"; it holds {len(found)} {others[0]}: --bids_filter=suffix={others[0]} takes them"
    return text


def _cause(error: ScanError) -> str:
    if error.reason == "not_asked_for":
        return "nothing that --bids_filter asks for"
    return _CONTRAST if "contrast agent" in error.detail else _ALL_REFUSED


def _names(people: Iterable[str]) -> str:
    listed = sorted(people, key=_natural)
    # Names of folders may not be UTF-8.
    shown = ", ".join(listed[:_NAMED]).encode(errors="backslashreplace").decode()
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return f"{len(listed)} {'person' if len(listed) == 1 else 'people'} ({shown}{more})"
