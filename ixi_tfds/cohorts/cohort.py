"""What a cohort is: a name, and what is particular to how its scans are named and published."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A published file.

    Attributes:
      name: its name in the folder.
      urls: where it is published, in the order to try.
      md5: hex digest of the whole file.
      sha256: the same, "" where nobody published it.
      sizes: fewest and most bytes it may have; whatever offers others (an error page, an endless
        stream) is refused before it is read.
      sole: False where other copies of the same content are in circulation, so that one which
        lies in the folder already is kept, whatever its checksum.
    """

    name: str
    urls: tuple[str, ...]
    md5: str
    sha256: str = ""
    sizes: tuple[int, int] = (1, 1 << 40)
    sole: bool = True


@dataclasses.dataclass(frozen=True)
class People:
    """What is known of the people of a cohort.

    Attributes:
      facts: by subject, values for the fields `sex`, `ethnicity` and `age` of a `Scan`; fields and
        subjects that are missing are unknown.
      warnings: a sentence for every value that was given up.
    """

    facts: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A group of people whose scans become datasets `<name>/<config>`.

    Attributes:
      name: of its datasets; lower-case letters, digits and underscores.
      title: its name in messages; in lower case, that of TFDS's folder of its volumes.
      read_name: takes a file name without extension and gives subject and site ("" where it tells
        none) of a name that is in the cohort's own form; None for any other name.
      find_people: takes the folder of the volumes, and the path of the workbook where one was
        named, and says what is known of the people. Raises `WorkbookError`.
      roster: a table of the people whose split is fixed, as `roster.read_roster` takes it; without
        one everybody is split by the hash of the name.
      published: the files in which it is published: the workbook first, a tar file of the volumes
        last. Empty where it cannot be downloaded.
      volume_name: the form, without extension, of names of volumes in that tar file.
      description: what TFDS says of its datasets.
      citation: in BibTeX.
      homepage: its address.
    """

    name: str
    title: str
    read_name: Callable[[str], tuple[str, str] | None]
    find_people: Callable[[str, str | None], People]
    roster: pathlib.Path | None = None
    published: tuple[PublishedFile, ...] = ()
    volume_name: str = ""
    description: str = ""
    citation: str = ""
    homepage: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(
                f"cohort name {self.name!r}: use lower-case letters, digits and underscores"
            )
