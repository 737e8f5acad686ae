import math

import pandas as pd
import pytest

from ixi_tfds.cohorts.ixi import IXI
from ixi_tfds.cohorts.ixi.workbook import find_workbook, read_demographics
from ixi_tfds.features import ETHNICITIES, SEXES
from ixi_tfds.system.errors import WorkbookError

SEX = "SEX_ID (1=m, 2=f)"
SOMEONE = {
    "IXI_ID": 701, SEX: 2, "HEIGHT": 170, "WEIGHT": 60, "ETHNIC_ID": 1, "MARITAL_ID": 2,
    "OCCUPATION_ID": 1, "QUALIFICATION_ID": 5, "DOB": "1970-01-30", "DATE_AVAILABLE": 1,
    "STUDY_DATE": pd.Timestamp("2005-11-18"), "AGE": 35.5,
}  # fmt: skip
ZEROS = dict.fromkeys(
    ("HEIGHT", "WEIGHT", "ETHNIC_ID", "MARITAL_ID", "OCCUPATION_ID", "QUALIFICATION_ID"), 0
)


def row(**changes):
    return SOMEONE | changes


@pytest.fixture
def read(tmp_path):
    """Write rows as a workbook and read them."""

    def write_and_read(*rows, study_dates=(), name="IXI.xlsx"):
        path = tmp_path / name
        if path.suffix == ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        else:
            with pd.ExcelWriter(path) as book:
                dates = pd.DataFrame(list(study_dates), columns=["ixi_id", "study_date"])
                dates.to_excel(book, sheet_name="Study Date", index=False)
                pd.DataFrame(rows).to_excel(book, sheet_name="Table", index=False)
        return read_demographics(str(path))

    return write_and_read


@pytest.mark.parametrize("name", ["IXI.xlsx", "ixi.CSV"])
def test_a_plain_row_is_read(read, name):
    found = read(row(), row(IXI_ID=12, **{SEX: 1}, ETHNIC_ID=4, AGE=None), name=name.lower())
    assert list(found.table.index) == [12, 701]
    assert dict(found.table.loc[701]) == {
        "sex": "female", "ethnicity": "white", "age": 35.5, "height": 170.0, "weight": 60.0,
    }  # fmt: skip
    assert list(found.table.loc[12, ["sex", "ethnicity"]]) == ["male", "black"]
    assert math.isnan(found.table.loc[12, "age"])
    assert found.warnings == ()


def test_names_are_those_of_the_features(read):
    codes = [1, 3, 4, 5, 6, 0, 2]
    rows = [row(IXI_ID=i, ETHNIC_ID=code) for i, code in enumerate(codes)]
    found = read(*rows, row(IXI_ID=90, **{SEX: 1}), row(IXI_ID=91, **{SEX: None}))
    assert list(found.table["ethnicity"][:7]) == [
        "white", "asian", "black", "chinese", "other", "unknown", "unknown",
    ]  # fmt: skip
    assert list(found.table["sex"][7:]) == ["male", "unknown"]
    assert set(found.table["ethnicity"]) <= set(ETHNICITIES)
    assert set(found.table["sex"]) <= set(SEXES)
    assert found.warnings == ("id 6: ETHNIC_ID has the unlisted code 2: unknown",)


def test_zeros_are_missing_without_a_warning(read):
    found = read(row(**ZEROS))
    assert found.table.loc[701, "ethnicity"] == "unknown"
    assert found.table.loc[701, ["height", "weight"]].isna().all()
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("column", "value", "bounds"),
    [
        ("HEIGHT", 1850, "120 to 220"),
        ("HEIGHT", 75, "120 to 220"),
        ("WEIGHT", 710, "30 to 200"),
        ("AGE", -3, "0 to 120"),
        ("AGE", 199, "0 to 120"),
    ],
)
def test_implausible_values_become_missing(read, column, value, bounds):
    found = read(row(**{column: value}))
    assert math.isnan(found.table.loc[701, column.lower()])
    assert found.warnings == (f"id 701: {column} {value} is outside {bounds}: missing",)


