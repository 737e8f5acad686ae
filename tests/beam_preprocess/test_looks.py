"""Datasets hold how their volumes look, and say which look unlike the others."""

import dataclasses
import re

import pytest
import tensorflow_datasets as tfds
from made_up_heads import GRID, OF_GRID, write_made_up

from beam_preprocess import __main__ as beam_preprocess
from beam_preprocess import looks
from ixi_tfds.builder import builder_for
from ixi_tfds.documents import manifest, shard_record
from ixi_tfds.images.look import look_of, typical, unlike
from ixi_tfds.nifti import read_volume
from trainer.data import open_data


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Eleven whole heads and a stripped one."""
    folder = tmp_path_factory.mktemp("heads")
    for number in range(12):
        write_made_up(folder, number, stripped=number == 7)
    return folder


@pytest.fixture(scope="module")
def data(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    assert beam_preprocess.run([f"--source_dir={source}", f"--data_dir={folder}", *OF_GRID]) == 0
    return folder


def folder_of(data):
    return data / "ixi_t1/made_up/1.0.0"


def unlike_in_page(folder):
    """The table of volumes unlike the others in the page of a dataset."""
    page = (folder / "quality.html").read_text()
    (table,) = re.findall(r"<h2>Volumes unlike the others</h2>(.*?)<h2>", page, re.DOTALL)
    return dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", table))


def test_the_manifest_has_the_range_of_the_looks_of_all_volumes(source, data):
    expected = typical([look_of(read_volume(str(path))) for path in sorted(source.iterdir())])
    assert manifest.read(folder_of(data)).look == expected
    assert expected.low.zooms == pytest.approx(GRID["zooms"], abs=1e-3)


def test_the_builder_of_tfds_writes_the_same_look(source, data, tmp_path):
    made = manifest.read(folder_of(data))
    builder = builder_for(made.config, str(tmp_path))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(source))
    )
    assert manifest.read(folder_of(tmp_path)).look == made.look


def test_the_facts_of_a_card_have_the_look_of_each_dataset(data):
    facts = open_data(str(data), ["ixi_t1/made_up"]).facts["ixi_t1/made_up"]
    assert facts.look == manifest.read(folder_of(data)).look


def test_the_page_names_volumes_that_look_unlike_the_others(data):
    assert unlike_in_page(folder_of(data)) == {
        "IXI708-HH-0007-T1.nii.gz": "looks skull-stripped, unlike the other heads"
    }


def test_the_terminal_names_them_too_and_the_page_among_its_warnings(source, tmp_path, capsys):
    flags = [f"--source_dir={source}", f"--data_dir={tmp_path}", *OF_GRID]
    assert beam_preprocess.run(flags) == 0
    said = (
        "1 volume looks unlike the others: IXI708-HH-0007-T1.nii.gz looks skull-stripped, unlike "
        "the other heads; quality.html lists all"
    )
    assert f"warning: {said}\n" in capsys.readouterr().err
    assert f"<li>{said}</li>" in (folder_of(tmp_path) / "quality.html").read_text()


def test_nothing_is_said_of_whole_heads_of_three_scanners(source, tmp_path, capsys):
    (tmp_path / "whole").mkdir()
    for path in source.iterdir():
        if "IXI708" not in path.name:
            (tmp_path / "whole" / path.name).symlink_to(path)
    flags = [f"--source_dir={tmp_path / 'whole'}", f"--data_dir={tmp_path}", *OF_GRID]
    assert beam_preprocess.run(flags) == 0
    assert "unlike" not in capsys.readouterr().err
    assert unlike_in_page(folder_of(tmp_path)) == {}


def test_records_of_earlier_versions_have_no_look_and_nothing_to_say(data):
    record = shard_record.ShardRecord("a", "train", "", 0, 0, (), ())
    volume = shard_record.VolumeRecord(
        "a", "a", "", "", "", None, (1, 1, 1), (1.0, 1.0, 1.0), "", 0.0, 0.0, 0.0, ""
    )
    assert looks.warnings_of([dataclasses.replace(record, volumes=(volume, volume))]) == ()


def test_a_dataset_of_whole_and_stripped_heads_is_said_to_mix_them(tmp_path, capsys):
    for number in range(10):
        write_made_up(tmp_path / "in", number, stripped=number > 5)
    flags = [f"--source_dir={tmp_path / 'in'}", f"--data_dir={tmp_path}", *OF_GRID]
    assert beam_preprocess.run(flags) == 0
    said = "the dataset mixes 6 whole heads and 4 skull-stripped ones, such as IXI707-"
    assert f"warning: {said}" in capsys.readouterr().err
    assert said in (folder_of(tmp_path) / "quality.html").read_text()


def test_volumes_that_are_all_refused_for_their_size_are_advised_spacing(source, tmp_path, capsys):
    flags = [f"--source_dir={source}", f"--data_dir={tmp_path}", "--config=own", "--in_plane=60x60"]
    assert beam_preprocess.run([*flags, "--size=60x60", "--slices=18:30"]) == 2
    error = capsys.readouterr().err
    assert "by --spacing in place of --in_plane" in error and "repair" not in error


@pytest.mark.real_data
def test_the_stripped_heads_among_the_real_ones_are_named(real_data, tmp_path, capsys):
    """66 heads of two kinds of voxels, of which 4 are stripped, at 2 mm."""
    source = tmp_path / "source"
    source.mkdir()
    bare = {path.name for path in (real_data / "ixi/stripped").glob("*.nii.gz")}
    for folder in ("heads_2mm", "full", "stripped"):
        for path in (real_data / "ixi" / folder).glob("*.nii.gz"):
            if folder != "heads_2mm" or path.name not in bare:
                (source / path.name).symlink_to(path)
    flags = ("--config=mm", "--spacing=2", "--size=128x128", "--slices=-36mm:36mm")
    assert beam_preprocess.run([f"--source_dir={source}", f"--data_dir={tmp_path}", *flags]) == 0
    assert "4 volumes look unlike the others" in capsys.readouterr().err
    said = unlike_in_page(tmp_path / "ixi_t1/mm/1.0.0")
    assert said == dict.fromkeys(bare, "looks skull-stripped, unlike the other heads")
    known = manifest.read(tmp_path / "ixi_t1/mm/1.0.0").look
    (scan,) = (real_data / "lesions").glob("*_T1_MNI.nii.gz")
    assert unlike(look_of(read_volume(str(scan))), [known]) == [
        "looks skull-stripped, unlike the training heads"
    ]
