"""The TFDS builder: TFDS's own test case, and equality with the Beam job."""

import errno
import hashlib
import inspect
import json
import os
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from volumes import SMALL, write_cohort, write_head

import ixi_tfds
from beam_preprocess.__main__ import run
from ixi_tfds.builder import SliceBuilderConfig, builder_for
from ixi_tfds.cohorts import DEFAULT
from ixi_tfds.config import SliceConfig
from ixi_tfds.demo import cohort
from ixi_tfds.system.errors import UserError


def _write_examples():
    folder = tempfile.mkdtemp()
    for number, subject in enumerate((701, 702, 703)):
        write_head(folder, f"IXI{subject}-HH-{number:04d}-T1", seed=number, shape=(256, 256, 112))
    return folder


@pytest.mark.slow
class TestIxiT1(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own checks of a builder, on heads that have the size of IXI's."""

    DATASET_CLASS = ixi_tfds.IxiT1
    BUILDER_CONFIG_NAMES_TO_TEST = ("thesis", "volume_scaled")
    SPLITS = {"train": 60, "validation": 60, "test": 60}  # noqa: RUF012
    SKIP_CHECKSUMS = True

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = _write_examples()
        super().setUpClass()


def test_names_are_registered():
    assert "ixi_t1" in tfds.list_builders()
    builder = tfds.builder("ixi_t1/volume_scaled", data_dir="/nowhere")
    assert builder.info.features["image"].shape == (256, 256, 1)


def test_the_builder_and_the_beam_job_give_the_same_slices(tmp_path):
    source = write_cohort(tmp_path / "source", subjects=5)
    cohort.write_workbook(source / cohort.WORKBOOK, cohort.cohort(5), seed=0)
    # One volume of another size is refused, and the others go on.
    write_head(source, "IXI799-HH-0099-T1", shape=(30, 32, 40))
    flags = (*SMALL, "--max_rejected_fraction=0.5")
    assert run([f"--source_dir={source}", f"--data_dir={tmp_path / 'beam'}", *flags]) == 0
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    builder = builder_for(config, str(tmp_path / "plain"))
    builder.max_rejected_fraction = 0.5
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(source))
    )
    manifest = json.loads((tmp_path / "plain/ixi_t1/small/1.0.0/manifest.json").read_text())
    assert manifest["config"]["window"] == [8, 14]
    assert manifest["geometry"] == {"shape": [32, 32, 24], "zooms": [4.0, 4.0, 5.0]}
    for name, digest in manifest["shards"].items():
        shard = tmp_path / "plain/ixi_t1/small/1.0.0" / name
        assert hashlib.sha256(shard.read_bytes()).hexdigest() == digest
    people = {}
    for split in ("train", "validation", "test"):
        datasets = (
            builder.as_dataset(split=split),
            tfds.load("ixi_t1/small", data_dir=str(tmp_path / "beam"), split=split),
        )
        one, other = (
            {(e["subject"], int(e["slice_index"])): e for e in tfds.as_numpy(d)} for d in datasets
        )
        assert one.keys() == other.keys()
        people[split] = {subject.decode() for subject, _ in one}
        for key, example in one.items():
            for field, value in example.items():
                np.testing.assert_array_equal(value, other[key][field])


def test_brains_are_made_by_the_beam_job_and_read_by_tfds(tmp_path):
    builder = tfds.builder("ixi_t1/brain_2mm_axial", data_dir=tmp_path)
    assert builder.info.features["mask"].shape == (104, 80, 1)
    manual = tfds.download.DownloadConfig(manual_dir=str(tmp_path))
    with pytest.raises(
        UserError, match=r"ixi_t1/brain_2mm_axial: TFDS makes no .* beam_preprocess"
    ):
        builder.download_and_prepare(download_config=manual)
    for number in range(3):
        brain = np.zeros((60, 60, 48), np.int16)
        brain[8:-8, 12:-12, 12:-12] = 600 + np.random.default_rng(number).normal(0, 9, (44, 36, 24))
        write_head(tmp_path, f"IXI{701 + number}-HH-000{number}-T1", voxels=brain)
    where = [f"--source_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}"]
    assert run([*where, "--config=brain_2mm_axial", "--copies=1"]) == 0
    train = tfds.load("ixi_t1/brain_2mm_axial", data_dir=tmp_path / "data", split="train")
    assert {int(each["copy"]) for each in tfds.as_numpy(train)} == {0, 1}


def test_a_published_name_with_another_geometry_is_refused(tmp_path):
    """It would be taken for the published dataset."""
    mine = SliceConfig("thesis", in_plane=None, size=(64, 48), window=(3, 9))
    with pytest.raises(ValueError, match="Change the name"):
        builder_for(mine, str(tmp_path))


def test_a_config_of_ones_own_describes_itself():
    config = SliceConfig("mine", in_plane=None, size=(64, 64), window=(3, 9), scaling="volume")
    described = SliceBuilderConfig(config).description
    for part in ("[3, 9)", "64x64", "any in-plane size", "percentile"):
        assert part in described


