"""One person in two splits: by name, by pixels, and by a second scan that looks like the first."""

import dataclasses
import hashlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny_dataset
from scipy import ndimage
from scipy.spatial.transform import Rotation
from test_beam_preprocess import job
from volumes import ZOOMS, write_head

from beam_preprocess import alike, leakage
from beam_preprocess.__main__ import run
from ixi_tfds.cohorts import DEFAULT
from ixi_tfds.cohorts.catalog import find_scans
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.splits import assign_splits

FLAGS = ("--in_plane=48x48", "--size=48x48", "--slices=4:32")


def blobs(seed, shape=(48, 48, 36)):
    """A head in air, which resembles no other inside."""
    random = np.random.default_rng(seed)
    inside = ((np.indices(shape).T / (np.array(shape) - 1) - 0.5) ** 2).sum(-1).T < 0.2
    made = 1.5 * ndimage.gaussian_filter(inside.astype(float), 1)
    for sigma in (1.5, 4):
        texture = ndimage.gaussian_filter(random.normal(size=shape), sigma)
        made += inside * texture / texture.std() / 4
    return (500 * made).clip(0).astype(np.int16)


def rescanned(voxels, zooms=ZOOMS, degrees=3):
    """A second scan of a head: turned, shifted, darker, shaded, with noise."""
    turn = Rotation.from_euler("xyz", (0, degrees, degrees), degrees=True).as_matrix()
    turn = turn / np.reshape(zooms, (3, 1)) * zooms
    middle = (np.array(voxels.shape) - 1) / 2
    offset = middle - turn @ middle + (1.5, -2, 1)
    made = ndimage.affine_transform(voxels.astype(float), turn, offset, order=1)
    made *= 0.8 * np.linspace(0.9, 1.1, voxels.shape[0])[:, None, None]
    made += np.random.default_rng(0).normal(0, 15, voxels.shape)
    return made.clip(0).astype(np.int16)


