import collections
import hashlib
import json
import math
import random
from fractions import Fraction

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixi_tfds import splits
from ixi_tfds.cohorts import roster
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.ixi.roster_splits import derive_roster_splits
from ixi_tfds.cohorts.ixi.workbook import Demographics, read_demographics
from ixi_tfds.splits import FRACTIONS, SPLITS, split_subjects
from ixi_tfds.system.files import git_blob_sha1


def load_roster():
    return roster.read_roster(IXI.roster)


def is_original(subject, sha1):
    return roster.is_original(load_roster(), subject, sha1)


def assign_splits(scans, **kwargs):
    return splits.assign_splits(scans, load_roster(), **kwargs)


# Whoever changes these moves people of IXI between train and test.
DIGESTS = {
    "train": "7d2fe18a61ad21f1e78729d765e9b93070c97d3ba0186d7749bcaea7d3722c54",
    "validation": "dc0907e0c53f3f112a78e672c03acf7dbe0e65f085a0e07ee3deca060eb060a7",
    "test": "e6717a4dff25366e09593829cd52a4b2f2864d6dfab86009256828870181330c",
}
COHORT_DIGEST = "95483955b22bd75d2d4c8bb12ec65f69b1e507548ab52061156ef51e24ee2e1a"
WITHOUT_DEMOGRAPHICS = {
    f"IXI{number:03d}"
    for number in (81, 88, 117, 228, 333, 337, 340, 345, 347, 457, 589, 637, 638, 643, 661)
}


def subjects_of(split):
    return [subject for subject, entry in load_roster().items() if entry.split == split]


def test_roster_has_the_581_volumes():
    entries = load_roster()
    assert len(entries) == 581
    sites = collections.Counter(entry.site for entry in entries.values())
    assert sites == {"Guys": 322, "HH": 185, "IOP": 74}
    for subject, entry in entries.items():
        assert entry.subject == subject
        assert entry.name.split("-")[:2] == [subject, entry.site]
        assert len(entry.git_blob_sha1) in (0, 40)
    unknown = {subject for subject, entry in entries.items() if not entry.git_blob_sha1}
    assert unknown == WITHOUT_DEMOGRAPHICS


def test_people_of_ixi_stay_where_they_are():
    for split, digest in DIGESTS.items():
        text = "\n".join(sorted(subjects_of(split)))
        assert hashlib.sha256(text.encode()).hexdigest() == digest, split


def test_splits_have_the_sizes_of_the_thesis():
    sizes = {split: len(subjects_of(split)) for split in SPLITS}
    assert sizes == {"train": 447, "validation": 86, "test": 48}
    slices = {split: 60 * size for split, size in sizes.items()}
    assert slices == {"train": 26_820, "validation": 5_160, "test": 2_880}
    assert set(subjects_of("train")) >= WITHOUT_DEMOGRAPHICS


@pytest.mark.real_data
def test_split_column_follows_from_the_workbook(real_data):
    entries = load_roster()
    demographics = read_demographics(str(real_data / "ixi" / "IXI.xls"))
    names = [entry.name for entry in entries.values()]
    derived = derive_roster_splits(demographics, reversed(names))
    assert derived == {subject: entry.split for subject, entry in entries.items()}


@pytest.mark.real_data
def test_every_stratum_of_ixi_is_within_one_of_proportional(real_data):
    table = read_demographics(str(real_data / "ixi" / "IXI.xls")).table
    cells = collections.Counter()
    for subject, entry in load_roster().items():
        if int(subject[3:]) in table.index:
            row = table.loc[int(subject[3:])]
            cells[row["sex"], row["ethnicity"], entry.split] += 1
    assert sum(cells.values()) == 566
    for sex, ethnicity in {cell[:2] for cell in cells}:
        size = sum(cells[sex, ethnicity, split] for split in SPLITS)
        for split, total in {"train": 432, "validation": 86, "test": 48}.items():
            assert abs(cells[sex, ethnicity, split] - size * total / 566) < 1


