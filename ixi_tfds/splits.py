"""The train, validation and test splits: by subject, stratified and deterministic.

No random generator is used. The SHA-256 of the subjects' names gives their order, so that the
splits depend only on the set of subjects and their strata.
"""

import collections
import hashlib
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import PurePath

from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.cohorts.names import without_t1
from ixi_tfds.cohorts.roster import Roster

SPLITS = ("train", "validation", "test")
FRACTIONS: Mapping[str, Fraction] = {
    "validation": Fraction(86, 566),
    "test": Fraction(48, 566),
}
"""The thesis's share of each held-out split; the rest is train."""

_SALT = "ixi_t1 splits"
"""The same for all cohorts; another salt would move subjects between splits."""


def split_subjects(
    strata: Mapping[str, str], *, fractions: Mapping[str, Fraction] = FRACTIONS
) -> dict[str, str]:
    """Assign every subject to a split, each stratum as evenly as whole subjects allow.

    Of n subjects a held-out split takes `n * fraction`, rounded half up and at least one; train
    takes the rest, at least one. One or two subjects are all train. In every stratum the count of
    each split is its proportional share, `stratum size * split total / n`, rounded up or down.

    Args:
      strata: the stratum of every subject, in any order.
      fractions: shares of `validation` and `test`; both positive, with a sum below 1.

    Returns:
      The split of every subject, ordered by subject.
    """
    if min(fractions.values()) <= 0 or sum(fractions.values()) >= 1:
        raise ValueError(f"fractions {dict(fractions)}: must be positive and less than 1 together")
    members: dict[str, list[str]] = collections.defaultdict(list)
    for subject in sorted(strata, key=_draw):
        members[strata[subject]].append(subject)
    counts = _apportion(
        {stratum: len(people) for stratum, people in members.items()},
        _totals(len(strata), fractions),
    )
    split_of = {}
    for stratum, people in members.items():
        remaining = iter(people)
        for split in reversed(SPLITS):
            split_of.update({next(remaining): split for _ in range(counts[stratum][split])})
    return {subject: split_of[subject] for subject in sorted(split_of)}


def assign_splits(
    scans: Iterable[Scan],
    roster: Roster,
    *,
    fractions: Mapping[str, Fraction] = FRACTIONS,
) -> dict[str, str]:
    """The split of every scanned subject.

    Subjects of the roster have the split that the roster gives. A file belongs to a roster entry if
    its name, or a folder's, begins with the entry's (without a trailing `-T1`). Others are split
    by `split_subjects`, with sex and ethnicity as strata.

    Args:
      scans: one scan for each subject.
      roster: the cohort's roster; empty if it has none.
      fractions: as for `split_subjects`; they do not affect subjects of the roster.

    Returns:
      The split of every subject, ordered by subject.
    """
    split_of, others = {}, {}
    for scan in scans:
        entry = roster.get(scan.subject)
        begins = without_t1(entry.name).lower() if entry else ""
        parts = PurePath(scan.path).parts
        if entry and any(part.lower().startswith(begins) for part in parts):
            split_of[scan.subject] = entry.split
        else:
            others[scan.subject] = stratum(scan.sex, scan.ethnicity)
    split_of |= split_subjects(others, fractions=fractions)
    return {subject: split_of[subject] for subject in sorted(split_of)}


def stratum(sex: str, ethnicity: str) -> str:
    """The stratum of a sex and ethnicity."""
    return f"{sex}/{ethnicity}"


def _draw(text: str) -> bytes:
    return hashlib.sha256(f"{_SALT}\0{text}".encode()).digest()


def _totals(n: int, fractions: Mapping[str, Fraction]) -> dict[str, int]:
    """Number of subjects in every split; their sum is n."""
    if n < len(SPLITS):
        return {"train": n, "validation": 0, "test": 0}
    held_out = {
        split: max(1, math.floor(n * Fraction(fraction) + Fraction(1, 2)))
        for split, fraction in fractions.items()
    }
    while sum(held_out.values()) >= n:
        held_out[max(held_out, key=lambda split: held_out[split])] -= 1
    return {"train": n - sum(held_out.values()), **held_out}


def _apportion(sizes: Mapping[str, int], totals: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Round the table of proportional shares, keeping its row and column sums.

    Each cell gets the floor of its share. The units missing from a row then go to the columns with
    the largest fractions, at most one to a cell. A full column makes room by moving one of its
    earlier units to another column (an augmenting path). The shares are a fractional flow with
    these sums, so an integer flow exists, and augmenting paths find it.

    Args:
      sizes: the row sums, subjects in each stratum.
      totals: the column sums, subjects in each split; the same total.
    """
    n = sum(sizes.values())
    shares = {
        (stratum, split): Fraction(size * total, n)
        for stratum, size in sizes.items()
        for split, total in totals.items()
    }
    counts = {s: {split: math.floor(shares[s, split]) for split in totals} for s in sizes}
    room = {split: totals[split] - sum(row[split] for row in counts.values()) for split in totals}
    raised: dict[str, list[str]] = {split: [] for split in totals}

    def raise_one(stratum: str, tried: set[str]) -> bool:
        """Give the stratum one more subject in a split where its share leaves a fraction."""
        open_splits = [s for s in totals if shares[stratum, s] % 1 and stratum not in raised[s]]
        open_splits.sort(key=lambda s: (-(shares[stratum, s] % 1), _draw(f"{stratum}\0{s}")))
        for split in open_splits:
            if split in tried:
                continue
            tried.add(split)
            if room[split]:
                room[split] -= 1
            else:
                mover = next((s for s in raised[split] if raise_one(s, tried)), None)
                if mover is None:
                    continue
                raised[split].remove(mover)
            raised[split].append(stratum)
            return True
        return False

    for stratum in sorted(sizes):
        for _ in range(sizes[stratum] - sum(counts[stratum].values())):
            if not raise_one(stratum, set()):
                raise AssertionError(f"no whole table has these sums: {sizes}, {totals}")
    return {
        stratum: {split: count + (stratum in raised[split]) for split, count in row.items()}
        for stratum, row in counts.items()
    }