def verify(data, *flags):
    return run(["verify", f"--data_dir={data}", *flags])


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder of nine heads, and two people of it, one in train and one in test."""
    source = tmp_path_factory.mktemp("source")
    for number in range(1, 10):
        write_head(source, f"IXI70{number}-HH-0001-T1", voxels=blobs(number))
    splits = assign_splits(find_scans(str(source), DEFAULT).scans, {})
    one, other = (next(s for s, of in splits.items() if of == split) for split in ("train", "test"))
    return source, one, other


@pytest.fixture(scope="module")
def leaking(people, tmp_path_factory):
    """A dataset in which the person in test is the one in train, scanned again; in two configs."""
    original, one, other = people
    source = shutil.copytree(original, tmp_path_factory.mktemp("leak") / "source")
    name = next(source.glob(f"{other}-*")).name.removesuffix(".nii.gz")
    write_head(source, name, voxels=rescanned(blobs(int(one[-1]))))
    data = source.parent / "data"
    assert job(source, data, "--config=by_slice", *FLAGS) == 0
    assert job(source, data, "--config=by_volume", "--scaling=volume", *FLAGS) == 0
    return data, one, other


@pytest.mark.parametrize("config", ["by_slice", "by_volume"])
def test_a_second_scan_of_a_person_in_another_split_is_found(config, leaking, capsys):
    data, one, other = leaking
    assert verify(data, f"--config={config}") == 0
    out = capsys.readouterr().out
    assert "1 pairs of people; are they one person? Closest:" in out
    pairs = re.findall(r"^  (0\.\d{4})  (\w+) \((\w+)\) and (\w+) \((\w+)\)$", out, re.M)
    assert pairs[0][1:] == (other, "test", one, "train")
    assert float(pairs[0][0]) > alike.ALIKE > max(float(pair[0]) for pair in pairs[1:])
    assert len(pairs) == 3
    assert "give the scans of one person one name" in out and "not known: " in out


def test_strict_makes_heads_that_look_like_one_a_fault(leaking, people, tmp_path, capsys):
    data, *_ = leaking
    assert verify(data, "--strict") == 2
    captured = capsys.readouterr()
    assert captured.out.count("1 pairs of people; are they one person?") == 2
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert "--repair" not in captured.err and "make the dataset again" in captured.err
    assert job(people[0], tmp_path, "--config=all_different", *FLAGS) == 0
    assert verify(tmp_path, "--strict") == 0
    out = capsys.readouterr().out
    assert ": 0 pairs of people. Closest:" in out and "if so" not in out


def test_copies_in_two_splits_are_told_once_a_pair_without_advice_to_repair(
    people, tmp_path, capsys
):
    original, one, other = people
    source = shutil.copytree(original, tmp_path / "source")
    shutil.copy(next(source.glob(f"{one}-*")), next(source.glob(f"{other}-*")))
    assert job(source, tmp_path / "data", "--config=copies", "--allow_same_bytes", *FLAGS) == 0
    capsys.readouterr()
    assert verify(tmp_path / "data") == 2
    captured = capsys.readouterr()
    assert captured.out.count("the same pixels are ") == 1
    assert f"{other}/004 in test and {one}/004 in train, and so are 27 more" in captured.out
    # Not a second time, as heads that look like one.
    assert ": 0 pairs of people" in captured.out
    assert "--repair" not in captured.err and "make the dataset again" in captured.err


def test_damage_and_leaks_get_their_own_advice(leaking, tmp_path, capsys):
    data = shutil.copytree(leaking[0], tmp_path / "data")
    next((data / "ixi_t1/by_slice/1.0.0").glob("*train*")).unlink()
    assert verify(data, "--strict") == 2
    error = capsys.readouterr().err
    assert "--repair --source_dir=S repairs damaged files; give the scans of one" in error
    assert verify(data, "--config=by_slice") == 2
    error = capsys.readouterr().err
    assert "--repair" in error and "give the scans" not in error


def gathered(voxels, grid):
    head = np.zeros(grid.shape, np.float32)
    for number in range(voxels.shape[2]):
        plane = voxels[:, :, number]
        low, high = float(plane.min()), float(plane.max())
        levels = np.round((plane - low) / max(high - low, 1) * 255).astype(np.uint8)
        alike.add_slice(head, number, levels, (low, high), grid)
    return head


def test_a_head_is_gathered_in_cells_of_four_millimetres():
    grid = alike.grid_of((97, 64, 33), (1.0, 2.0, 1.2))
    assert grid == alike.Grid((4, 2, 3), (24, 32, 11), (4, 4, pytest.approx(3.6)))
    voxels = blobs(0, (97, 64, 33))
    means = voxels[:96].reshape(24, 4, 32, 2, 11, 3).mean((1, 3, 5))
    np.testing.assert_allclose(gathered(voxels, grid), means, atol=2)
    levels = np.random.default_rng(0).integers(0, 256, (97, 64), np.uint8)
    cells = np.zeros(grid.shape, np.float32)
    alike.add_slice(cells, 5, levels, (0, 255 * 3), grid)
    exact = levels[:96].astype(np.float32).reshape(24, 4, 32, 2).mean((1, 3))
    np.testing.assert_array_equal(cells[:, :, 1], exact * 765 / 255 / 3)
    # Few voxels are not thrown together.
    assert alike.grid_of((32, 32, 6), (0.5, 0.5, 0.5)).pixels == (4, 4, 1)
    assert alike.grid_of((128, 64, 60), None).pixels == (2, 2, 2)


@pytest.mark.parametrize("slices", [1, 2, 5, 36])
def test_heads_of_any_number_of_slices_are_compared(slices):
    grid = alike.grid_of((48, 48, slices), (4.0, 4.0, 4.0))
    heads = [
        gathered(blobs(seed)[:, :, 18 - slices // 2 :][:, :, :slices], grid) for seed in range(3)
    ]
    dark = np.zeros(grid.shape, np.float32)
    made = [*map(alike.prepare, [*heads, 3 * heads[1] + 7, dark])]
    found = alike.find_alike(made, [*"aaabb"], grid)
    assert found[0][1:] == (1, 3) and found[0][0] > 0.99
    assert max(value for value, *_ in found[1:]) < 0.9
    assert alike.find_alike(made[:3], [*"aaa"], grid) == []


def test_the_nearest_are_found_among_many_people_and_only_across_groups():
    grid = alike.grid_of((48, 48, 36), (4.0, 4.0, 4.0))
    first = [gathered(blobs(seed), grid) for seed in range(15)]
    again = [gathered(rescanned(blobs(seed), grid.cell), grid) for seed in (3, 11)]
    groups = ["train"] * 15 + ["test", "train"]
    found = alike.find_alike([*map(alike.prepare, [*first, *again])], groups, grid)
    assert found[0][1:] == (3, 15) and found[0][0] > found[1][0] + 0.1
    assert all(groups[one] != groups[other] for _, one, other in found)


def test_a_head_turned_far_about_voxels_that_are_not_cubes_is_found():
    grid = alike.grid_of((48, 48, 18), (4.0, 4.0, 10.0))
    voxels = blobs(1, (48, 48, 18))
    one, other = (
        alike.prepare(gathered(each, grid))
        for each in (voxels, rescanned(voxels, grid.cell, degrees=10))
    )
    assert alike.likeness(one, other, grid.cell) > 0.8


def slices(rows, sha256=None):
    """Slices by split, subject and index; all heads are black."""
    table = pd.DataFrame(rows, columns=["split", "subject", "index"])
    table["key"] = [f"{row.subject}/{row.index:03d}" for row in table.itertuples(index=False)]
    table["sha256"] = sha256 or ""
    grid = alike.grid_of((8, 8, 8), None)
    black = alike.prepare(np.zeros(grid.shape, np.float32))
    heads = {(split, subject): black for split, subject, _ in rows}
    return leakage.Slices(table, heads, grid)


def test_all_leaks_are_told_a_sentence_each():
    rows = [
        *(("train", "a", 0), ("train", "a", 1), ("train", "b", 0), ("train", "b", 0)),
        *(("validation", "a", 2), ("test", "a", 3), ("test", "c", 0), ("validation", "d", 0)),
    ]
    # The same pixels within a split are no leak, and black slices are of nobody.
    pixels = ["x", "x", "y", "z", "", "w", "y", ""]
    assert leakage.find_leaks(slices(rows, pixels)) == [
        "a is in test and in train and in validation",
        "the slice b/000 stands 2 times",
        "the same pixels are b/000 in train and c/000 in test",
    ]
    rest = slices([rows[0], rows[2], rows[6], rows[7]], ["x", "y", "z", "w"])
    assert leakage.find_leaks(rest) == []


def test_one_person_in_two_splits_is_not_also_alike():
    found = leakage.alike_across_splits(slices([("train", "a", 0), ("test", "a", 1)]))
    assert len(found) == 0


def test_slices_are_read_with_their_place_their_person_and_their_pixels(tmp_path):
    """Of a dataset that is not square, the last record of each shard included."""
    config = dataclasses.replace(tiny_dataset.TINY, size=(32, 48), in_plane=(32, 48))
    folder = tiny_dataset.write_tiny_dataset(tmp_path, config)
    found = leakage.read_slices(folder, manifests.read(folder))
    rows, number, people = [], 900, {}
    for split, count in tiny_dataset.SUBJECTS.items():
        people |= {f"IXI{number + n}": split for n in range(1, count + 1)}
        number += count
    assert found.grid.pixels == (1, 1, 1) and found.heads.keys() == {
        (split, subject) for subject, split in people.items()
    }
    for subject, split in people.items():
        cells = np.zeros(found.grid.shape, np.float32)
        for place, example in enumerate(tiny_dataset.slice_examples(subject, config)):
            image = example["image"][..., 0]
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            rows.append((split, subject, f"{subject}/{example['slice_index']:03d}", digest))
            values = example["low"] + image * (example["high"] - example["low"]) / 255
            cells[:, :, place] = values
        head, expected = found.heads[split, subject], alike.prepare(cells)
        np.testing.assert_allclose(head.fine, expected.fine, atol=0.01)
        np.testing.assert_allclose(head.coarse, expected.coarse, atol=1e-3)
    table = found.table.sort_values("key")
    assert list(table.itertuples(index=False, name=None)) == sorted(rows, key=lambda row: row[2])
    assert len(table) == 44


def heads_of(folder, first=lambda made: made):
    """All heads of a dataset of one shard a split, `first` of the slices of one person in it."""

    def made_by(subject, config):
        made = tiny_dataset.slice_examples(subject, config)
        return first(made) if subject == "IXI901" else made

    dataset = tiny_dataset.write_tiny_dataset(folder, shards=1, made_by=made_by)
    return leakage.read_slices(dataset, manifests.read(dataset)).heads


def test_a_head_of_fewer_slices_is_compared_and_one_slice_twice_changes_none(tmp_path):
    whole = heads_of(tmp_path / "whole")
    for first, changed in (
        (lambda made: [made[0], *made], 0),
        (lambda made: [*made, made[0]], 0),
        (lambda made: made[1:], 1),
    ):
        heads = heads_of(tmp_path / f"{changed}{len(list(tmp_path.iterdir()))}", first)
        assert heads.keys() == whole.keys()
        others = [who for who in whole if not np.array_equal(whole[who].fine, heads[who].fine)]
        assert others == [("train", "IXI901")] * changed


def test_a_head_is_prepared_once_its_last_slice_was_read(tmp_path, monkeypatch):
    """Otherwise the cells of all heads would be in memory at once."""
    steps = []
    add, prepare = alike.add_slice, alike.prepare
    monkeypatch.setattr(alike, "add_slice", lambda *given: (steps.append("slice"), add(*given)))
    monkeypatch.setattr(alike, "prepare", lambda head: (steps.append("head"), prepare(head))[1])
    people = len(heads_of(tmp_path))
    assert steps == [*["slice"] * tiny_dataset.TINY.slices_per_volume, "head"] * people


def test_cells_of_resampled_slices_are_as_large_as_their_voxels(tmp_path):
    config = dataclasses.replace(tiny_dataset.TINY, size=(32, 48), in_plane=None)
    folder = tiny_dataset.write_tiny_dataset(tmp_path, config)
    made = manifests.read(folder)
    fine = manifests.Geometry(shape=(256, 256, 150), zooms=(1.0, 1.0, 1.0))
    made = dataclasses.replace(made, geometry=fine)
    assert leakage.read_slices(folder, made).grid.cell[:2] == (4, 4)
    coarse = dataclasses.replace(config, spacing=(4.0, 2.0, 4.0))
    grid = leakage.read_slices(folder, dataclasses.replace(made, config=coarse)).grid
    assert grid.pixels == (1, 2, 1) and grid.cell == (4, 4, 4)


def test_a_dataset_of_one_split_says_that_nothing_was_compared(tmp_path, capsys):
    write_head(tmp_path / "source", "IXI701-HH-0001-T1", voxels=blobs(1))
    assert job(tmp_path / "source", tmp_path / "data", "--config=one", *FLAGS) == 0
    capsys.readouterr()
    assert verify(tmp_path / "data", "--strict") == 0
    out = capsys.readouterr().out
    assert "heads were not compared: there are no two people of different splits" in out
    assert "Closest" not in out and "pairs of people" not in out


@pytest.mark.slow
@pytest.mark.real_data
def test_second_scans_of_real_people_are_told_from_other_people(real_data, tmp_path, capsys):
    """The numbers for more people and more changes are in docs/reliability.md."""
    import nibabel as nib

    source = tmp_path / "source"
    paths = sorted((real_data / "ixi/heads_2mm").glob("*.nii.gz"))[:12]
    for number, path in enumerate(paths):
        voxels = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(voxels, nib.load(path).affine), path_of(source, number))
    splits = assign_splits(find_scans(str(source), DEFAULT).scans, {})
    one, other = (next(s for s, of in splits.items() if of == split) for split in ("train", "test"))
    scan = nib.load(source / f"{one}-T1.nii.gz")
    again = rescanned(np.asarray(scan.dataobj), (2, 2, 2))
    nib.save(nib.Nifti1Image(again, scan.affine), source / f"{other}-T1.nii.gz")
    flags = ("--in_plane=120x120", "--size=128x128", "--slices=30:66")
    assert job(source, tmp_path / "data", "--config=heads_2mm", *flags) == 0
    assert verify(tmp_path / "data", "--strict") == 2
    out = capsys.readouterr().out
    assert ": 1 pairs of people; are they one person? Closest:" in out
    assert f"{other} (test) and {one} (train)" in out


def path_of(source, number):
    source.mkdir(exist_ok=True)
    return source / f"person{number:02d}-T1.nii.gz"


def test_what_is_alike_does_not_depend_on_the_number_of_cores(monkeypatch):
    grid = alike.grid_of((48, 48, 36), (4.0, 4.0, 4.0))
    heads = [alike.prepare(blobs(number).astype(np.float32)) for number in range(12)]
    groups = ["train", "validation", "test"] * 4
    found = []
    for cores in (1, 7):
        monkeypatch.setattr(alike.os, "cpu_count", lambda cores=cores: cores)
        found.append(alike.find_alike(heads, groups, grid))
    assert found[0] == found[1] and len({value for value, _, _ in found[0]}) == len(found[0]) > 12
