"""The demo cohort: names, geometry, what the heads look like, the workbook's quirks, same bytes."""

import collections
import gzip
import pathlib
import re

import nibabel as nib
import nilearn.datasets  # noqa: F401  # it sets environment variables, which no test may
import numpy as np
import openpyxl
import pandas as pd
import pytest
from scipy import ndimage

from evaluator.lesions.maps import head_mask
from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.demo import cohort
from ixi_tfds.demo.head import SITES, brain_mask, make_head
from ixi_tfds.system.errors import UserError

SMALL = {"shape": (64, 64, 48), "zooms": (3.75, 3.75, 3.75)}


@pytest.fixture(scope="module")
def workbook(tmp_path_factory):
    path = tmp_path_factory.mktemp("workbook") / "IXI.xlsx"
    cohort.write_workbook(path, cohort.cohort(24), seed=0)
    return path


@pytest.fixture(scope="module")
def table(workbook):
    return pd.read_excel(workbook, sheet_name="Table")


def test_names_have_the_form_of_ixi_and_no_real_id():
    everyone = cohort.cohort(cohort.LAST_ID - cohort.LAST_REAL_ID, cohort.LAST_REAL_ID + 1)
    names = [person.file_name for person in everyone]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"IXI\d{3}-(Guys|HH|IOP)-\d{4}-T1\.nii\.gz", name) for name in names)
    real = set(re.findall(r"IXI\d{3}", IXI.roster.read_text()))
    assert len(real) == 581
    assert not real & {person.name for person in everyone}


@pytest.mark.real_data
def test_no_id_of_the_published_names(real_data):
    published = (real_data / "ixi" / "IXI-T1.filenames.txt").read_text()
    assert max(map(int, re.findall(r"IXI(\d{3})-", published))) == cohort.LAST_REAL_ID


@pytest.mark.parametrize(("subjects", "first_id"), [(0, 701), (3, 662), (300, 701), (-1, 800)])
def test_refuses_ids_that_are_not_free(subjects, first_id):
    with pytest.raises(UserError, match="between 663 and 999"):
        cohort.cohort(subjects, first_id)


def test_sites_and_slice_counts_stand_about_as_in_ixi():
    people = cohort.cohort(24)
    assert {150, 146} < {person.slices for person in people}
    assert {person.site for person in people} == set(SITES)
    everyone = cohort.cohort(299)
    slices = collections.Counter(person.slices for person in everyone)
    assert set(slices) == {150, 146, 140, 130}
    assert slices[150] / 299 == pytest.approx(503 / 581, abs=0.03)
    sites = collections.Counter(person.site for person in everyone)
    for site, count in {"Guys": 322, "HH": 185, "IOP": 74}.items():
        assert sites[site] / 299 == pytest.approx(count / 581, abs=0.03)


def test_small_head_has_the_axes_of_ixi_and_oblique_affine():
    image = make_head("IXI701", "Guys", seed=0, **SMALL)
    assert image.shape == (64, 64, 48)
    assert image.get_data_dtype() == np.int16
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R")
    assert image.header.get_zooms() == pytest.approx((3.75, 3.75, 3.75), abs=1e-3)
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    off_axis = nib.affines.obliquity(image.affine)
    assert 0.001 < off_axis.max() < np.deg2rad(25)
    data = np.asarray(image.dataobj)
    assert data.min() >= 0 and 300 < data.max() < 2500


def test_heads_differ_by_subject_seed_and_site():
    heads = [
        np.asarray(make_head(name, site, seed=seed, **SMALL).dataobj).astype(float)
        for name, site, seed in [
            ("IXI701", "Guys", 0),
            ("IXI702", "Guys", 0),
            ("IXI701", "Guys", 1),
            ("IXI701", "HH", 0),
        ]
    ]
    scaled = [head / np.percentile(head, 99) for head in heads]
    for other in scaled[1:]:
        assert np.abs(scaled[0] - other).mean() > 0.01
    with pytest.raises(KeyError):
        make_head("IXI701", "elsewhere", seed=0, **SMALL)


def test_a_subject_has_the_same_bytes_in_any_cohort(tmp_path):
    alone = cohort.write_cohort(
        tmp_path / "one", subjects=1, first_id=703, coarsen=4, progress=False
    )
    among = cohort.write_cohort(
        tmp_path / "three", subjects=3, first_id=702, coarsen=4, progress=False
    )
    assert [pathlib.Path(path).name[:6] for path in among] == ["IXI702", "IXI703", "IXI704"]
    first, second = pathlib.Path(alone[0]).read_bytes(), pathlib.Path(among[1]).read_bytes()
    assert first == second
    # The gzip header has no flags, so no name, and no time.
    assert first[:3] == b"\x1f\x8b\x08"
    assert first[3:8] == bytes(5)
    assert nib.Nifti1Image.from_bytes(gzip.decompress(first)).shape == (64, 64, 37)
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".gz", ".xlsx"}
    assert not list(tmp_path.rglob(".*"))


