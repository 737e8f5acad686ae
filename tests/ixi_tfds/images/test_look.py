import dataclasses
import time

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.look import heads, kinds, labels_of, stripped, verdict, with_axes, with_values
from ixi_tfds.demo.head import SITES, brain_mask, make_head
from ixi_tfds.documents import codec
from ixi_tfds.images.look import Look, TypicalLook, look_of, typical, unlike, unlike_the_rest
from ixi_tfds.nifti import read_volume

GRID = {"shape": (72, 72, 48), "zooms": (3.5, 3.5, 4.0)}


def volume_of(voxels, affine, folder):
    path = folder / "scan.nii"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return read_volume(str(path))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """Volumes of nine made-up heads of three sites, and their brains."""
    folder = tmp_path_factory.mktemp("heads")
    volumes, brains = [], []
    for number in range(9):
        who = (f"p{number}", SITES[number % 3])
        image = make_head(*who, seed=0, **GRID)
        volumes.append(volume_of(np.asarray(image.dataobj), image.affine, folder))
        brains.append(brain_mask(*who, seed=0, **GRID))
    return volumes, brains


@pytest.fixture(scope="module")
def looks(made_up):
    return [look_of(volume) for volume in made_up[0]]


@pytest.fixture(scope="module")
def without_skull(made_up):
    return [
        look_of(with_values(volume, np.where(brain, volume.scaled(volume.voxels), 0)))
        for volume, brain in zip(*made_up, strict=True)
    ]


def numbers_of(look):
    return np.hstack(list(vars(look).values()))


def test_heads_of_three_scanners_look_alike(looks):
    assert unlike_the_rest(looks) == [[]] * 9


def test_stripped_heads_are_unlike_whole_ones_and_the_other_way_round(looks, without_skull):
    whole, bare = typical(looks), typical(without_skull)
    for look in without_skull:
        assert unlike(look, [whole]) == ["looks skull-stripped, unlike the training heads"]
        assert unlike(look, [bare]) == []
    for look in looks:
        (said,) = unlike(look, [bare])
        assert said == "looks like a whole head, and the training heads are skull-stripped"


def test_a_dataset_of_one_volume_knows_its_own_kind(looks, without_skull):
    for look, other in zip(looks[:3], looks[3:6], strict=True):
        assert unlike(other, [typical([look])]) == []
        assert verdict(unlike(without_skull[0], [typical([look])])) == ["stripped"]
    assert typical([]) is None


def test_a_tenth_of_stripped_heads_does_not_make_a_dataset_of_whole_heads_less_strict(
    looks, without_skull
):
    mixed = [*looks, without_skull[0]]
    assert verdict(unlike(without_skull[1], [typical(mixed)])) == ["stripped"]
    differences = unlike_the_rest(mixed)
    assert differences[:-1] == [[]] * 9
    assert differences[-1] == ["looks skull-stripped, unlike the other heads"]


@pytest.mark.parametrize("count", [2, 3, 11, 12, 41, 150])
def test_each_of_a_dataset_is_compared_with_all_others_and_not_with_itself(looks, count):
    rng = np.random.default_rng(count)
    some = [
        dataclasses.replace(
            looks[index % 9],
            # In steps, so that many are equal.
            shell=float(rng.choice([0.1, 0.7, 1.0], p=[0.08, 0.12, 0.8])) if index else 0.1,
            tilt=float(rng.integers(8, 14) + 10 * (rng.random() < 0.1)),
            cut=float(rng.choice([0.0, 0.15], p=[0.89, 0.11])),
        )
        for index in range(count)
    ]
    expected = [
        unlike(look, [typical([*some[:index], *some[index + 1 :]])], "the other heads")
        for index, look in enumerate(some)
    ]
    assert unlike_the_rest(some) == expected and any(expected)


def test_thousands_of_volumes_are_compared_in_seconds(looks):
    started = time.process_time()
    assert not any(unlike_the_rest(looks * 1600))
    assert time.process_time() - started < 12


