"""`participants.tsv` with columns of other names, codes and units, and `participants.json`."""

import json
import math

import pytest

from ixi_tfds.cohorts.participants import read_participants


def read(folder, rows, described=None):
    """What is read of a table, whose cells are separated by spaces here, and the warnings."""
    text = "".join("\t".join(row.split(" ")) + "\n" for row in rows)
    (folder / "participants.tsv").write_text(text, encoding="utf-8")
    if described is not None:
        content = described if isinstance(described, str) else json.dumps(described)
        (folder / "participants.json").write_text(content, encoding="utf-8")
    people, warnings = read_participants(str(folder))
    return {name: (one["sex"], one["age"]) for name, one in people.items()}, warnings


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("participant_id Age Gender", "'Gender' as sex, 'Age' as age"),
        ("participant_ID age_at_scan SEX", "'participant_ID' as participant_id, 'SEX' as sex"),
        ("Participant_Id age_years sex_at_birth", "'age_years' as age"),
        ("subject_id age(years) Sex", "'subject_id' as participant_id"),
        ("participant age gender", "'gender' as sex"),
        ("participant_id age_at_first_scan_years sex", "'age_at_first_scan_years' as age"),
        ("participant_id AgeAtScan BiologicalSex", "'AgeAtScan' as age"),
    ],
)
def test_columns_of_other_names_are_taken_and_named(tmp_path, header, said):
    people, warnings = read(tmp_path, [header, "sub-01 30.5 F"])
    assert people == {"sub-01": ("female", 30.5)}
    (warning,) = warnings
    assert warning.startswith("participants.tsv: takes the column ") and said in warning


def test_of_several_columns_the_one_that_says_least_besides_is_taken(tmp_path):
    people, _ = read(tmp_path, ["participant_id age_at_first_scan Age sex", "sub-01 20 21 F"])
    assert people == {"sub-01": ("female", 21)}


def test_the_name_of_the_specification_comes_first(tmp_path):
    people, warnings = read(
        tmp_path, ["Gender Age participant_id sex age", "M 99 sub-01 F 30", "M 98 sub-02 F 31"]
    )
    assert people == {"sub-01": ("female", 30), "sub-02": ("female", 31)} and warnings == ()


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("participant_id sex group", "age"),
        ("participant_id age iq", "sex"),
        ("participant_id a b", "sex and age"),
        ("participant_id voltage sexual_health", "sex and age"),
        ("participant_id age_at_onset partner_sex", "sex and age"),
        ("participant_id age_group sex_hormones", "sex and age"),
    ],
)
def test_a_column_that_is_missing_is_said_once(tmp_path, header, missing):
    _, warnings = read(tmp_path, [header, "sub-01 n/a n/a", "sub-02 n/a n/a"])
    assert warnings == (f"participants.tsv: has no column for {missing}: missing for everybody",)


def test_a_table_without_rows_is_said(tmp_path):
    people, (warning,) = read(tmp_path, ["participant_id sex age"])
    assert people == {} and "has no rows" in warning


CODES = {"1": "male", "2": {"Description": "Female participants"}, "3": "prefers not to say"}


def test_levels_say_what_codes_mean(tmp_path):
    rows = ["participant_id Gender age", "1 1 30", "2 2.0 31", "3 3 32", "4 n/a 33"]
    people, warnings = read(tmp_path, rows, {"Gender": {"Levels": CODES}})
    assert {name: sex for name, (sex, _) in people.items()} == {
        "sub-1": "male",
        "sub-2": "female",
        "sub-3": "unknown",
        "sub-4": "unknown",
    }
    assert [warning for warning in warnings if "coded (3)" in warning]


@pytest.mark.parametrize("described", [None, {}, {"sex": {"Levels": {"1": "a", "2": "b"}}}, "{"])
def test_codes_without_levels_are_missing_and_said_once(tmp_path, described):
    rows = ["participant_id sex age", *(f"{n:02d} {n % 2 + 1} 30" for n in range(30))]
    people, warnings = read(tmp_path, rows, described)
    assert {sex for sex, _ in people.values()} == {"unknown"}
    coded = [warning for warning in warnings if "sex is coded (1, 2)" in warning]
    assert len(coded) == 1 and len(warnings) == 1 + (described == "{")


def test_levels_that_contradict_a_letter_decide(tmp_path):
    rows = ["participant_id sex age", "1 M 30"]
    people, _ = read(tmp_path, rows, {"sex": {"Levels": {"M": "mujer, female", "H": "male"}}})
    assert people["sub-1"][0] == "female"


@pytest.mark.parametrize(
    ("column", "unit", "age", "said"),
    [
        ("age", "months", 2.5, "are in months, and stored in years"),
        ("age", "Month", 2.5, "stored in years"),
        ("age", "days", 30 / 365.25, "stored in years"),
        ("age_months", None, 2.5, "are in months, and stored in years"),
        ("age", "years", 30, ""),
        ("age", "yrs", 30, ""),
        ("age", "integer", 30, "the unit 'integer' of ages is not known: taken as years"),
        ("age", ["years"], 30, ""),
    ],
)
def test_ages_are_stored_in_years(tmp_path, column, unit, age, said):
    described = None if unit is None else {column: {"Units": unit}}
    people, warnings = read(tmp_path, [f"participant_id sex {column}", "1 F 30"], described)
    assert math.isclose(people["sub-1"][1], age)
    assert said in " / ".join(warnings) and bool(said) == bool(warnings)