def test_workbook_has_the_quirks(table):
    people = {person.number: person for person in cohort.cohort(24)}
    rows = {number: table.query("IXI_ID == @number") for number in people}
    quirks = {person.quirk: rows[number] for number, person in people.items()}
    assert [number for number, found in rows.items() if found.empty] == [711]
    assert quirks["no row"].empty
    twice = quirks["zero-filled row"]
    assert len(twice) == 2
    assert (twice.iloc[1][["HEIGHT", "WEIGHT", "ETHNIC_ID", "MARITAL_ID"]] == 0).all()
    assert (twice.iloc[0][["HEIGHT", "WEIGHT", "ETHNIC_ID", "MARITAL_ID"]] > 0).all()
    assert quirks["two sexes"]["SEX_ID (1=m, 2=f)"].nunique() == 2
    assert 1400 < quirks["tenfold height"].HEIGHT.item() < 2100
    assert quirks["no age"].AGE.isna().all() and quirks["no age"].STUDY_DATE.isna().all()
    assert quirks["unknown ethnic code"].ETHNIC_ID.item() == 2
    assert quirks["zeros"].WEIGHT.item() == 0
    assert set(table.DOB.map(lambda value: isinstance(value, str))) == {True, False}
    aged = table[table.AGE.notna()]
    years = (aged.STUDY_DATE - pd.to_datetime(aged.DOB.astype(str).str[:10])).dt.days / 365.25
    assert np.allclose(years, aged.AGE)
    assert aged.AGE.between(19, 87).all()


def test_workbook_is_the_same_file_again(workbook, tmp_path):
    again = tmp_path / "again.xlsx"
    cohort.write_workbook(again, cohort.cohort(24), seed=0)
    assert again.read_bytes() == workbook.read_bytes()
    cohort.write_workbook(again, cohort.cohort(24), seed=1)
    assert again.read_bytes() != workbook.read_bytes()
    assert openpyxl.load_workbook(workbook).sheetnames[0] == "Table"


@pytest.mark.real_data
def test_workbook_has_the_sheets_and_columns_of_the_real_one(workbook, real_data):
    ours = pd.read_excel(workbook, sheet_name=None)
    real = pd.read_excel(real_data / "ixi" / "IXI.xls", sheet_name=None)
    assert list(ours) == list(real)
    for name, sheet in real.items():
        assert list(ours[name].columns) == list(sheet.columns)
        if name not in ("Table", "Study Date"):
            assert ours[name].equals(sheet.astype(ours[name].dtypes))


def test_every_volume_is_of_its_own_person_site_and_seed(tmp_path):
    """What `make_head` gives for name, site and seed lies in the file of that name."""
    paths = cohort.write_cohort(tmp_path / "a", subjects=3, seed=5, coarsen=4, progress=False)
    for path in map(pathlib.Path, paths):
        name, site, *_ = path.name.split("-")
        stored = nib.load(path)
        zooms = (3.75, 3.75, 4.8)
        expected = make_head(name, site, seed=5, shape=stored.shape, zooms=zooms)
        np.testing.assert_array_equal(stored.get_fdata(), expected.get_fdata())
        np.testing.assert_allclose(stored.affine, expected.affine, atol=1e-5)
    other = cohort.write_cohort(tmp_path / "b", subjects=1, seed=6, coarsen=4, progress=False)
    assert pathlib.Path(other[0]).read_bytes() != pathlib.Path(paths[0]).read_bytes()
    books = [(tmp_path / folder / cohort.WORKBOOK).read_bytes() for folder in "ab"]
    assert books[0] != books[1]


def stripped(volume):
    """The brain as a picture alone shows it: inside the dark skull, bone and fluid peeled off."""
    bright = ndimage.gaussian_filter(volume, 0.7) > 0.6 * np.median(volume[55:70, 70:85, 25:55])
    parts, _ = ndimage.label(ndimage.binary_erosion(bright))
    largest = parts == np.bincount(parts[45:85, 65:95, 20:60].ravel())[1:].argmax() + 1
    return ndimage.binary_closing(ndimage.binary_dilation(largest), iterations=4)


