import collections
import hashlib
import math
import random
import subprocess
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixi_tfds.catalog import Scan
from ixi_tfds.demographics import read_demographics
from ixi_tfds.roster import git_blob_sha1, is_original, load_roster
from ixi_tfds.splits import FRACTIONS, SPLITS, assign_splits, derive_roster_splits, split_subjects

# Whoever changes these moves people of IXI between train and test.
DIGESTS = {
    "train": "7d2fe18a61ad21f1e78729d765e9b93070c97d3ba0186d7749bcaea7d3722c54",
    "validation": "dc0907e0c53f3f112a78e672c03acf7dbe0e65f085a0e07ee3deca060eb060a7",
    "test": "e6717a4dff25366e09593829cd52a4b2f2864d6dfab86009256828870181330c",
}
WITHOUT_DEMOGRAPHICS = {
    f"IXI{number:03d}"
    for number in (81, 88, 117, 228, 333, 337, 340, 345, 347, 457, 589, 637, 638, 643, 661)
}


def subjects_of(split):
    return [subject for subject, entry in load_roster().items() if entry.split == split]


def test_roster_has_the_581_volumes():
    roster = load_roster()
    assert len(roster) == 581
    sites = collections.Counter(entry.site for entry in roster.values())
    assert sites == {"Guys": 322, "HH": 185, "IOP": 74}
    for subject, entry in roster.items():
        assert entry.subject == subject
        assert entry.name.split("-")[:2] == [subject, entry.site]
        assert len(entry.git_blob_sha1) in (0, 40)
    unknown = {subject for subject, entry in roster.items() if not entry.git_blob_sha1}
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
    roster = load_roster()
    demographics = read_demographics(str(real_data / "ixi" / "IXI.xls"))
    names = [entry.name for entry in roster.values()]
    derived = derive_roster_splits(demographics, reversed(names))
    assert derived == {subject: entry.split for subject, entry in roster.items()}


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
    data = b"what is in a blob\n" * 1000
    told = subprocess.run(["git", "hash-object", "--stdin"], input=data, capture_output=True)
    if told.returncode:
        pytest.skip("git is not installed")
    assert git_blob_sha1(data) == told.stdout.decode().strip()


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


def test_fractions_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="less than 1 together"):
        split_subjects({"a": "x"}, fractions={"validation": Fraction(1, 2), "test": Fraction(1, 2)})


def test_people_of_ixi_take_the_split_of_the_roster_however_few_there_are():
    entries = [load_roster()[subject] for subject in subjects_of("test")[:5]]
    scans = [Scan(e.subject, e.site, f"/data/{e.site}/{e.name}.nii.gz") for e in entries]
    assert assign_splits(scans) == {entry.subject: "test" for entry in entries}
    unzipped = [Scan(e.subject, e.site, f"/data/{e.name}.nii") for e in entries[:1]]
    assert assign_splits(unzipped) == {entries[0].subject: "test"}


def test_people_of_another_cohort_do_not_inherit_a_split():
    entries = [load_roster()[subject] for subject in subjects_of("test")[:12]]
    scans = [Scan(e.subject, "Guys", f"/data/{e.subject}-Guys-9999-T1.nii.gz") for e in entries]
    split_of = assign_splits(scans)
    assert split_of == split_subjects({e.subject: "unknown/unknown" for e in entries})
    assert set(split_of.values()) == set(SPLITS)


def test_mixed_cohort_splits_the_others_among_themselves():
    ixi = load_roster()["IXI533"]
    own = [
        Scan(f"sub-{i:02d}", "", f"/d/sub-{i:02d}.nii", "male" if i % 2 else "female", "white", 40)
        for i in range(20)
    ]
    split_of = assign_splits([*own, Scan(ixi.subject, ixi.site, f"/d/{ixi.name}.nii.gz")])
    assert split_of.pop("IXI533") == ixi.split
    strata = {scan.subject: f"{scan.sex}/{scan.ethnicity}" for scan in own}
    assert split_of == split_subjects(strata)
