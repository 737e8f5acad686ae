"""Datasets made from files of several formats, by the command."""

import json

import nibabel as nib
import numpy as np
import pytest
import test_formats
from volumes import SMALL, ZOOMS, head, image, write_cohort

from beam_preprocess import __main__ as beam_preprocess
from beam_preprocess import spacing
from beam_preprocess.plan import SourceConfig, plan_job
from beam_preprocess.spacing import zooms_of_file
from ixi_tfds.config import THESIS
from ixi_tfds.documents import manifest


def make(source, data, *flags):
    return beam_preprocess.run([f"--source_dir={source}", f"--data_dir={data}", *SMALL, *flags])


def in_other_formats(folder):
    """A cohort of NIfTI files in which seven people have files of other formats."""
    write_cohort(folder)
    others = ("mgz", "mgh", "hdr", "mnc", "mnc.gz", "hdr.gz", "img")
    writers = {
        "mgz": test_formats.write_mgh, "mgh": test_formats.write_mgh,
        "hdr": test_formats.write_pair, "hdr.gz": test_formats.write_pair,
        "mnc": test_formats.write_minc2, "mnc.gz": test_formats.write_minc1,
        "img": test_formats.WRITERS["x.img"],
    }  # fmt: skip
    for path, ending in zip(sorted(folder.glob("*.nii.gz")), others, strict=False):
        made = nib.load(path)
        name = path.name.removesuffix("nii.gz") + ending
        writers[ending](folder / name, nib.Nifti1Image(np.asarray(made.dataobj), made.affine))
        path.unlink()
    return folder


def analyze(folder, name):
    nib.save(nib.AnalyzeImage(head().transpose(2, 0, 1), np.diag([-5, 4, 4, 1])), folder / name)


def made_in(data):
    return data / "ixi_t1/small/1.0.0"


def test_a_cohort_of_all_formats_gives_the_slices_of_one_of_nifti(tmp_path):
    each = "--volumes_per_shard=1"
    assert make(write_cohort(tmp_path / "nifti"), tmp_path / "one", each) == 0
    assert make(in_other_formats(tmp_path / "mixed"), tmp_path / "two", each) == 0
    one, two = (manifest.read(made_in(tmp_path / name)) for name in ("one", "two"))
    assert len(two.volumes) == 12 and not (made_in(tmp_path / "two") / "rejected.jsonl").read_text()
    other = {
        two.volumes[person].path.partition(".")[2]
        for person, source in one.volumes.items()
        if one.shards[source.shard] != two.shards[two.volumes[person].shard]
    }
    assert other <= {"mnc", "mnc.gz"}, "only the two whose values were rounded may differ"


def test_images_of_other_kinds_are_named_with_the_command_that_converts_them(tmp_path, capsys):
    source = write_cohort(tmp_path / "source")
    (source / "raw").mkdir()
    for name in ("raw/1.dcm", "raw/2.dcm", "a.nrrd", "lonely.img", "b+orig.HEAD"):
        (source / name).write_bytes(b"content")
    assert make(source, tmp_path / "data") == 0
    printed = capsys.readouterr().out
    assert f"dcm2niix -z y -f %i_%p_%s -o nifti {source / 'raw'}\n" in printed
    rows = (made_in(tmp_path / "data") / "rejected.jsonl").read_text()
    assert "2 DICOM files" in rows and "SimpleITK" in rows and "AFNI" in rows and ".hdr" in rows
    assert manifest.read(made_in(tmp_path / "data")).passed_over == {
        "AFNI": 1, "DICOM": 2, "NRRD": 1, "image without its .hdr": 1,
    }  # fmt: skip


def test_analyze_needs_a_flag_and_the_dataset_says_that_left_and_right_are_assumed(
    tmp_path, capsys
):
    source = write_cohort(tmp_path / "source", subjects=11)
    analyze(source, "IXI799-HH-0001-T1.img")
    flags = ("--max_rejected_fraction=0.2",)
    assert make(source, tmp_path / "refused", *flags) == 0
    rows = (made_in(tmp_path / "refused") / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(row)["reason"] for row in rows] == ["no_orientation"]
    capsys.readouterr()
    assert make(source, tmp_path / "taken", *flags, "--allow_unknown_orientation") == 0
    told = "1 volume does not say how the head lies in it"
    assert told in capsys.readouterr().err
    folder = made_in(tmp_path / "taken")
    page = (folder / "quality.html").read_text()
    assert told in page and "IXI799-HH-0001-T1.hdr as LAS" in page
    made = manifest.read(folder)
    assert made.rejected == {} and made.volumes["IXI799"].assumed_axes == "LAS"
    assert all(v.assumed_axes is None for name, v in made.volumes.items() if name != "IXI799")


def test_the_flag_is_part_of_the_fingerprint_only_when_it_is_used(tmp_path):
    source = write_cohort(tmp_path / "source")
    assert make(source, tmp_path / "data") == 0
    assert make(source, tmp_path / "data", "--noallow_unknown_orientation") == 0
    assert make(source, tmp_path / "data", "--allow_unknown_orientation") == 2
    # What earlier versions made has no such setting, and must count as the same.
    planned = plan_job(SourceConfig(source_dir=str(source)), THESIS, tmp_path / "other")
    assert "allow_unknown_orientation" not in planned.settings


def test_voxels_of_a_pair_that_changed_make_another_dataset(tmp_path):
    source = in_other_formats(tmp_path / "source")
    assert make(source, tmp_path / "data") == 0
    assert make(source, tmp_path / "data") == 0
    (pair, *_) = source.glob("*.img")
    voxels = bytearray(pair.read_bytes())
    voxels[-1] ^= 1
    pair.write_bytes(voxels)
    assert make(source, tmp_path / "data") == 2


@pytest.mark.parametrize("flag", [(), ("--allow_unknown_orientation",)])
def test_a_dataset_with_assumed_axes_is_repaired(tmp_path, flag):
    source = write_cohort(tmp_path / "source", subjects=11)
    analyze(source, "IXI799-HH-0001-T1.img")
    assert make(source, tmp_path / "data", "--max_rejected_fraction=0.2", *flag) == 0
    for shard in made_in(tmp_path / "data").glob("*.tfrecord-*"):
        shard.write_bytes(b"damaged")
    verify = ["verify", f"--data_dir={tmp_path / 'data'}", "--repair", f"--source_dir={source}"]
    assert beam_preprocess.run(verify) == 0


def test_nan_around_a_head_is_no_reason_to_refuse_it(tmp_path):
    source = write_cohort(tmp_path / "source", subjects=11)
    voxels = head().astype(np.float32)
    voxels[:4] = voxels[:, :2] = np.nan
    nib.save(image(voxels), source / "IXI799-HH-0001-T1.nii.gz")
    assert make(source, tmp_path / "data", "--strict") == 0


def test_voxel_sizes_of_every_format_count_for_the_cohort(tmp_path, monkeypatch):
    read = spacing.read_volume
    for name in test_formats.WRITERS:
        path = str(test_formats.write(tmp_path, name))
        # Of MINC alone the voxels are read too.
        monkeypatch.setattr(spacing, "read_volume", read if "mnc" in name.lower() else None)
        assert zooms_of_file(path) == pytest.approx(ZOOMS, abs=1e-3), name
    nib.save(nib.AnalyzeImage(head(), np.diag([-5, 4, 3, 1])), tmp_path / "a.img")
    assert zooms_of_file(str(tmp_path / "a.hdr")) == pytest.approx((4, 3, 5))
