"""The cohorts that datasets are made from, and how a command line names one."""

import dataclasses
import importlib
from typing import Any

from ixi_tfds.cohorts.cohort import Cohort
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.config import THESIS
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag

DEFAULT = IXI
DEFAULT_DATASET = f"{DEFAULT.name}/{THESIS.name}"
"""The dataset that commands use by default."""

COHORTS: dict[str, Cohort] = {cohort.name: cohort for cohort in (IXI,)}
"""The cohorts by name. `find_cohort` adds cohorts of other packages."""


_NAMES = ", ".join(COHORTS)
"""Only those of this package: the help does not depend on what was imported before."""


def cohort_flag() -> Any:
    """A field of a config that names a cohort, for `find_cohort`."""
    return flag(
        f"Cohort of the volumes: {_NAMES}, or MODULE:NAME of your own.",
        DEFAULT.name,
    )


@dataclasses.dataclass(frozen=True)
class CohortFlags:
    """The cohort of the volumes, and the workbook with its demographics."""

    cohort: str = cohort_flag()
    workbook: str | None = flag(
        "Demographics; by default IXI.xls in the source folder.", None, path=True
    )


@dataclasses.dataclass(frozen=True)
class NameFlags:
    """Who is the person in a file, and whether names of files are believed."""

    subjects: str | None = flag(
        "Table (csv, tsv) of who is in which file: columns file (or pattern) and person, if you "
        "have them site, sex, age, session. Files without a row are left out.",
        None,
        path=True,
    )
    subject_pattern: str | None = flag(
        "Regular expression with a group (?P<person>...), if you like (?P<site>...) and "
        "(?P<session>...), that finds the person in a file's name without extension; with a / in "
        "it, in the path below the source folder. Other files are left out.",
        None,
    )
    allow_names: bool = flag(
        "Read volumes even if their names say another modality, a contrast agent or a mask, as "
        "the id PD_001 does.",
        False,
    )


AS_NAMED = NameFlags()
"""No flag: names are believed."""


def find_cohort(name: str) -> Cohort:
    """The cohort that a command line names.

    Args:
      name: a name in `COHORTS`, or `MODULE:ATTRIBUTE` of a cohort in another module. The module is
        imported, and its cohort added to `COHORTS`.

    Raises:
      UserError: the cohort does not exist, or another cohort has its name.
    """
    if name in COHORTS:
        return COHORTS[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute) if attribute else None
    except (ImportError, AttributeError) as error:
        raise UserError(f"--cohort={name}: cannot be imported ({error})") from error
    if not isinstance(found, Cohort):
        raise UserError(
            f"--cohort={name}: not a cohort; give one of {', '.join(COHORTS)}, or MODULE:NAME of a "
            "Cohort of your own"
        )
    if COHORTS.setdefault(found.name, found) != found:
        raise UserError(f"--cohort={name}: another cohort is also named {found.name}")
    return found