@pytest.mark.real_data
def test_roster_agrees_with_the_published_names_and_checksums(real_data):
    lines = (real_data / "ixi" / "IXI-T1.git-blob-sha1.txt").read_text().splitlines()
    published = {name.removesuffix(".nii.gz"): sha1 for sha1, name in map(str.split, lines)}
    names = (real_data / "ixi" / "IXI-T1.filenames.txt").read_text().split()
    entries = load_roster().values()
    assert [f"{entry.name}.nii.gz" for entry in entries] == sorted(names)
    assert {e.name: e.git_blob_sha1 for e in entries if e.git_blob_sha1} == published


@pytest.mark.real_data
def test_original_volume_is_known_and_a_derived_one_is_not(real_data):
    original = (real_data / "ixi" / "full" / "IXI533-Guys-1066-T1.nii.gz").read_bytes()
    assert is_original("IXI533", git_blob_sha1(original)) is True
    assert is_original("IXI533", git_blob_sha1(original[:-1])) is False
    derived = (real_data / "ixi" / "stripped" / "IXI279-Guys-1044-T1.nii.gz").read_bytes()
    assert is_original("IXI279", git_blob_sha1(derived)) is False


def test_no_checksum_means_no_verdict():
    assert is_original("IXI081", git_blob_sha1(b"")) is None
    assert is_original("sub-01", git_blob_sha1(b"")) is None


def test_checksum_is_the_one_of_git():
    """What `git hash-object` says of these two."""
    assert git_blob_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_blob_sha1(b"hello world\n") == "3b18e512dba79e4c8300dd08aeb37f8e728b8dad"


def test_an_original_is_known_by_its_checksum_alone():
    entry = load_roster()["IXI533"]
    assert is_original("IXI533", entry.git_blob_sha1) is True
    assert is_original("IXI532", entry.git_blob_sha1) is False


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=14))
def test_split_of_random_strata_is_proportional(sizes):
    check_proportional(sizes, FRACTIONS)


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
    st.integers(1, 49),
    st.integers(1, 49),
)
def test_split_by_other_fractions_is_proportional(sizes, validation, test):
    check_proportional(
        sizes, {"validation": Fraction(validation, 100), "test": Fraction(test, 100)}
    )


def check_proportional(sizes, fractions):
    strata = {f"s{i}-{j}": f"stratum {i}" for i, size in enumerate(sizes) for j in range(size)}
    n = len(strata)
    split_of = split_subjects(strata, fractions=fractions)
    assert list(split_of) == sorted(strata)
    totals = collections.Counter(split_of.values())
    if n < 3:
        assert totals == {"train": n}
        return
    for split, fraction in fractions.items():
        wanted = max(1, math.floor(n * fraction + Fraction(1, 2)))
        # With few people the larger split may have to leave one to train.
        assert totals[split] == wanted or (totals["train"] == 1 and totals[split] < wanted)
    assert min(totals[split] for split in SPLITS) >= 1
    cells = collections.Counter((strata[subject], split) for subject, split in split_of.items())
    for i, size in enumerate(sizes):
        for split in SPLITS:
            share = Fraction(size * totals[split], n)
            assert math.floor(share) <= cells[f"stratum {i}", split] <= math.ceil(share)


def counts_of(sizes, totals):
    """How many of each stratum come to train, validation and test, of which there are so many."""
    n = sum(sizes.values())
    strata = {f"{stratum}{i}": stratum for stratum, size in sizes.items() for i in range(size)}
    fractions = {split: Fraction(totals[split], n) for split in ("validation", "test")}
    split_of = split_subjects(strata, fractions=fractions)
    cells = collections.Counter((strata[subject], split) for subject, split in split_of.items())
    return {stratum: [cells[stratum, split] for split in SPLITS] for stratum in sizes}