def test_text_where_numbers_belong_becomes_missing(read):
    found = read(row(AGE="about 40", HEIGHT="172", WEIGHT=" "), row(IXI_ID="new"), row(IXI_ID=3.5))
    assert list(found.table.index) == [701]
    assert math.isnan(found.table.loc[701, "age"])
    assert found.table.loc[701, "height"] == 172.0
    assert math.isnan(found.table.loc[701, "weight"])
    assert found.warnings == (
        "id 701: AGE is 'about 40', which is not a number: missing",
        "row 2 of 'Table' has 'new' as id: ignored",
        "row 3 of 'Table' has 3.5 as id: ignored",
    )


@pytest.mark.parametrize("order", [1, -1])
def test_zero_filled_row_loses_but_may_complete(read, order):
    rows = [row(AGE=None), row(**ZEROS, AGE=41.25)][::order]
    found = read(*rows)
    assert dict(found.table.loc[701, ["age", "height"]]) == {"age": 41.25, "height": 170.0}
    assert found.warnings == ()


@pytest.mark.parametrize("order", [1, -1])
def test_of_zero_filled_rows_alone_none_wins(read, order):
    found = read(*[row(**ZEROS), row(**ZEROS, AGE=41.25)][::order])
    assert found.table.loc[701, "sex"] == "female" and math.isnan(found.table.loc[701, "age"])
    assert found.warnings == ("id 701: rows disagree on AGE (35.5 and 41.25): missing",)


@pytest.mark.parametrize("order", [1, -1])
def test_row_about_someone_else_completes_nothing(read, order):
    rows = [row(AGE=None), row(**ZEROS, **{SEX: 1}, AGE=41.25)][::order]
    found = read(*rows)
    assert found.table.loc[701, "sex"] == "female"
    assert math.isnan(found.table.loc[701, "age"])
    assert found.warnings == (f"id 701: ignored a row that contradicts the kept one on {SEX}",)


@pytest.mark.parametrize("order", [1, -1])
def test_study_date_decides_between_filled_rows(read, order):
    other = row(AGE=58.0, HEIGHT=164, STUDY_DATE=pd.Timestamp("2006-03-10"))
    found = read(*[row(), other][::order], study_dates=[(701, pd.Timestamp("2006-03-10"))])
    assert dict(found.table.loc[701, ["age", "height"]]) == {"age": 58.0, "height": 164.0}
    assert found.warnings == ("id 701: ignored a row that contradicts the kept one on AGE, HEIGHT",)


@pytest.mark.parametrize(
    ("column", "lowest", "highest"),
    [
        ("AGE", 0, 120),
        ("HEIGHT", 120, 220),
        ("WEIGHT", 30, 200),
    ],
)
def test_the_ends_of_what_is_plausible_are_believed(read, column, lowest, highest):
    rows = [lowest, highest, lowest - 0.5, highest + 0.5]
    found = read(*(row(IXI_ID=number, **{column: value}) for number, value in enumerate(rows)))
    values = list(found.table[column.lower()])
    assert values[:2] == [lowest, highest] and all(math.isnan(value) for value in values[2:])
    assert len(found.warnings) == 2
    others = {"AGE", "HEIGHT", "WEIGHT"} - {column}
    assert all((found.table[other.lower()] == SOMEONE[other]).all() for other in others)


def test_the_first_and_the_last_id_count(read):
    found = read(row(IXI_ID=999), row(IXI_ID=0), row(IXI_ID="17"))
    assert list(found.table.index) == [0, 17, 999] and found.warnings == ()


def test_a_row_in_which_little_is_filled_is_not_a_zero_filled_one(read):
    """Any one of its columns shows that somebody filled it."""
    for column in ZEROS:
        little = row(**(ZEROS | {column: SOMEONE[column]}), AGE=58.0)
        found = read(row(AGE=35.5), little)
        assert math.isnan(found.table.loc[701, "age"]), column
        assert found.warnings == ("id 701: rows disagree on AGE (35.5 and 58): missing",), column


def test_the_study_date_of_someone_else_decides_nothing(read):
    other = row(AGE=58.0, STUDY_DATE=pd.Timestamp("2006-03-10"))
    found = read(row(), other, study_dates=[(702, pd.Timestamp("2006-03-10"))])
    assert math.isnan(found.table.loc[701, "age"])


