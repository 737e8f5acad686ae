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
    workbook: str | None = flag("Demographics; by default IXI.xls in the source folder.", None)


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