@pytest.mark.parametrize(("name", "site"), [("IXI701", "HH"), ("IXI702", "Guys")])
def test_brain_mask_is_where_the_picture_shows_a_brain(name, site):
    half = {"seed": 0, "shape": (128, 128, 75), "zooms": (1.875, 1.875, 2.4)}
    volume, mask = make_head(name, site, **half).get_fdata(), brain_mask(name, site, **half)
    assert mask.dtype == bool and mask.shape == (128, 128, 75)
    assert 1.0 < mask.sum() * 1.875 * 1.875 * 2.4 / 1e6 < 2.2, "litres"
    shown = stripped(volume)
    overlap = 2 * (mask & shown).sum() / (mask.sum() + shown.sum())
    assert overlap > 0.95
    # The skull, dark, is all round it.
    around = ndimage.binary_dilation(mask, iterations=3) & ~mask
    assert np.median(volume[around]) < 0.4 * np.median(volume[mask])
    for index in range(10, 65, 5):
        head = head_mask((volume[:, :, index] / volume.max()).astype(np.float32))
        assert not (mask[:, :, index] & ~head).any()
    assert ndimage.label(mask)[1] == 1


def test_brain_masks_differ_by_subject_and_seed_and_not_by_site():
    masks = [
        brain_mask(name, site, seed=seed, **SMALL)
        for name, site, seed in [
            ("IXI701", "Guys", 0),
            ("IXI701", "IOP", 0),
            ("IXI702", "Guys", 0),
            ("IXI701", "Guys", 1),
        ]
    ]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] ^ masks[2]).sum() > 0.02 * masks[0].sum()
    assert (masks[0] ^ masks[3]).sum() > 0.02 * masks[0].sum()


def test_masks_of_brains_lie_on_the_grids_of_the_heads_and_change_none(tmp_path):
    flags = {"subjects": 2, "seed": 3, "coarsen": 4, "progress": False}
    paths = cohort.write_cohort(tmp_path / "with", **flags, brain_masks=tmp_path / "masks")
    alone = cohort.write_cohort(tmp_path / "without", **flags)
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [pathlib.Path(path).name.replace(".nii", "_mask.nii") for path in paths]
    for path, other, name in zip(paths, alone, names, strict=True):
        assert pathlib.Path(path).read_bytes() == pathlib.Path(other).read_bytes()
        head, mask = nib.load(path), nib.load(tmp_path / "masks" / name)
        values, inside = np.asarray(head.dataobj), np.asarray(mask.dataobj)
        assert (head.affine == mask.affine).all() and set(np.unique(inside)) == {0, 1}
        around = ndimage.binary_dilation(inside, iterations=2) & ~inside.astype(bool)
        assert np.median(values[around]) < 0.6 * np.median(values[inside == 1])


def test_air_has_the_noise_of_a_magnitude_image():
    """Rayleigh's: its mean is 1.91 of its deviation; that of a real part alone would be 1.32."""
    data = make_head("IXI701", "Guys", seed=0, **SMALL).get_fdata()
    air = data[:6, 56:]
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), abs=0.15)


def test_men_and_women_of_the_workbook_are_of_their_own_height(tmp_path):
    cohort.write_workbook(tmp_path / "x.xlsx", cohort.cohort(299), seed=0)
    table = pd.read_excel(tmp_path / "x.xlsx", sheet_name="Table").drop_duplicates("IXI_ID")
    table = table[table.HEIGHT.between(100, 250)]
    heights = table.groupby("SEX_ID (1=m, 2=f)").HEIGHT.mean()
    assert heights[1] == pytest.approx(176, abs=3) and heights[2] == pytest.approx(163, abs=3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [702, 717, 801])
def test_full_size_volume_shows_a_head_with_its_brain_in_the_window(number, tmp_path):
    person = cohort.Subject(number)
    path = tmp_path / person.file_name
    path.write_bytes(cohort.volume_bytes(person, seed=0))
    image = nib.load(path)
    assert image.shape == (256, 256, person.slices)
    assert image.header.get_zooms() == pytest.approx((0.9375, 0.9375, 1.2), abs=1e-4)
    volume = np.asarray(image.dataobj).astype(float)
    assert volume.max() < 2500
    brain = np.median(volume[110:140, 140:170, 50:110])
    air = volume[:10, 246:, :].mean()
    assert air < 0.1 * brain
    for index in range(50, 110):
        middle = volume[105:150, 135:175, index]
        assert (middle > 0.5 * brain).mean() > 0.6
    # Going up from the middle: brain, then dark skull, then bright scalp, then air.
    column = np.median(volume[120:124, :, 80:84], axis=(0, 2))
    scalp = 180 + int(column[180:].argmax())
    skull = column[scalp - 14 : scalp].min()
    assert column[scalp] > 0.8 * brain
    assert skull < 0.3 * brain
    assert column[min(scalp + 12, 255)] < 0.15 * brain