def test_the_largest_fraction_of_a_share_is_rounded_up_and_not_the_largest_share():
    """Of b's shares, 2.2, 1.1 and 0.7, it is the last, and a's, 19.8, 9.9 and 6.3, make room."""
    totals = {"train": 22, "validation": 11, "test": 7}
    assert counts_of({"a": 36, "b": 4}, totals) == {"a": [20, 10, 6], "b": [2, 1, 1]}


@pytest.mark.parametrize("second", ["b", "c", "d", "e", "f", "g"])
def test_where_fractions_are_equal_the_hash_of_stratum_and_split_draws(second):
    """Shares of 1, 1/2 and 1/2 each; whoever comes last has the choice."""
    totals = {"train": 2, "validation": 1, "test": 1}
    first, *_ = sorted(
        ("validation", "test"),
        key=lambda split: hashlib.sha256(f"ixi_t1 splits\0{second}\0{split}".encode()).digest(),
    )
    expected = [1, 1, 0] if first == "validation" else [1, 0, 1]
    assert counts_of({"a": 2, second: 2}, totals)[second] == expected


@pytest.mark.parametrize(
    ("sizes", "totals", "expected"),
    [
        # Splits that are full make room, some of them by way of a third.
        (
            {"a": 7, "b": 2, "c": 1, "d": 4, "e": 1},
            {"train": 4, "validation": 7, "test": 4},
            {"a": [2, 3, 2], "b": [1, 0, 1], "c": [0, 1, 0], "d": [1, 2, 1], "e": [0, 1, 0]},
        ),
        (
            {"a": 6, "b": 2, "c": 4, "d": 6, "e": 1},
            {"train": 1, "validation": 17, "test": 1},
            {"a": [1, 5, 0], "b": [0, 1, 1], "c": [0, 4, 0], "d": [0, 6, 0], "e": [0, 1, 0]},
        ),
        (
            {"a": 4, "b": 5, "c": 5, "d": 6, "e": 1, "f": 2},
            {"train": 1, "validation": 17, "test": 5},
            {
                **{"a": [1, 2, 1], "b": [0, 3, 2], "c": [0, 4, 1]},
                **{"d": [0, 5, 1], "e": [0, 1, 0], "f": [0, 2, 0]},
            },
        ),
        (
            {"a": 5, "b": 7, "c": 7},
            {"train": 11, "validation": 3, "test": 5},
            {"a": [3, 1, 1], "b": [4, 1, 2], "c": [4, 1, 2]},
        ),
    ],
)
def test_tables_of_small_strata_stay_what_they_were(sizes, totals, expected):
    """Each is a proportional table; another one would move people of a cohort split before."""
    assert counts_of(sizes, totals) == expected


def test_a_cohort_that_was_split_before_stays_as_it_was():
    """Made by the first version; whoever changes it moves people between train and test."""
    strata = {f"sub-{i:03d}": f"{'fm'[i % 2]}/{'vwxyz'[(i * i) % 11 % 5]}" for i in range(203)}
    split_of = split_subjects(strata)
    assert collections.Counter(split_of.values()) == {"train": 155, "validation": 31, "test": 17}
    text = json.dumps(split_of)
    assert hashlib.sha256(text.encode()).hexdigest() == COHORT_DIGEST


@pytest.mark.parametrize(
    ("n", "validation", "test", "sizes"),
    [
        (566, *FRACTIONS.values(), (432, 86, 48)),
        (581, *FRACTIONS.values(), (444, 88, 49)),
        # Half a person is a whole one.
        (10, Fraction(15, 100), Fraction(25, 100), (5, 2, 3)),
        (10, Fraction(14, 100), Fraction(24, 100), (7, 1, 2)),
        # One each, and one for train, however small the shares.
        (3, *FRACTIONS.values(), (1, 1, 1)),
        (4, Fraction(49, 100), Fraction(49, 100), (1, 1, 2)),
        (300, Fraction(600, 1000), Fraction(399, 1000), (1, 179, 120)),
        (2, *FRACTIONS.values(), (2, 0, 0)),
    ],
)
def test_sizes_of_the_splits_by_hand(n, validation, test, sizes):
    strata = {f"sub-{i}": "x" for i in range(n)}
    split_of = split_subjects(strata, fractions={"validation": validation, "test": test})
    found = collections.Counter(split_of.values())
    assert tuple(found[split] for split in SPLITS) == sizes