def test_downloads_when_no_folder_is_given(tmp_path, monkeypatch):
    """Without a manual folder the volumes come from our own downloader."""
    from ixi_tfds import download

    def fetch(cohort, output_dir):
        assert cohort is DEFAULT and pathlib.Path(output_dir).name == "ixi"
        write_cohort(pathlib.Path(output_dir), subjects=3, shape=(32, 32, 24))

    monkeypatch.setattr(download, "download", fetch)
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    builder = builder_for(config, str(tmp_path))
    builder.download_and_prepare()
    assert builder.info.splits.total_num_examples == 18


def test_refused_volumes_have_no_say_in_the_geometry(tmp_path, capsys):
    """More heads are refused here, for their size in the plane, than are taken."""
    source = write_cohort(tmp_path / "source", subjects=3, shape=(32, 32, 24))
    for number in range(7):
        write_head(source, f"IXI{801 + number}-HH-0{number:03d}-T1", shape=(48, 48, 20))
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    builder = builder_for(config, str(tmp_path / "data"))
    builder.max_rejected_fraction = 0.7
    manual = tfds.download.DownloadConfig(manual_dir=source)
    builder.download_and_prepare(download_config=manual)
    manifest = json.loads((pathlib.Path(builder.data_dir) / "manifest.json").read_text())
    assert manifest["geometry"] == {"shape": [32, 32, 24], "zooms": [4.0, 4.0, 5.0]}
    assert capsys.readouterr().err.count("refused: ") == 7


def build(source, data_dir):
    """The builder of small slices, once it has made them."""
    config = SliceConfig("small", in_plane=(32, 32), size=(32, 32), window=(8, 14))
    builder = builder_for(config, str(data_dir))
    manual = tfds.download.DownloadConfig(manual_dir=str(source))
    builder.download_and_prepare(download_config=manual)
    return builder


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOENT])
def test_a_fault_of_the_machine_leaves_nobody_out(code, tmp_path, monkeypatch):
    """The builder stops, as the Beam job does; where all goes well again everyone is there."""
    source = write_cohort(tmp_path / "source", subjects=30)
    path = sorted(source.iterdir())[1]
    content, read_bytes = path.read_bytes(), pathlib.Path.read_bytes

    def fail(file):
        if file != path:
            return read_bytes(file)
        if code == errno.ENOENT:
            path.unlink()  # After it was found.
        raise OSError(code, os.strerror(code), str(file))

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(pathlib.Path, "read_bytes", fail)
        build(source, tmp_path / "data")
    assert (caught.value.errno, caught.value.filename) == (code, str(path))
    assert not list(tmp_path.rglob("manifest.json"))
    path.write_bytes(content)
    assert build(source, tmp_path / "data").info.splits.total_num_examples == 30 * 6


def test_too_many_refused_volumes_stop_the_builder(tmp_path):
    """One of twenty is not too many, one of nineteen is: the limit is that of the Beam job."""
    source = write_cohort(tmp_path / "source", subjects=20)
    (source / "IXI701-Guys-0000-T1.nii.gz").write_bytes(b"broken")
    assert build(source, tmp_path / "data").info.splits.total_num_examples == 19 * 6
    next(source.glob("IXI720-*")).unlink()
    with pytest.raises(
        UserError, match=r"1 of 19 volumes .* more than .*_fraction=0\.05; .*IXI701"
    ):
        build(source, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*.tfrecord-*"))


def test_tfds_prepares_a_dataset_by_the_method_that_adds_the_manifest():
    """It is private to TFDS, for in its public one the folder has its name already."""
    todo = (
        f"TFDS {tfds.__version__} no longer has GeneratorBasedBuilder._download_and_prepare, or "
        "gives it other arguments: find where it writes the shards into a temporary folder, and "
        "write the manifest there in IxiT1"
    )
    theirs = getattr(tfds.core.GeneratorBasedBuilder, "_download_and_prepare", None)
    assert theirs is not None, todo
    assert [*inspect.signature(theirs).parameters][:3] == ["self", "dl_manager", "download_config"]
    source = inspect.getsource(tfds.core.DatasetBuilder.download_and_prepare)
    assert "self._download_and_prepare(" in source, todo
    assert source.index("incomplete_dir") < source.index("self._download_and_prepare("), todo


def test_tfds_builds_resampled_slices_as_the_beam_job_does(tmp_path):
    rule = ((5.0, 5.0, 5.0), (-20.0, 20.0), "background")
    config = SliceConfig("mm", None, (24, 24), (0, 8), "slice", *rule)
    (tmp_path / "scans").mkdir()
    write_cohort(tmp_path / "scans")
    flags = ["--config=mm", "--spacing=5", "--slices=-20mm:20mm", "--size=24x24"]
    where = [f"--source_dir={tmp_path / 'scans'}", f"--data_dir={tmp_path / 'beam'}"]
    assert run([*where, *flags]) == 0
    builder = builder_for(config, str(tmp_path / "tfds"))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(tmp_path / "scans"))
    )
    found = [
        {
            (e["subject"], int(e["slice_index"])): (e["image"].tobytes(), e["low"], e["high"])
            for split in ("train", "validation", "test")
            for e in tfds.as_numpy(tfds.load("ixi_t1/mm", data_dir=folder, split=split))
        }
        for folder in (str(tmp_path / "tfds"), str(tmp_path / "beam"))
    ]
    assert len(found[0]) == 12 * 8 and found[0] == found[1]
