"""Datasets of heads with mixed voxels: resampled, in mm, padded with background, or refused."""

import json
import re
import zlib

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds
from nibabel.affines import from_matvec

from beam_preprocess import __main__ as beam_preprocess
from beam_preprocess import geometry, plan
from beam_preprocess.spacing import zooms_of_file

MM = ("--config=mm", "--spacing=5", "--size=32x32", "--slices=-25mm:25mm")
BY_NUMBER = ("--config=own", "--in_plane=any", "--size=32x32", "--slices=8:18")
LOOSE = ("--max_rejected_fraction=0.9",)


def write_ball(folder, name, zooms, shape, middle=(0.0, 0.0, 0.0), background=0.0, turn=0.0):
    """A textured ellipsoid of 120 x 110 x 90 mm, off the volume's middle by `middle` mm.

    It is turned in the scanner by `turn` degrees, of which its voxels know nothing.
    """
    axes = [
        (np.arange(n) - (n - 1) / 2) * side - at
        for n, side, at in zip(shape, zooms, middle, strict=True)
    ]
    # No two of these heads are alike to the voxel.
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = (x / 60) ** 2 + (y / 55) ** 2 + (z / 45) ** 2
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 1, shape)
    texture = 400 + 90 * np.sin(x / 9) + 90 * np.cos(y / 8 + z / 11) + noise
    voxels = np.where(inside < 1, texture, np.abs(noise)) + background
    # Posterior, superior and right along the voxels' axes.
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    axes = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array(
        [[0, 0, 1], [-1, 0, 0], [0, 1, 0]]
    )
    path = folder / f"{name}.nii.gz"
    image = nib.Nifti1Image(voxels.astype(np.float32), from_matvec(axes * zooms))
    nib.save(image, path)
    return path


def job(source, data, *flags):
    return beam_preprocess.run([f"--source_dir={source}", f"--data_dir={data}", *flags])


def folder_of(data, config):
    return data / f"ixi_t1/{config}/1.0.0"


def slices_in(data, config):
    """Images and scanner values [n, height, width] of each subject, in the order of slices."""
    builder = tfds.builder_from_directory(str(folder_of(data, config)))
    found = {}
    for split in builder.info.splits:
        for each in tfds.as_numpy(builder.as_dataset(split=split)):
            found.setdefault(each["subject"].decode(), []).append(each)
    stacks = {}
    for subject, examples in found.items():
        examples.sort(key=lambda example: example["slice_index"])
        assert [e["slice_index"] for e in examples] == list(
            range(examples[0]["slice_index"], examples[0]["slice_index"] + len(examples))
        )
        stacks[subject] = np.stack(
            [e["low"] + e["image"][..., 0] / 255.0 * (e["high"] - e["low"]) for e in examples]
        )
    return stacks


def manifest_of(data, config):
    return json.loads((folder_of(data, config) / "manifest.json").read_text())


