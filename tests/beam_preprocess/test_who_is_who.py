"""Who is who in a dataset, through the real main: what the job prints, writes and refuses."""

import collections
import json
from pathlib import Path

import pytest
from volumes import SMALL, write_cohort, write_head

from beam_preprocess.__main__ import run
from beam_preprocess.plan import SourceConfig, plan_job
from ixi_tfds.cohorts import NameFlags
from ixi_tfds.config import SliceConfig

CONFIG = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))


def job(source, data, *flags):
    return run([f"--source_dir={source}", f"--data_dir={data}", *SMALL, *flags])


def dataset(data):
    (folder,) = data.glob("ixi_t1/small/*.*.*")
    return folder


def rejected(data):
    lines = (dataset(data) / "rejected.jsonl").read_text().splitlines()
    return {entry["path"]: entry for entry in map(json.loads, lines)}


def manifest(data):
    return json.loads((dataset(data) / "manifest.json").read_text())


def test_the_plan_and_the_page_say_how_people_were_told_apart(tmp_path, capsys):
    source = tmp_path / "in"
    for number in range(1, 6):
        write_head(source, f"p{number}/T1", seed=number)
    write_head(source, "p1/study2_T1W", seed=9)
    write_head(source, "p1/T1POST", seed=10)
    (source / "dicom").mkdir()
    for number in range(3):
        (source / f"dicom/IM{number}.dcm").touch()
    (source / ".junk.nii.gz").touch()
    assert job(source, tmp_path / "data") == 0
    lines = capsys.readouterr().out.splitlines()
    told = (
        "by a folder for each person (6 files): p1/T1.nii.gz -> p1; p1/study2_T1W.nii.gz -> p1; "
        "p2/T1.nii.gz -> p2"
    )
    assert f"people told apart {told}" in lines
    (line,) = (line for line in lines if line.startswith("passed over: ") and "IM0" in line)
    assert str(source / "dicom") in line and "3 DICOM files, such as IM0.dcm" in line
    words = [line.split() for line in lines]
    assert ["passed", "over:", "DICOM", "3"] in words
    assert ["passed", "over:", "hidden", "image", "1"] in words
    assert ["skipped:", "same_person", "1"] in words
    page = (dataset(tmp_path / "data") / "quality.html").read_text()
    assert told.replace(">", "&gt;") in page and "3 DICOM files" in page
    listed = rejected(tmp_path / "data")
    assert {path: entry["reason"] for path, entry in listed.items()} == {
        "p1/study2_T1W.nii.gz": "same_person",
        "p1/T1POST.nii.gz": "other_modality",
        "dicom": "passed_over",
        ".": "passed_over",
    }
    made = manifest(tmp_path / "data")
    assert made["passed_over"] == {"DICOM": 3, "hidden image": 1}
    assert made["skipped"] == {"other_modality": 1, "same_person": 1}
    assert made["volumes"].keys() == {"p1", "p2", "p3", "p4", "p5"}


def test_datasets_that_use_no_new_flag_have_the_settings_of_before(tmp_path):
    source = write_cohort(tmp_path, subjects=3)
    write_head(source, "head_001", seed=7)
    plan = plan_job(SourceConfig(source_dir=str(source)), CONFIG, tmp_path / "d")
    assert plan.settings.keys() == {"version", "config", "volumes_per_shard", "people"}
    assert plan.settings["people"].keys() == {"IXI701", "IXI702", "IXI703", "head_001"}
    allowed = NameFlags(allow_names=True)
    same = plan_job(SourceConfig(source_dir=str(source), names=allowed), CONFIG, tmp_path / "d")
    assert same.settings == plan.settings
    named = NameFlags(subject_pattern="(?P<person>.+)")
    other = plan_job(SourceConfig(source_dir=str(source), names=named), CONFIG, tmp_path / "d")
    files = other.settings.pop("people_of_files")
    assert files["head_001.nii.gz"] == "head_001" and len(files) == 4


def test_visits_stop_the_job_until_a_flag_decides_and_repair_needs_the_flag(tmp_path, capsys):
    source, data = tmp_path / "in", tmp_path / "data"
    for number in range(1, 5):
        write_head(source, f"p{number}_ses1_T1", seed=number)
    write_head(source, "p1_ses2_T1", seed=9)
    assert job(source, data) == 2
    assert "--subject_pattern=REGEX" in capsys.readouterr().err and not data.exists()
    pattern = "--subject_pattern=(?P<person>p[0-9]+)_ses"
    assert job(source, data, pattern) == 0
    assert manifest(data)["splits"]["train"]["volumes"] == 2
    assert rejected(data)["p1_ses2_T1.nii.gz"]["reason"] == "same_person"
    assert job(source, data, pattern) == 0
    assert "already made" in capsys.readouterr().out
    shard = next(dataset(data).glob("*train*"))
    good = shard.read_bytes()
    shard.write_bytes(good[:-1])
    verify = ["verify", f"--data_dir={data}", "--repair", f"--source_dir={source}"]
    assert run(verify) == 2
    assert run([*verify, pattern]) == 0
    assert shard.read_bytes() == good