def test_a_dataset_of_both_kinds_knows_both(looks, without_skull):
    known = [typical([*looks[:4], *without_skull[:4]])]
    assert unlike(looks[8], known) == unlike(without_skull[8], known) == []


def test_a_scan_that_is_like_one_of_several_datasets_is_not_unlike(looks, without_skull):
    known = [typical(without_skull), typical(looks)]
    assert unlike(looks[0], known) == unlike(without_skull[0], known) == []
    assert unlike(looks[0], []) == []


@pytest.mark.parametrize("change", [lambda v: v - 1000.0, lambda v: v / 200 - 3.6, lambda v: -v])
def test_shifts_and_factors_of_all_values_change_no_number_but_the_sign(made_up, looks, change):
    volume = made_up[0][0]
    look = look_of(with_values(volume, change(volume.scaled(volume.voxels))))
    expected = looks[0]
    if change(1.0) < change(0.0):
        histogram = tuple(-value for value in reversed(expected.histogram))
        expected = dataclasses.replace(expected, histogram=histogram)
    assert numbers_of(look) == pytest.approx(numbers_of(expected), abs=0.03)


def test_padding_changes_no_verdict(made_up, looks):
    volume = made_up[0][1]
    padded = np.pad(volume.scaled(volume.voxels), ((0, 30), (20, 10), (40, 3)))
    look = look_of(with_values(volume, padded))
    assert unlike(look, [typical(looks)]) == []
    assert look.extent == pytest.approx(looks[1].extent, abs=4)


def changed(volume, look, kind):
    values = volume.scaled(volume.voxels)
    return {
        "contrast": lambda: look_of(with_values(volume, values.max() - values)),
        "cut": lambda: look_of(with_values(volume, values[:, :-26])),
        "size": lambda: look_of(with_axes(volume, np.eye(3) / 2)),
        "field of view": lambda: dataclasses.replace(look, extent=(*look.extent[:1], 110.0, 140.0)),
        "coarse": lambda: dataclasses.replace(look, zooms=(3.5, 3.5, 8.1)),
        "tilt": lambda: look_of(
            with_axes(volume, Rotation.from_euler("z", 25, degrees=True).as_matrix())
        ),
        "shear": lambda: look_of(with_axes(volume, np.eye(3) + np.eye(3, k=2) * 0.1)),
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["contrast", "cut", "size", "field of view", "coarse", "tilt", "shear"]
)
def test_other_kinds_are_named(made_up, looks, kind):
    look = changed(made_up[0][2], looks[2], kind)
    assert kind in verdict(unlike(look, [typical(looks)]))


@pytest.mark.parametrize(
    "kept",
    [np.s_[26:], np.s_[:46], np.s_[:, :46], np.s_[:, :, 16:], np.s_[:, :, :32]],
    ids=["front", "back", "top", "left", "right"],
)
def test_a_head_is_cut_at_whichever_side_the_volume_ends(made_up, looks, kept):
    volume = made_up[0][2]
    look = look_of(with_values(volume, volume.scaled(volume.voxels)[kept]))
    assert "cut" in verdict(unlike(look, [typical(looks)]))


def test_a_scan_tilted_by_less_than_15_degrees_or_like_the_training_scans_passes(looks):
    turned = [dataclasses.replace(look, tilt=30.0) for look in looks]
    assert unlike(dataclasses.replace(looks[0], tilt=14.9), [typical(looks)]) == []
    assert unlike(turned[0], [typical(turned)]) == []
    (said,) = unlike(turned[0], [typical(looks)])
    assert said == "is oblique: tilted by 30 degrees"