def alike(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


MIXED = {
    "fine": ((2.0, 2.0, 2.0), (80, 80, 70)),
    "thick": ((1.5, 1.5, 6.0), (100, 90, 24)),
    "axial": ((2.5, 5.0, 2.5), (60, 32, 50)),
    "coarse": ((4.0, 4.0, 4.0), (40, 40, 34)),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Balls of the same form at several voxels, off the middle of their files by other ways."""
    folder = tmp_path_factory.mktemp("mixed")
    for number, (name, (zooms, shape)) in enumerate(MIXED.items()):
        shift = (3.0 * number, -2.0 * number, 4.0 * number - 6)
        write_ball(folder, name, zooms, shape, shift)
    return folder


@pytest.fixture(scope="module", params=["slice", "volume"])
def made(request, mixed, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    assert job(mixed, data, *MM, f"--scaling={request.param}") == 0
    return data


def test_heads_of_mixed_voxels_give_slices_of_the_same_places(made):
    stacks = slices_in(made, "mm")
    assert set(stacks) == set(MIXED)
    fine = stacks["fine"]
    assert fine.shape == (10, 32, 32)
    for stack in stacks.values():
        same, before, after = (
            alike(fine, stack),
            alike(fine[1:], stack[:-1]),
            alike(fine[:-1], stack[1:]),
        )
        assert same > 0.97 and same > max(before, after)


def test_slices_in_mm_are_numbered_from_the_windows_first(made):
    builder = tfds.builder_from_directory(str(folder_of(made, "mm")))
    numbers = {
        int(each["slice_index"])
        for split in builder.info.splits
        for each in tfds.as_numpy(builder.as_dataset(split=split))
    }
    assert numbers == set(range(10))


def test_the_manifest_states_the_rule_and_the_range_of_voxels(made, mixed):
    manifest = manifest_of(made, "mm")
    config = manifest["config"]
    assert config["spacing"] == [5.0, 5.0, 5.0] and config["window_mm"] == [-25.0, 25.0]
    assert config["window"] == [0, 10] and config["in_plane"] is None
    assert config["padding"] == "background"
    assert manifest["voxels"] == {"lowest": [1.5, 1.5, 2.0], "highest": [4.0, 5.0, 6.0]}
    page = (folder_of(made, "mm") / "quality.html").read_text()
    assert "[-25 mm, 25 mm) around the middle of the head, of volumes resampled to 5x5x5 mm" in page
    assert "Voxels of the volumes: 1.5x1.5x2 to 4x5x6 mm (posterior x superior x right)" in page
    assert "nose to the left" in page and "1.5x1.5x6 mm" in page


def test_the_same_job_changes_nothing_and_damage_is_repaired_to_the_byte(made, mixed, capsys):
    scaling = manifest_of(made, "mm")["config"]["scaling"]
    assert job(mixed, made, *MM, f"--scaling={scaling}") == 0
    assert "already made" in capsys.readouterr().out
    shard = next(folder_of(made, "mm").glob("*train*.tfrecord-*"))
    before = shard.read_bytes()
    shard.write_bytes(before[:-20] + bytes(20))
    repair = ["verify", f"--data_dir={made}", "--repair", f"--source_dir={mixed}"]
    assert beam_preprocess.run(repair) == 0
    assert shard.read_bytes() == before


def test_another_spacing_or_window_is_another_dataset(made, mixed, capsys):
    scaling = f"--scaling={manifest_of(made, 'mm')['config']['scaling']}"
    for other in ("--spacing=4x4x5", "--spacing=5x5x2.5", "--slices=-20mm:30mm"):
        assert job(mixed, made, *MM, scaling, other) == 2
        assert "other inputs or settings" in capsys.readouterr().err


def test_padding_a_volume_moves_no_slice_in_mm(tmp_path):
    """By number, 30 more slices make lateral slices of midline ones."""
    source = tmp_path / "scans"
    source.mkdir()
    path = write_ball(source, "plain", (2.0, 2.0, 2.0), (80, 80, 90))
    image = nib.load(path)
    voxels = np.pad(image.get_fdata(), ((0, 0), (0, 0), (30, 0))).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, image.affine), source / "padded.nii.gz")
    # The copies are found by their slices, which are the same.
    assert job(source, tmp_path, *MM) == 2
    assert job(source, tmp_path, *MM, "--allow_same_bytes") == 0
    stacks = slices_in(tmp_path, "mm")
    assert alike(stacks["plain"], stacks["padded"]) > 0.9999


@pytest.mark.parametrize("background", [-1000.0, -3.6, 10000.0])
@pytest.mark.parametrize("flags", [MM, BY_NUMBER], ids=["mm", "number"])
def test_planes_are_padded_with_the_background_of_the_scan(flags, background, tmp_path):
    source = tmp_path / "scans"
    source.mkdir()
    write_ball(source, "small", (5.0, 5.0, 5.0), (26, 28, 26), background=background)
    assert job(source, tmp_path, *flags) == 0
    config = flags[0].partition("=")[2]
    stack = slices_in(tmp_path, config)["small"]
    for edge in (stack[:, 0], stack[:, -1], stack[:, :, 0], stack[:, :, -1]):
        assert np.abs(edge - background).max() < 4
    page = (folder_of(tmp_path, config) / "quality.html").read_text()
    stated = float(re.search(r"own background, (\S+) in scanner units", page)[1])
    assert 0 < stated - background < 1.5
    assert stack.min() == pytest.approx(stated, abs=2)


def test_a_window_in_mm_that_leaves_the_volume_is_refused_in_mm(mixed, tmp_path, capsys):
    flags = [flag for flag in MM if not flag.startswith("--slices")]
    assert job(mixed, tmp_path, *flags, "--slices=-30mm:90mm", *LOOSE) == 2
    error = capsys.readouterr().err
    assert "mm around the middle of the head, the window from -30 to 90 mm" in error
    assert error.count("error:") == 1


def test_a_window_of_air_is_refused(tmp_path, capsys):
    """Of an axial scan of thick slices, the first ones by number along right show no head."""
    source = tmp_path / "scans"
    source.mkdir()
    write_ball(source, "axial", (1.0, 6.0, 1.0), (160, 22, 256))
    flags = ["--config=own", "--in_plane=any", "--size=160x32", "--slices=30:66"]
    assert job(source, tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert "only 0% of its window lies within the head, which is in slices 8" in error
    assert "--spacing" in error


def write_mixed(folder, sizes):
    folder.mkdir()
    for name, side in sizes.items():
        write_ball(folder, name, (side,) * 3, (int(160 / side),) * 3)
    return folder


def test_voxels_of_another_size_stop_a_config_by_number(tmp_path, capsys):
    sizes = {"a": 5.0, "b": 5.0, "c": 5.2, "d": 4.0}
    source = write_mixed(tmp_path / "scans", sizes)
    assert job(source, tmp_path, *BY_NUMBER) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(
        "error: 1 of 4 volumes have other voxels than the cohort's median of 5x5x5 mm"
    )
    assert "d.nii.gz with 4x4x4 mm" in error and "--spacing=5 in place of --in_plane" in error
    assert "--allow_spacing" in error
    assert not (tmp_path / "ixi_t1/own/1.0.0").exists()


def test_few_volumes_of_another_size_are_refused_one_by_one(tmp_path, capsys):
    sizes = {"a": 5.0, "b": 5.0, "c": 5.2, "d": 4.0}
    source = write_mixed(tmp_path / "scans", sizes)
    assert job(source, tmp_path, *BY_NUMBER, *LOOSE) == 0
    assert "rejected: other_spacing" in capsys.readouterr().out
    assert set(slices_in(tmp_path, "own")) == {"a", "b", "c"}
    (line,) = (folder_of(tmp_path, "own") / "rejected.jsonl").read_text().splitlines()
    refusal = json.loads(line)
    assert refusal["reason"] == "other_spacing" and "in place of --in_plane" in refusal["detail"]
    assert refusal["path"] == "d.nii.gz"
    shard = next(folder_of(tmp_path, "own").glob("*train*.tfrecord-*"))
    before = shard.read_bytes()
    shard.write_bytes(b"")
    repair = ["verify", f"--data_dir={tmp_path}", "--repair", f"--source_dir={source}"]
    assert beam_preprocess.run(repair) == 0 and shard.read_bytes() == before
    assert job(source, tmp_path, *BY_NUMBER, *LOOSE) == 0
    assert "already made" in capsys.readouterr().out
    assert job(source, tmp_path, *BY_NUMBER, *LOOSE, "--allow_spacing") == 2
    assert "other inputs or settings" in capsys.readouterr().err


def test_voxels_of_another_size_can_be_allowed_and_get_a_warning(tmp_path, capsys):
    source = write_mixed(tmp_path / "scans", {"a": 5.0, "b": 5.0, "d": 4.0})
    assert job(source, tmp_path, *BY_NUMBER, "--allow_spacing") == 0
    captured = capsys.readouterr()
    assert "voxels of the volumes: 4x4x4 to 5x5x5 mm (posterior x superior x right)" in captured.out
    warned = "warning: voxels of the volumes differ by 25%, from 4x4x4 to 5x5x5 mm"
    assert warned in captured.err
    assert warned.partition(": ")[2] in (folder_of(tmp_path, "own") / "quality.html").read_text()
    assert set(slices_in(tmp_path, "own")) == {"a", "b", "d"}


def test_allow_spacing_is_no_other_setting_where_all_voxels_are_alike(tmp_path, capsys):
    source = write_mixed(tmp_path / "scans", {"a": 5.0, "b": 5.0})
    assert job(source, tmp_path, *BY_NUMBER, "--allow_spacing") == 0
    assert "differ" not in capsys.readouterr().err
    assert job(source, tmp_path, *BY_NUMBER) == 0
    assert "already made" in capsys.readouterr().out


def test_no_header_is_read_where_the_dataset_exists(tmp_path, capsys, monkeypatch):
    source = write_mixed(tmp_path / "scans", {"a": 5.0, "b": 5.0})
    assert job(source, tmp_path, *BY_NUMBER) == 0
    monkeypatch.setattr(plan, "cohort_spacing", None)
    assert job(source, tmp_path, *BY_NUMBER) == 0
    assert "already made" in capsys.readouterr().out


def test_voxels_that_were_allowed_are_another_setting(tmp_path, capsys):
    source = write_mixed(tmp_path / "scans", {"a": 5.0, "b": 5.0, "d": 4.0})
    assert job(source, tmp_path, *BY_NUMBER, "--allow_spacing") == 0
    assert job(source, tmp_path, *BY_NUMBER) == 2
    assert "other inputs or settings" in capsys.readouterr().err


def test_a_published_config_takes_other_voxels_with_a_warning(tmp_path, capsys):
    source = tmp_path / "scans"
    source.mkdir()
    for name, side in (("a", 1.0), ("b", 0.9)):
        write_ball(source, name, (0.8, 0.8, side), (256, 256, 130))
    assert job(source, tmp_path) == 0
    assert "warning: voxels of the volumes differ by 11%" in capsys.readouterr().err
    config = manifest_of(tmp_path, "thesis")["config"]
    assert "padding" not in config and "spacing" not in config


def test_tilted_heads_get_a_warning(tmp_path, capsys):
    source = tmp_path / "scans"
    source.mkdir()
    write_ball(source, "straight", (5.0,) * 3, (32, 32, 30), turn=14)
    write_ball(source, "tilted", (5.0,) * 3, (32, 32, 30), turn=16.4)
    assert job(source, tmp_path, *BY_NUMBER) == 0
    error = capsys.readouterr().err
    assert "1 head is tilted in the scanner by more than 15 degrees, tilted.nii.gz by 16" in error


def test_a_window_by_number_at_another_place_of_the_head_gets_a_warning(tmp_path, capsys):
    source = tmp_path / "scans"
    source.mkdir()
    for name, off in (("a", 0.0), ("b", 6.0), ("c", -6.0)):
        write_ball(source, name, (5.0,) * 3, (32, 32, 30), (0.0, 0.0, off))
    assert job(source, tmp_path, *BY_NUMBER) == 0
    assert "elsewhere" not in capsys.readouterr().err
    write_ball(source, "d", (5.0,) * 3, (32, 32, 30), (0.0, 0.0, 20.0))
    assert job(source, tmp_path, *BY_NUMBER, "--overwrite") == 0
    error = capsys.readouterr().err
    assert (
        "in 1 volume the slices lie elsewhere in the head than in the others, in d.nii.gz" in error
    )
    page = (folder_of(tmp_path, "own") / "quality.html").read_text()
    assert "elsewhere in the head" in page
    assert job(source, tmp_path, *MM) == 0
    assert "elsewhere" not in capsys.readouterr().err


def test_crops_are_named(tmp_path):
    source = tmp_path / "scans"
    source.mkdir()
    for name, middle in (("middle", 0.0), ("beside", 45.0)):
        write_ball(source, name, (5.0,) * 3, (50, 32, 30), (middle, 0.0, 0.0))
    assert job(source, tmp_path, *BY_NUMBER) == 0
    page = (folder_of(tmp_path, "own") / "quality.html").read_text()
    assert "crop the heads of 1 volumes" in page
    (share,) = re.findall(
        r'<td>beside</td><td class="n">([0-9.]+)%</td><td>50x32x30</td><td>5x5x5</td>', page
    )
    # Of 120 mm, 25 mm lie beyond the 160 mm of the slices; the box leaves out 1% of the head.
    assert 14 < float(share) < 21
    assert f"5x5x5 mm, crop {share}%" in page


def test_datasets_of_the_old_padding_are_the_same_job_and_can_be_repaired(
    tmp_path, capsys, monkeypatch
):
    """Earlier versions padded with zeros and took voxels of any size."""
    source = write_mixed(tmp_path / "scans", {"a": 5.0, "b": 6.0, "c": 6.0})
    flags = [*BY_NUMBER[:2], "--size=40x40", "--slices=8:18"]
    with monkeypatch.context() as patch:
        patch.setattr(geometry, "PADDING", None)
        assert job(source, tmp_path, *flags) == 0
    assert "padding" not in manifest_of(tmp_path, "own")["config"]
    capsys.readouterr()
    assert job(source, tmp_path, *flags) == 0
    assert "already made" in capsys.readouterr().out
    shard = next(folder_of(tmp_path, "own").glob("*train*.tfrecord-*"))
    before = shard.read_bytes()
    shard.write_bytes(b"")
    repair = ["verify", f"--data_dir={tmp_path}", "--repair", f"--source_dir={source}"]
    assert beam_preprocess.run(repair) == 0 and shard.read_bytes() == before
    assert job(source, tmp_path, *flags, "--scaling=volume") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--spacing=0",), "--spacing=0: give a side in mm"),
        (("--spacing=0.01",), "sides of a voxel are from 0.05 to 50 mm"),
        (("--spacing=2x2",), "--spacing=2x2: give a side in mm as in 2, or three as in 2x2x2"),
        (("--spacing=nan",), "--spacing=nan: give a side in mm"),
        (("--spacing=2mm",), "--spacing=2mm: give a side in mm"),
        (("--in_plane=32x32",), "--in_plane: not with --spacing"),
        (("--slices=-25:25mm",), "--slices=-25:25mm: give a window in mm as in -36mm:36mm"),
        (("--slices=25mm:-25mm",), "with FIRST < LAST"),
        (("--spacing=4",), "a whole number of slices: 12 slices of 4 mm are -24mm:24mm"),
        (("--config=thesis",), "--slices: the config thesis is fixed"),
    ],
)
def test_impossible_flags_get_one_line(flags, message, mixed, tmp_path, capsys):
    assert job(mixed, tmp_path, *MM, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_window_in_mm_needs_a_spacing(mixed, tmp_path, capsys):
    assert job(mixed, tmp_path, *BY_NUMBER[:3], "--slices=-25mm:25mm") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--slices=-25mm:25mm: a window in mm needs --spacing" in line
    assert job(mixed, tmp_path, "--config=thesis", "--spacing=2") == 2
    assert "--spacing: the config thesis is fixed" in capsys.readouterr().err


def test_a_window_by_number_counts_resampled_slices(mixed, tmp_path):
    flags = ("--config=n", "--spacing=5x5x10", "--size=32x32", "--slices=3:9")
    assert job(mixed, tmp_path, *flags) == 0
    stacks = slices_in(tmp_path, "n")
    assert {stack.shape for stack in stacks.values()} == {(6, 32, 32)}
    builder = tfds.builder_from_directory(str(folder_of(tmp_path, "n")))
    numbers = {int(e["slice_index"]) for e in tfds.as_numpy(builder.as_dataset(split="train"))}
    assert numbers == set(range(3, 9))


@pytest.mark.parametrize("axes", ["PSR", "LAS", "RSA", "IPL"])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mgz"])
def test_voxel_sizes_are_read_from_the_header_alone(axes, name, tmp_path):
    source = tmp_path / "scans"
    source.mkdir()
    image = nib.load(write_ball(source, "x", (2.0, 3.0, 4.0), (20, 21, 22), turn=20))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
        )
    )
    path = tmp_path / name
    if name.endswith("mgz"):
        turned = nib.MGHImage(turned.get_fdata().astype(np.float32), turned.affine)
    nib.save(turned, path)
    assert zooms_of_file(str(path)) == pytest.approx((2.0, 3.0, 4.0), rel=1e-5)
    if name == "x.nii":
        # The rest may be missing: that is for the reader to say.
        path.write_bytes(path.read_bytes()[:400])
        assert zooms_of_file(str(path)) == pytest.approx((2.0, 3.0, 4.0), rel=1e-5)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b broken", bytes(400)])
def test_files_without_a_header_have_no_voxel_size(content, tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    assert zooms_of_file(str(path)) is None
    assert zooms_of_file(str(tmp_path / "gone.nii")) is None


def test_heads_in_another_unit_are_not_sent_to_the_flag_that_was_given(tmp_path, capsys):
    source = tmp_path / "scans"
    source.mkdir()
    path = write_ball(source, "metres", (5.0, 5.0, 5.0), (26, 28, 26))
    image = nib.load(path)
    metres = np.diag([0.001, 0.001, 0.001, 1]) @ image.affine
    nib.save(nib.Nifti1Image(image.get_fdata().astype(np.float32), metres), path)
    assert job(source, tmp_path, *MM) == 2
    error = capsys.readouterr().err
    assert "is its affine in millimetres" in error and "in place of --in_plane" not in error
