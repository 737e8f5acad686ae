"""Folders of persons: `patient01/T1.nii.gz` and `patient02/T1.nii.gz` show two people."""

import collections
import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from ixi_tfds.cohorts import marks
from ixi_tfds.system.errors import UserError


def find(files: Mapping[str, str], flags: str) -> dict[str, str]:
    """The folder of the person, relative to the source folder, of files whose folder says them.

    This is so for files whose names say no person, such as `T1` and `brain`, and for the others in
    their folder that fit. It is so, too, where names repeat from folder to folder, unless that may
    be people of the same name in several groups: there must be fewer names than folders, and less
    than half as many if names have numbers.

    Args:
      files: paths below the source folder, without extension, by any key.
      flags: which flags to name in the error.

    Returns:
      The person's folder by key; keys of other files are missing.

    Raises:
      UserError: it cannot be told whether the files of a folder are of one person.
    """
    folders = {key: person_folder(file) for key, file in files.items()}
    stems = {key: PurePosixPath(file).name for key, file in files.items()}
    nameless = {folders[key]: key for key in files if not marks.core(stems[key])}
    found: dict[str, str] = {}
    for key, folder in folders.items():
        if folder is None or folder not in nameless:
            continue
        own = marks.core(stems[key], weak=True, small_numbers=True)
        if own not in ("", marks.identity(PurePosixPath(folder).name)):
            raise UserError(
                f"{files[nameless[folder]]} and {files[key]}: the folder may be that of one person "
                f"or of several; {flags}"
            )
        found[key] = folder
    rest = {key: folder for key, folder in folders.items() if key not in found}
    return found | _where_names_repeat(rest, stems)


def person_folder(file: str) -> str | None:
    """The folder nearest to a file whose name may be that of a person; None without one.

    Folders of a visit or of a kind of file, as in `p01/ses-2/anat/T1`, are passed over.
    """
    parts = PurePosixPath(file).parent.parts
    for weak in (True, False):
        for depth in range(len(parts), 0, -1):
            if marks.names_a_person(parts[depth - 1], weak=weak):
                return "/".join(parts[:depth])
    return None


def check_parents(folders: Collection[str], flags: str) -> None:
    """Refuse folders of one name in several places that are no visits, of one person or several.

    Raises:
      UserError: there are such folders.
    """
    first: dict[str, str] = {}
    for folder in sorted(folders):
        name = PurePosixPath(folder).name
        other = first.setdefault(name, folder)
        if _above(other) != _above(folder):
            raise UserError(f"{other} and {folder}: may be one person or two; {flags}")


def repeated(stems: Collection[str]) -> set[str]:
    """The names, in lower case, that several files have."""
    counts = collections.Counter(stem.lower() for stem in stems)
    return {stem for stem, count in counts.items() if count > 1}


def _where_names_repeat(
    folders: Mapping[str, str | None], stems: Mapping[str, str]
) -> dict[str, str]:
    twice = repeated([stems[key] for key in folders])
    places = {folder for key, folder in folders.items() if stems[key].lower() in twice}
    group = {key: folder for key, folder in folders.items() if folder in places and folder}
    names = {stems[key].lower() for key in group}
    # A name with a number is more likely that of a person, whom several groups have.
    weight = 2 if any(re.search(r"[0-9]", marks.core(name)) for name in names) else 1
    return group if None not in places and weight * len(names) < len(places) else {}


def _above(folder: str) -> list[str]:
    above = PurePosixPath(folder).parent.parts
    return [part for part in above if marks.names_a_person(part, weak=True)]