def test_a_table_gives_people_their_site_and_sex(tmp_path):
    source, data = tmp_path / "in", tmp_path / "data"
    for number in range(1, 5):
        write_head(source, f"x{number}", seed=number)
    table = tmp_path / "who.tsv"
    rows = "".join(f"x{n}\tperson{n}\tGuys\tF\t{30 + n}\n" for n in range(1, 4))
    table.write_text("file\tperson\tsite\tsex\tage\n" + rows)
    assert job(source, data, f"--subjects={table}") == 0
    made = manifest(data)
    assert made["volumes"].keys() == {"person1", "person2", "person3"}
    assert made["strata"]["train"] == {"female/unknown": 1}
    assert rejected(data)["x4.nii.gz"]["reason"] == "no_person"
    # Two people change places in the table: that is another dataset.
    swapped = rows.replace("x1\t", "x0\t").replace("x2\t", "x1\t").replace("x0\t", "x2\t")
    table.write_text("file\tperson\tsite\tsex\tage\n" + swapped)
    assert job(source, data, f"--subjects={table}") == 2


def test_names_are_overruled_by_a_flag(tmp_path, capsys):
    for number in range(3):
        write_head(tmp_path / "in", f"PD_{number:03d}", seed=number)
    assert job(tmp_path / "in", tmp_path / "data") == 2
    assert "3 refused by name, 3 other_modality" in capsys.readouterr().err
    assert job(tmp_path / "in", tmp_path / "data", "--allow_names") == 0
    assert manifest(tmp_path / "data")["volumes"].keys() == {"PD_000", "PD_001", "PD_002"}


def test_another_scan_of_a_person_is_taken_where_the_first_is_broken(tmp_path):
    source, data = tmp_path / "in", tmp_path / "data"
    for number in range(1, 5):
        write_head(source, f"OAS1_000{number}_MR2_mpr-1_anon", seed=number)
    (source / "OAS1_0001_MR1_mpr-1_anon.nii.gz").write_bytes(b"no volume at all" * 30)
    assert job(source, data) == 0
    made = manifest(data)
    assert made["volumes"]["OAS1_0001"]["path"] == "OAS1_0001_MR2_mpr-1_anon.nii.gz"
    assert len(made["volumes"]) == 4


@pytest.mark.parametrize("broken", [["validation"], ["train", "validation", "test"]])
def test_all_reasons_are_counted_where_a_split_empties(tmp_path, capsys, broken):
    source = write_cohort(tmp_path / "in", subjects=24)
    plan = plan_job(SourceConfig(source_dir=str(source)), CONFIG, tmp_path / "d")
    mine = [scan for scan in plan.scans if plan.splits[scan.subject] in broken]
    assert len(mine) >= 3
    for scan in mine[1:]:
        Path(scan.path).write_bytes(b"no volume at all" * 30)
    write_head(source, Path(mine[0].path).name.removesuffix(".nii.gz"), shape=(32, 30, 24))
    other = next((scan for scan in plan.scans if scan not in mine), None)
    if other:
        Path(other.path).write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 9)
        mine.append(other)
    (source / "x.dcm").touch()
    (source / "IXI001-Guys-0001-T2.nii.gz").touch()
    assert job(source, tmp_path / "data", "--max_rejected_fraction=1") == 2
    said = capsys.readouterr().err
    (report,) = (tmp_path / "data").rglob("rejected.jsonl")
    listed = [json.loads(line)["reason"] for line in report.read_text().splitlines()]
    for skipped in ("other_modality", "passed_over"):
        listed.remove(skipped)
    counts = sorted(collections.Counter(listed).items())
    assert len(counts) >= 2 and len(listed) == len(mine)
    assert ", ".join(f"{count} {reason}" for reason, count in counts) in said
    assert "every volume of the validation split" in said or "all 24 volumes" in said
    assert str(report) in said


def test_the_help_names_the_formats_and_the_plan_counts_one_link_as_one(tmp_path, capsys):
    assert run(["--help"]) == 0
    assert "MGH (.mgz, .mgh), MINC" in capsys.readouterr().out
    source = write_cohort(tmp_path / "in", subjects=3)
    (tmp_path / "more").mkdir()
    (source / "link").symlink_to(tmp_path / "more")
    plan = plan_job(SourceConfig(source_dir=str(source)), CONFIG, tmp_path / "d")
    assert "1 link to a folder is followed, such as link" in plan.warnings


def test_repair_without_the_flag_that_took_a_name_says_the_flag(tmp_path, capsys):
    source, data = tmp_path / "in", tmp_path / "data"
    for number in range(5):
        write_head(source, f"{'T1' if number else 'PD'}_{number:03d}", seed=number)
    assert job(source, data, "--allow_names", "--splits=hash") == 0
    shards = list(dataset(data).glob("*.tfrecord-*"))
    good = [shard.read_bytes() for shard in shards]
    for shard in shards:
        shard.write_bytes(b"")
    verify = ["verify", f"--data_dir={data}", "--repair", f"--source_dir={source}"]
    capsys.readouterr()
    assert run(verify) != 0
    assert (
        "--subjects, --subject_pattern, --allow_names and --brain_masks" in capsys.readouterr().err
    )
    assert run([*verify, "--allow_names"]) == 0
    assert [shard.read_bytes() for shard in shards] == good