def test_the_shares_are_those_of_the_thesis():
    assert dict(FRACTIONS) == {"validation": Fraction(86, 566), "test": Fraction(48, 566)}
    assert SPLITS == ("train", "validation", "test")


def test_split_does_not_depend_on_order():
    strata = {f"sub-{i:02d}": f"stratum {i % 7}" for i in range(90)}
    shuffled = list(strata.items())
    random.Random(0).shuffle(shuffled)
    assert list(split_subjects(dict(shuffled)).items()) == list(split_subjects(strata).items())


def test_the_hash_of_a_name_draws():
    names = [f"sub-{i:02d}" for i in range(8)]
    split_of = split_subjects(dict.fromkeys(names, "x"))
    drawn = sorted(
        names, key=lambda name: hashlib.sha256(f"ixi_t1 splits\0{name}".encode()).digest()
    )
    assert [split_of[name] for name in drawn] == ["test", "validation", *["train"] * 6]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 12, 62])
def test_no_split_is_empty_from_three_subjects_on(n):
    splits = split_subjects({f"sub-{i}": "unknown/unknown" for i in range(n)}).values()
    assert set(splits) == (set(SPLITS) if n >= 3 else {"train"} if n else set())


@pytest.mark.parametrize(
    ("validation", "test"), [("1/2", "1/2"), ("0", "1/2"), ("1/2", "0"), ("3/2", "-1"), ("2", "1")]
)
def test_fractions_that_leave_nothing_are_refused(validation, test):
    fractions = {"validation": Fraction(validation), "test": Fraction(test)}
    with pytest.raises(ValueError, match="less than 1 together"):
        split_subjects({"a": "x"}, fractions=fractions)


def test_a_share_below_one_percent_and_all_but_one_are_shares():
    strata = {f"sub-{i}": "x" for i in range(1000)}
    small = {"validation": Fraction(1, 1000), "test": Fraction(998, 1000)}
    sizes = collections.Counter(split_subjects(strata, fractions=small).values())
    assert sizes == {"train": 1, "validation": 1, "test": 998}


def test_people_of_ixi_take_the_split_of_the_roster_however_few_there_are():
    entries = [load_roster()[subject] for subject in subjects_of("test")[:5]]
    scans = [Scan(e.subject, e.site, f"/data/{e.site}/{e.name}.nii.gz") for e in entries]
    assert assign_splits(scans) == {entry.subject: "test" for entry in entries}
    unzipped = [Scan(e.subject, e.site, f"/data/{e.name}.nii") for e in entries[:1]]
    assert assign_splits(unzipped) == {entries[0].subject: "test"}


@pytest.mark.parametrize("form", ["{}", "{}_brain", "{}-bet.1"])
@pytest.mark.parametrize("split", SPLITS)
def test_what_was_made_from_a_volume_of_ixi_is_in_its_split(form, split):
    entry = load_roster()[subjects_of(split)[3]]
    for stem in (entry.name, entry.name.lower(), entry.name.removesuffix("-T1")):
        scan = Scan(entry.subject, entry.site, f"/data/{form.format(stem)}.nii.gz")
        assert assign_splits([scan]) == {entry.subject: split}


def test_another_scan_number_is_another_person():
    """Someone else's IXI012, one digit off the published number, is no person of IXI."""
    entry = load_roster()[subjects_of("test")[0]]
    for place in range(-7, -3):
        digit = str((int(entry.name[place]) + 1) % 10)
        name = entry.name[:place] + digit + entry.name[place + 1 :]
        scan = Scan(entry.subject, entry.site, f"/data/{name}.nii.gz")
        assert assign_splits([scan]) == {entry.subject: "train"}


