"""Workbooks that are not IXI's: one clear line, or read with a warning for what is given up."""

import io
import math
import re
import tracemalloc
import zipfile
import zlib
from unittest import mock

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fuzz import EXAMPLES
from test_workbook import SOMEONE, row
from volumes import SMALL, write_cohort

from beam_preprocess.__main__ import run
from ixi_tfds.cohorts.ixi.workbook import MOST_ROWS, read_demographics
from ixi_tfds.system.errors import WorkbookError


def write_xlsx(path, rows, **sheets):
    """Rows of cells as openpyxl takes them, so formulas stay formulas; other sheets stand first."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, cells in {**sheets, "Table": rows}.items():
        sheet = book.create_sheet(name)
        for line in cells:
            sheet.append(line)
    book.save(path)
    return str(path)


def table(*people):
    return [list(SOMEONE), *(list(person.values()) for person in people)]


def error_of(path):
    with pytest.raises(WorkbookError) as caught:
        read_demographics(str(path))
    assert str(path) in str(caught.value)
    return " ".join(str(caught.value).split())


@pytest.mark.parametrize("ixi_id", [-1, 1000, 10**30, 1e300, float("inf"), True, "012x"])
def test_ids_out_of_range_are_passed_over(tmp_path, ixi_id):
    rows = [row(), row(IXI_ID=ixi_id)]
    pd.DataFrame(rows).to_csv(tmp_path / "IXI.csv", index=False)
    found = read_demographics(str(tmp_path / "IXI.csv"))
    assert list(found.table.index) == [701] and found.table.loc[701, "age"] == 35.5
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("row 2 of 'Table' has ")
    assert found.warnings[0].endswith("as id: ignored")


def test_true_is_no_number(tmp_path):
    path = write_xlsx(tmp_path / "IXI.xlsx", table(row(AGE=True), row(IXI_ID=True)))
    found = read_demographics(path)
    assert list(found.table.index) == [701] and math.isnan(found.table.loc[701, "age"])
    assert "AGE is True, which is not a number: missing" in found.warnings[0]
    assert "has True as id: ignored" in found.warnings[1]


def with_stored_value(path, formula, value):
    """Put beside a formula the value that a spreadsheet program would have stored."""
    with zipfile.ZipFile(path) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    bare = f"<f>{formula}</f><v />".encode()
    (name,) = [name for name, content in members.items() if bare in content]
    members[name] = members[name].replace(bare, f"<f>{formula}</f><v>{value}</v>".encode())
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def test_a_formula_counts_as_the_value_stored_beside_it(tmp_path):
    path = write_xlsx(tmp_path / "IXI.xlsx", table(row(AGE="=30+5.5", HEIGHT="=1/0")))
    assert read_demographics(path).table.loc[701, ["age", "height"]].isna().all()
    with_stored_value(path, "30+5.5", 35.5)
    assert read_demographics(path).table.loc[701, "age"] == 35.5


def test_ids_that_are_formulas_nobody_computed_give_one_line(tmp_path):
    path = write_xlsx(tmp_path / "IXI.xlsx", table(row(IXI_ID="=ROW()")))
    assert "sheet 'Table' has no row with an id in 'IXI_ID'" in error_of(path)


def test_error_cells_are_missing(tmp_path):
    path = write_xlsx(tmp_path / "IXI.xlsx", table(row(AGE="#REF!", WEIGHT="#DIV/0!")))
    table_of = read_demographics(path).table
    assert table_of.loc[701, ["age", "weight"]].isna().all()
    assert table_of.loc[701, "height"] == 170.0 and table_of.loc[701, "sex"] == "female"


def test_the_order_of_sheets_and_columns_does_not_matter(tmp_path):
    turned = [line[::-1] for line in table(row())]
    path = write_xlsx(tmp_path / "IXI.xlsx", turned, Ethnicity=[["ID", "ETHNICITY"]], Other=[[1]])
    assert read_demographics(path).table.loc[701, "age"] == 35.5


def test_columns_that_stand_twice_are_read_once(tmp_path):
    lines = table(row(), row(IXI_ID=702))
    path = write_xlsx(tmp_path / "IXI.xlsx", [line + line[:1] + [99] for line in lines])
    assert list(read_demographics(path).table.index) == [701, 702]
    lines = [[*line, other] for line, other in zip(lines, ["AGE", 50, 51], strict=True)]
    path = write_xlsx(tmp_path / "twice.xlsx", lines)
    assert list(read_demographics(path).table["age"]) == [35.5, 35.5], "the first counts"


@pytest.mark.parametrize("name", ["IXI.csv", "IXI.xlsx"])
def test_a_million_rows_are_refused_before_they_are_read(tmp_path, name):
    path = tmp_path / name
    if name == "IXI.csv":
        line = ",".join(map(str, SOMEONE.values()))
        path.write_text("\n".join([",".join(SOMEONE), *[line] * 1_000_000]))
    else:
        content = io.BytesIO(write_xlsx(path, table(row())) and path.read_bytes())
        with (
            zipfile.ZipFile(content) as packed,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out,
        ):
            for member in packed.infolist():
                body = packed.read(member)
                if member.filename.endswith("sheet1.xml"):
                    head, _, tail = body.rpartition(b"</sheetData>")
                    body = (
                        head
                        + b'<row><c t="n"><v>1</v></c></row>' * 1_000_000
                        + b"</sheetData>"
                        + tail
                    )
                out.writestr(member.filename, body)
    unread = mock.Mock(side_effect=AssertionError("was read"))
    with mock.patch("pandas.read_csv", unread), mock.patch("pandas.ExcelFile", unread):
        assert "bytes, more than 16777216" in error_of(path)
    unread.assert_not_called()


@pytest.mark.parametrize("name", ["IXI.csv", "IXI.xlsx"])
def test_more_rows_than_there_are_ids_are_refused(tmp_path, name):
    people = [row(IXI_ID=number % 1000) for number in range(MOST_ROWS + 1)]
    if name == "IXI.csv":
        pd.DataFrame(people).to_csv(tmp_path / name, index=False)
    else:
        write_xlsx(tmp_path / name, table(*people))
    with mock.patch("pandas.read_csv", wraps=pd.read_csv) as reader:
        assert "has more than 2000 rows" in error_of(tmp_path / name)
    assert all(call.kwargs["nrows"] == 2001 for call in reader.call_args_list)
    if name == "IXI.csv":
        assert reader.call_count == 1
        # As many as may be are read, to the last of them.
        last = [row(IXI_ID=1), *[row(IXI_ID=2)] * (MOST_ROWS - 2), row(IXI_ID=999, AGE=77)]
        pd.DataFrame(last).to_csv(tmp_path / name, index=False)
        found = read_demographics(str(tmp_path / name)).table
        assert list(found.index) == [1, 2, 999] and found.loc[999, "age"] == 77


def test_a_far_away_cell_does_not_fill_the_memory(tmp_path):
    """Cell XFD1048576 makes a sheet of 17 billion empty cells."""
    book = openpyxl.Workbook()
    book.active.title = "Table"
    for line in table(row()):
        book.active.append(line)
    book.active.cell(1_048_576, 16_384, 1)
    book.save(tmp_path / "IXI.xlsx")
    assert list(read_demographics(str(tmp_path / "IXI.xlsx")).table.index) == [701]


def test_a_workbook_that_inflates_to_gigabytes_is_refused(tmp_path):
    path = write_xlsx(tmp_path / "IXI.xlsx", table(row()))
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    mebibyte = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    with zipfile.ZipFile(path, "a") as packed:
        # Three GiB of zeros, packed by hand: the library would take seconds to pack them.
        packed.writestr("xl/bomb.xml", mebibyte * 3072 + b"\x03\0")
        bomb = packed.getinfo("xl/bomb.xml")
        bomb.compress_type, bomb.file_size = zipfile.ZIP_DEFLATED, 3 << 30
    with zipfile.ZipFile(path) as packed, packed.open("xl/bomb.xml") as inflated:
        assert inflated.read(2 << 20) == bytes(2 << 20), "it does inflate"
    unpacked = mock.Mock(side_effect=AssertionError("was unpacked"))
    with mock.patch("zipfile.ZipFile.open", unpacked):
        said = error_of(path)
    unpacked.assert_not_called()
    assert int(re.search(r"it holds (\d+) bytes, more than 16777216", said)[1]) > 3 << 30


def test_a_workbook_whose_directory_lies_about_its_size_costs_no_memory(tmp_path):
    """A sheet of a GiB that the directory gives as small is read no further than that."""
    write_xlsx(tmp_path / "sound.xlsx", table(row()))
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    mebibyte = deflate.compress(b" " * (1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    path = tmp_path / "IXI.xlsx"
    with zipfile.ZipFile(tmp_path / "sound.xlsx") as sound, zipfile.ZipFile(path, "w") as packed:
        for member in sound.infolist():
            if member.filename.endswith("sheet1.xml"):
                packed.writestr(member.filename, mebibyte * 1024 + b"\x03\0")
                bomb = packed.getinfo(member.filename)
                bomb.compress_type, bomb.file_size = zipfile.ZIP_DEFLATED, 1000
            else:
                packed.writestr(member.filename, sound.read(member))
    tracemalloc.start()
    try:
        assert "cannot be read as a workbook" in error_of(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20, peak


def test_entities_that_expand_without_end_are_refused(tmp_path):
    path = tmp_path / "IXI.xlsx"
    write_xlsx(path, table(row()))
    with zipfile.ZipFile(path) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    levels = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a0 "lol">{levels}]>'
    (name,) = [name for name in members if name.endswith("sheet1.xml")]
    body = (
        members[name].decode().partition("?>")[2]
        if b"<?xml" in members[name]
        else members[name].decode()
    )
    members[name] = (bomb + body.replace("<v>701</v>", "<v>&a9;</v>")).encode()
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    assert "cannot be read as a workbook" in error_of(path)


cells = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.datetimes()
)


@settings(max_examples=EXAMPLES or 60, derandomize=not EXAMPLES, database=None, deadline=None)
@given(rows=st.lists(st.lists(cells, min_size=12, max_size=12), min_size=1, max_size=6))
def test_any_cells_give_a_table_or_one_error(rows):
    """Below the file formats, whose readers are pandas's: any values that they may hand over."""
    sheet = pd.DataFrame(rows, columns=list(SOMEONE), dtype=object)
    book = mock.MagicMock(sheet_names=["Table"], parse=lambda name, **kwargs: sheet)
    book.__enter__.return_value = book
    with (
        mock.patch("ixi_tfds.cohorts.ixi.workbook._content"),
        mock.patch("pandas.ExcelFile", return_value=book),
    ):
        try:
            found = read_demographics("IXI.xlsx")
        except WorkbookError:
            return
    assert found.table.index.is_unique and found.table.index.dtype == "int64"
    assert all("\n" not in warning and len(warning) < 300 for warning in found.warnings)
    ages = found.table["age"].dropna()
    assert ((ages >= 0) & (ages <= 120)).all()


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    source = write_cohort(tmp_path / "source", subjects=3)
    (source / "IXI.csv").write_text("name;age\nsomeone;30\n")
    assert run([f"--source_dir={source}", f"--data_dir={tmp_path}", *SMALL]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "lacks the column 'IXI_ID'" in error
    assert not (tmp_path / "ixi_t1").exists()
