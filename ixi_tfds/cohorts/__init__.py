"""The cohorts that datasets are made of, and what tells a scan of one from another."""

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
"""The dataset that commands take where none is named."""

COHORTS: dict[str, Cohort] = {cohort.name: cohort for cohort in (IXI,)}
"""The cohorts by name; `find_cohort` adds those of other packages."""


def cohort_flag() -> Any:
    """The field of a config that names a cohort as `find_cohort` takes it."""
    return flag(
        f"Cohort that the volumes are of: {', '.join(COHORTS)}, or MODULE:NAME of your own.",
        DEFAULT.name,
    )


@dataclasses.dataclass(frozen=True)
class CohortFlags:
    """Whose volumes are read, and where it is told what is known of the people."""

    cohort: str = cohort_flag()
    workbook: str | None = flag("Demographics; by default IXI.xls in the source folder.", None)


def find_cohort(name: str) -> Cohort:
    """The cohort that a command line names.

    Args:
      name: one of `COHORTS`, or `MODULE:ATTRIBUTE` of a cohort in a module of one's own, which is
        imported and known by its own name from then on.

    Raises:
      UserError: there is no such cohort, or another one has its name.
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
            f"--cohort={name}: no cohort; give one of {', '.join(COHORTS)}, or MODULE:NAME of a "
            "Cohort of your own"
        )
    if COHORTS.setdefault(found.name, found) != found:
        raise UserError(f"--cohort={name}: is named {found.name}, as another cohort is")
    return found