def test_people_of_another_cohort_do_not_inherit_a_split():
    entries = [load_roster()[subject] for subject in subjects_of("test")[:12]]
    scans = [Scan(e.subject, "Guys", f"/data/{e.subject}-Guys-9999-T1.nii.gz") for e in entries]
    split_of = assign_splits(scans)
    assert split_of == split_subjects({e.subject: "unknown/unknown" for e in entries})
    assert set(split_of.values()) == set(SPLITS)


def test_mixed_cohort_splits_the_others_among_themselves():
    ixi = load_roster()["IXI533"]
    own = [
        Scan(
            f"sub-{i:02d}",
            "",
            f"/d/sub-{i:02d}.nii",
            "male" if i % 2 else "female",
            ("white", "black", "asian")[i % 3],
            40,
        )
        for i in range(60)
    ]
    split_of = assign_splits([*own, Scan(ixi.subject, ixi.site, f"/d/{ixi.name}.nii.gz")])
    assert split_of.pop("IXI533") == ixi.split
    strata = {scan.subject: f"{scan.sex}/{scan.ethnicity}" for scan in own}
    assert split_of == split_subjects(strata)


def test_people_of_ixi_do_not_move_the_others_nor_others_them():
    own = [Scan(f"sub-{i:02d}", "", f"/d/sub-{i:02d}.nii") for i in range(30)]
    ixi = [
        Scan(entry.subject, entry.site, f"/d/{entry.name}.nii.gz")
        for entry in list(load_roster().values())[:50]
    ]
    alone = assign_splits(own)
    assert set(alone.values()) == set(SPLITS)
    both = assign_splits([*ixi, *own])
    assert list(both) == sorted(both) and len(both) == 80
    assert {subject: both[subject] for subject in alone} == alone
    assert all(both[scan.subject] == load_roster()[scan.subject].split for scan in ixi)


def test_fractions_move_people_of_other_cohorts_only():
    fractions = {"validation": Fraction(1, 4), "test": Fraction(1, 4)}
    own = [Scan(f"sub-{i:02d}", "", f"/d/sub-{i:02d}.nii") for i in range(40)]
    entries = [load_roster()[subject] for subject in subjects_of("train")[:20]]
    ixi = [Scan(entry.subject, entry.site, f"/d/{entry.name}.nii.gz") for entry in entries]
    split_of = assign_splits([*own, *ixi], fractions=fractions)
    assert {split_of[entry.subject] for entry in entries} == {"train"}
    sizes = collections.Counter(split_of[scan.subject] for scan in own)
    assert sizes == {"train": 20, "validation": 10, "test": 10}


def demographics_of(people):
    """A workbook's table of id -> (sex, ethnicity)."""
    rows = {number: (*person, 40.0, 170.0, 70.0) for number, person in people.items()}
    columns = ["sex", "ethnicity", "age", "height", "weight"]
    return Demographics(pd.DataFrame.from_dict(rows, orient="index", columns=columns), ())


def test_the_roster_is_derived_by_sex_and_ethnicity_with_those_without_a_row_in_train():
    names = [f"IXI{700 + i}-{('Guys', 'HH', 'IOP')[i % 3]}-{i:04d}-T1" for i in range(90)]
    people = {
        700 + i: (("female", "male")[i % 2], ("white", "black", "asian")[i // 2 % 3])
        for i in range(90)
        if i % 9
    }
    derived = derive_roster_splits(demographics_of(people), reversed(names))
    assert list(derived) == [name[:6] for name in names]
    strata = {f"IXI{number}": f"{sex}/{ethnic}" for number, (sex, ethnic) in people.items()}
    expected = split_subjects(strata) | {f"IXI{700 + i}": "train" for i in range(0, 90, 9)}
    assert derived == expected


@pytest.mark.parametrize("name", ["IXI002-Guys-0828", "IXI002-Guys-0828-T1.nii", "sub-01", ""])
def test_only_names_of_volumes_are_in_the_roster(name):
    with pytest.raises(ValueError, match="is not the name of a volume of IXI"):
        derive_roster_splits(demographics_of({2: ("female", "white")}), [name])
