"""What a cohort is: a name, and how its scans are named, described and published."""

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
      sha256: hex digest of the whole file; "" where none is published.
      sizes: fewest and most bytes it may have. A response of any other size (an error page, an
        endless stream) is refused before it is read.
      sole: False where other copies with the same content exist, so that a file which is already
        in the folder is kept, whatever its checksum.
    """

    name: str
    urls: tuple[str, ...]
    md5: str
    sha256: str = ""
    sizes: tuple[int, int] = (1, 1 << 40)
    sole: bool = True


@dataclasses.dataclass(frozen=True)
class People:
    """The demographics of a cohort.

    Attributes:
      facts: by subject, values for the fields `sex`, `ethnicity` and `age` of a `Scan`. Missing
        subjects and fields are unknown.
      warnings: one sentence for each value that could not be used.
    """

    facts: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cohort:
    """A group of people whose scans become datasets `<name>/<config>`.

    Attributes:
      name: of its datasets; lower-case letters, digits and underscores.
      title: its name in messages; in lower case, the name of its folder in TFDS's download folder.
      read_name: takes a file name without extension. Returns subject and site ("" where unknown)
        if the name is in the cohort's form, else None.
      find_people: takes the folder of the volumes and the path of the workbook, or None where no
        workbook was named. Returns the demographics; raises `WorkbookError`.
      roster: CSV file of the subjects whose split is fixed, for `roster.read_roster`. Without one,
        every split follows from a hash of the subject's name.
      published: the published files: the workbook first, a tar file of the volumes last. Empty
        where the cohort cannot be downloaded.
      volume_name: regular expression for names of volumes in the tar file, without extension.
      description: of its datasets, for TFDS.
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
