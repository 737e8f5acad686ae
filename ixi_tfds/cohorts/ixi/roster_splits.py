"""The derivation of the splits in IXI's roster."""

import re
from collections.abc import Iterable

from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.ixi.workbook import Demographics
from ixi_tfds.splits import split_subjects, stratum


def derive_roster_splits(demographics: Demographics, names: Iterable[str]) -> dict[str, str]:
    """Derive the splits in the roster from IXI's workbook.

    Args:
      demographics: of IXI's own workbook.
      names: canonical names of the volumes, such as `IXI002-Guys-0828-T1`.

    Returns:
      The split of every subject, ordered by subject. Subjects without a row in the workbook are in
      train; the others are stratified by sex and ethnicity.
    """
    people = demographics.table.to_dict("index")
    split_of, strata = {}, {}
    for name in names:
        match = re.fullmatch(IXI.volume_name, name)
        if match is None:
            raise ValueError(f"{name!r} is not the name of a volume of IXI")
        subject, ixi_id = name[:6], int(match["id"])
        if ixi_id in people:
            strata[subject] = stratum(people[ixi_id]["sex"], people[ixi_id]["ethnicity"])
        else:
            split_of[subject] = "train"
    split_of |= split_subjects(strata)
    return {subject: split_of[subject] for subject in sorted(split_of)}