def test_a_study_date_that_several_rows_have_decides_nothing(read):
    third = row(AGE=58.0, STUDY_DATE=pd.Timestamp("2006-03-10"))
    found = read(row(), row(), third, study_dates=[(701, SOMEONE["STUDY_DATE"])])
    assert math.isnan(found.table.loc[701, "age"])
    assert found.warnings == ("id 701: rows disagree on AGE (35.5 and 58): missing",)


def test_each_study_date_of_a_person_counts(read):
    dates = [pd.Timestamp("2006-03-10"), pd.Timestamp("1999-01-01")]
    for order in (1, -1):
        found = read(
            *(row(), row(AGE=58.0, STUDY_DATE=dates[0])),
            study_dates=[(701, date) for date in dates[::order]],
        )
        assert found.table.loc[701, "age"] == 58.0


@pytest.mark.parametrize(
    ("column", "value"), [(SEX, 1), ("ETHNIC_ID", 4), ("HEIGHT", 150), ("WEIGHT", 90)]
)
def test_a_row_of_another_date_that_contradicts_in_any_field_completes_nothing(read, column, value):
    other = row(STUDY_DATE=pd.Timestamp("2006-03-10"), **{column: value})
    found = read(row(AGE=None), other, study_dates=[(701, SOMEONE["STUDY_DATE"])])
    assert math.isnan(found.table.loc[701, "age"])
    assert found.warnings == (f"id 701: ignored a row that contradicts the kept one on {column}",)


def test_of_rows_that_lost_the_first_completes_and_the_next_may_contradict_it(read):
    found = read(row(**ZEROS, AGE=41.25), row(AGE=None), row(**ZEROS, AGE=42.0))
    assert found.table.loc[701, "age"] == 41.25
    assert found.warnings == ("id 701: ignored a row that contradicts the kept one on AGE",)


def test_what_good_rows_disagree_on_is_not_taken_from_a_zero_filled_one(read):
    found = read(row(), row(AGE=58.0, WEIGHT=0), row(**ZEROS, AGE=58.0))
    assert math.isnan(found.table.loc[701, "age"]) and found.table.loc[701, "weight"] == 60.0


def test_one_person_is_told_from_the_next(read):
    """Rows of several people, some twice, in no order: each gets their own."""
    people = {
        number: row(
            IXI_ID=number,
            **{SEX: 1 + number % 2},
            ETHNIC_ID=(1, 3, 4, 5, 6)[number % 5],
            AGE=20.0 + number,
            HEIGHT=150 + number,
            WEIGHT=50 + number,
        )
        for number in range(20)
    }
    blank = [person | ZEROS | {"AGE": None} for person in list(people.values())[::3]]
    found = read(*blank[::2], *list(people.values())[::-1], *blank[1::2])
    assert list(found.table.index) == list(range(20)) and found.warnings == ()
    for number, person in found.table.iterrows():
        assert list(person) == [
            ("male", "female")[number % 2],
            ("white", "asian", "black", "chinese", "other")[number % 5],
            *(20.0 + number, 150.0 + number, 50.0 + number),
        ]


@pytest.mark.parametrize("order", [1, -1])
def test_what_equally_good_rows_disagree_on_becomes_missing(read, order):
    rows = [row(WEIGHT=0), row(AGE=58.0, **{SEX: 1})][::order]
    found = read(*rows, study_dates=[(701, pd.Timestamp("2005-11-18"))])
    assert list(found.table.loc[701, ["sex", "ethnicity"]]) == ["unknown", "white"]
    assert math.isnan(found.table.loc[701, "age"])
    assert dict(found.table.loc[701, ["height", "weight"]]) == {"height": 170.0, "weight": 60.0}
    assert found.warnings == (
        f"id 701: rows disagree on {SEX} (1 and 2): missing",
        "id 701: rows disagree on AGE (35.5 and 58): missing",
    )