def test_tilt_and_shear_come_from_the_affine(made_up):
    volume = made_up[0][0]
    psr = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
    turn = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    shear = np.eye(3) + np.eye(3, k=2) * np.tan(np.radians(6))
    for matrix, tilt, sheared in ((np.eye(3), 0, 0), (turn, 20, 0), (shear, 6, 6)):
        affine = volume.affine.copy()
        affine[:3, :3] = matrix @ psr * (1.0, 2.0, 3.0)
        look = look_of(dataclasses.replace(volume, affine=affine))
        assert (look.tilt, look.shear) == (pytest.approx(tilt), pytest.approx(sheared))


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 200, 5), (40, 40, 40)])
def test_any_volume_has_a_look_of_finite_numbers(tmp_path, shape):
    noise = np.random.default_rng(0).normal(size=shape)
    for voxels in (np.zeros(shape), np.ones(shape), noise, noise > 1):
        look = look_of(volume_of(voxels.astype(np.float32), np.diag([2.0, 2, 3, 1]), tmp_path))
        assert np.isfinite(numbers_of(look)).all()
        assert unlike(look, [typical([look])]) == []


def test_a_typical_look_is_read_as_it_was_written(looks):
    known = typical(looks)
    assert codec.from_plain(TypicalLook, codec.to_plain(known)) == known


@pytest.mark.parametrize("field", ["zooms", "extent", "rim", "histogram"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_document_with_a_look_of_no_scan_is_refused(looks, field, value):
    plain = codec.to_plain(looks[0])
    plain[field] = [value] * len(plain[field]) if isinstance(plain[field], list) else value
    with pytest.raises(codec.DocumentError, match="is not how a scan looks"):
        codec.from_plain(Look, plain)


@pytest.fixture(scope="module")
def real_looks(real_data):
    """The looks of the 62 whole heads, by subject, and of the 9 stripped ones."""
    whole = {name: look_of(read_volume(str(path))) for name, path in heads(real_data).items()}
    return whole, {path: look_of(read_volume(str(path))) for path in stripped(real_data)}


@pytest.mark.real_data
def test_each_of_62_real_heads_looks_like_all_others(real_looks):
    whole, _ = real_looks
    assert len(whole) == 62
    for name, look in whole.items():
        others = typical([other for one, other in whole.items() if one != name])
        assert unlike(look, [others]) == [], name


@pytest.mark.real_data
def test_real_stripped_scans_of_four_sources_look_stripped(real_looks):
    whole, bare = real_looks
    assert len(bare) == 9
    for path, look in bare.items():
        assert "stripped" in verdict(unlike(look, [typical(list(whole.values()))])), path
    for name, look in whole.items():
        assert "whole" in verdict(unlike(look, [typical(list(bare.values()))])), name


@pytest.mark.real_data
def test_a_real_whole_head_of_another_site_is_not_unlike(real_data, real_looks):
    (path,) = (real_data / "ixi/full").glob("IXI533*")
    whole, bare = real_looks
    look = look_of(read_volume(str(path)))
    assert unlike(look, [typical(list(whole.values()))]) == []
    assert verdict(unlike(look, [typical(list(bare.values()))])) == ["whole"]


@pytest.mark.real_data
def test_changed_real_heads_are_named_by_what_was_changed(real_data, real_looks):
    whole, _ = real_looks
    for name in ("IXI051", "IXI334", "IXI646"):
        path = heads(real_data)[name]
        known = [typical([look for one, look in whole.items() if one != name])]
        made = kinds(read_volume(str(path)), labels_of(path))
        said = {kind: verdict(unlike(look_of(each), known)) for kind, each in made.items()}
        assert said["minus 1000"] == said["z-scored"] == []
        assert said["padded by 15 voxels on all sides"] == []
        assert said["stripped by its brain mask"] == ["stripped"]
        for kind in ("T2-like", "FLAIR-like", "CT-like", "stripped and T2-like", "its label map"):
            assert said[kind] == ["contrast"], (name, kind)
        for kind in ("inverted, background too", "inverted, background 0"):
            assert said[kind] == ["contrast"], (name, kind)
        assert said["top cut off by 76 mm"] == said["right half only"] == ["cut"]
        assert said["top 110 mm only"] == ["field of view"]
        assert said["half as large (a macaque)"] == ["size"]
        assert said["slices of 6 mm"] == ["coarse"]
        assert said["affine turned by 20 degrees"] == ["tilt"]
        assert said["affine sheared by 6 degrees"] == ["shear"]