def test_missing_columns_and_sheets_are_named(read, tmp_path):
    short = {key: value for key, value in SOMEONE.items() if key not in (SEX, "AGE")}
    with pytest.raises(WorkbookError, match=r"IXI\.xlsx: .*'SEX_ID \(1=m, 2=f\)', 'AGE'"):
        read(short)
    with pytest.raises(WorkbookError, match=r"sheet 'Table' has no row"):
        read(dict.fromkeys(SOMEONE))
    with pytest.raises(WorkbookError, match=r"sheet 'Study Date' lacks the column 'study_date'"):
        with pd.ExcelWriter(tmp_path / "dates.xlsx") as book:
            pd.DataFrame({"ixi_id": [1]}).to_excel(book, sheet_name="Study Date", index=False)
            pd.DataFrame([SOMEONE]).to_excel(book, sheet_name="Table", index=False)
        read_demographics(str(tmp_path / "dates.xlsx"))
    other = tmp_path / "other.xlsx"
    pd.DataFrame([SOMEONE]).to_excel(other, sheet_name="table", index=False)
    with pytest.raises(WorkbookError, match=r"other\.xlsx: has no sheet 'Table'"):
        read_demographics(str(other))


@pytest.mark.parametrize("name", ["IXI.xls", "IXI.xlsx", "IXI.csv"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 cut short", b"\xd0\xcf\x11"]
)
def test_files_that_are_no_workbooks_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WorkbookError, match=name):
        read_demographics(str(tmp_path / name))
    with pytest.raises(WorkbookError, match="nowhere"):
        read_demographics(str(tmp_path / "nowhere" / name))


def test_no_workbook_says_what_will_be_missing():
    found = read_demographics(None)
    assert found.table.empty
    assert "sex, ethnicity and age of all subjects will be missing" in found.warnings[0]


def test_workbook_is_found_in_any_case(tmp_path):
    assert find_workbook(str(tmp_path)) is None
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "IXI.xls").touch()
    (tmp_path / "IXI.xlsx").mkdir()
    assert find_workbook(str(tmp_path)) is None
    (tmp_path / "ixi.XLS").touch()
    assert find_workbook(str(tmp_path)) == str(tmp_path / "ixi.XLS")
    (tmp_path / "IXI.csv").touch()
    with pytest.raises(WorkbookError, match=r"IXI\.csv and .*ixi\.XLS"):
        find_workbook(str(tmp_path))


def test_people_are_known_by_their_subjects_in_the_workbook_there_or_in_another(read, tmp_path):
    read(row(IXI_ID=2), row(IXI_ID=701, **{SEX: 1}, AGE=999))
    found = IXI.find_people(str(tmp_path), None)
    assert found.facts["IXI002"] == {"sex": "female", "ethnicity": "white", "age": 35.5}
    assert found.facts["IXI701"]["sex"] == "male" and math.isnan(found.facts["IXI701"]["age"])
    assert list(found.facts) == ["IXI002", "IXI701"] and "AGE 999" in found.warnings[0]
    pd.DataFrame([row(IXI_ID=3)]).to_csv(tmp_path / "other.csv", index=False)
    assert list(IXI.find_people(str(tmp_path), str(tmp_path / "other.csv")).facts) == ["IXI003"]


@pytest.mark.real_data
def test_the_real_workbook(real_data):
    found = read_demographics(str(real_data / "ixi" / "IXI.xls"))
    table = found.table
    assert len(table) == 593
    assert table.index.is_monotonic_increasing and table.index.is_unique
    assert dict(table.loc[328, ["sex", "height"]]) == {"sex": "female", "height": 155.0}
    assert table.loc[328, "age"] == pytest.approx(61.785, abs=1e-3)
    assert list(table.loc[219, ["sex", "ethnicity"]]) == ["female", "white"]
    assert table.loc[219, ["age", "height", "weight"]].isna().all()
    assert table.loc[549, "ethnicity"] == "white"
    assert table["height"].between(120, 220).sum() == table["height"].notna().sum()
    named = {int(warning.split()[1].rstrip(":")) for warning in found.warnings}
    assert {219, 328, 392, 416, 199, 368, 387, 491, 560, 607} <= named
    assert len([warning for warning in found.warnings if "unlisted code 2" in warning]) == 16
