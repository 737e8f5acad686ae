"""Datasets of brains: masks, planes, copies, and what is refused."""

import base64
import io
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import tensorflow  # noqa: F401  # it sets environment variables, which no test may
import tensorflow_datasets as tfds
from PIL import Image
from scipy import ndimage
from volumes import image

from beam_preprocess.__main__ import run
from ixi_tfds.documents import manifest as manifests
from ixi_tfds.images.tissue import tissue_means

SHAPE = (52, 44, 40)
ZOOMS = np.array([4.0, 4.0, 5.0])
GEOMETRY = ("--scaling=tissue", "--spacing=5", "--size=40x32", "--slices=0:32")


def head_and_mask(seed=0):
    """A whole head, int16 [P, S, R], and its brain: scalp, a dark skull, grey and white matter."""
    rng = np.random.default_rng(seed)
    at = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2) * ZOOMS
    radius = np.linalg.norm(at / (85, 75, 75), axis=-1).T + 0.02 * seed / 10
    values = np.select(
        [radius < 0.15, radius < 0.7, radius < 0.8, radius < 0.9, radius < 1.05],
        [400, 800, 660, 120, 900],
        0,
    ).astype(float)
    values += 12 * ndimage.gaussian_filter(rng.normal(0, 1, SHAPE), 1) * (values > 0)
    # A mark on one side, at the front and at the top, that tells planes and directions.
    marked = (np.abs(at - (-20, 25, 30)) < 10).all(axis=-1).T
    values[marked] = 1000
    return np.clip(values, 0, None).astype(np.int16), radius < 0.8


def write_people(folder, people=5, strip=False):
    (folder / "scans").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(people):
        head, mask = head_and_mask(number)
        name = f"IXI{701 + number}-HH-{number:04d}-T1"
        nib.save(image(head * mask if strip else head), folder / f"scans/{name}.nii.gz")
        nib.save(image(mask.astype(np.uint8)), folder / f"masks/{name}_mask.nii.gz")
    return folder


def flags(folder, data, *more, masks=True):
    where = [f"--source_dir={folder}/scans", f"--data_dir={data}", "--config=small"]
    return [*where, *GEOMETRY, *([f"--brain_masks={folder}/masks"] * masks), *more]


def dataset(data):
    return data / "ixi_t1/small/1.0.0"


def slices_of(data, split="train"):
    builder = tfds.builder_from_directory(str(dataset(data)))
    return [*tfds.as_numpy(builder.as_dataset(split=split))]


def brains_of(data, split="train"):
    """Images and masks of each person and copy, [n, height, width]."""
    found = {}
    for each in slices_of(data, split):
        person = found.setdefault((each["subject"].decode(), int(each["copy"])), {})
        person[int(each["slice_index"])] = each["image"][..., 0], each["mask"][..., 0]
    return {
        key: tuple(np.stack([slices[n][part] for n in sorted(slices)]) for part in (0, 1))
        for key, slices in found.items()
    }


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def made(people, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    assert run(flags(people, data, "--copies=2")) == 0
    return data


def test_brains_have_one_scale_and_nothing_else_is_stored(made):
    for images, masks in brains_of(made).values():
        assert images.shape == masks.shape == (32, 40, 32)
        assert set(np.unique(masks)) == {0, 1} and not images[masks == 0].any()
        white = np.median(images[masks == 1]) * 1.6 / 255
        assert white == pytest.approx(0.8, abs=0.03)
    (first,) = {(float(each["low"]), round(float(each["high"]), 3)) for each in slices_of(made)}
    assert first == (0.0, 1.6)


def test_copies_are_of_training_volumes_only_and_each_is_moved(made):
    manifest = manifests.read(dataset(made))
    people = {split: counts.volumes for split, counts in manifest.splits.items()}
    for split, volumes in people.items():
        copies = 3 if split == "train" else 1
        assert manifest.splits[split].slices == volumes * copies * 32
        assert sorted({copy for _, copy in brains_of(made, split)}) == [*range(copies)]
    brains = brains_of(made)
    for subject, copy in brains:
        if copy:
            itself, moved = brains[subject, 0][1], brains[subject, copy][1]
            overlap = (itself & moved).sum() * 2 / (itself.sum() + moved.sum())
            assert 0.6 < overlap < 0.99
            assert 0.7 < moved.sum() / itself.sum() < 1.4


def test_a_whole_head_with_its_mask_and_the_stripped_head_are_the_same(people, made, tmp_path):
    stripped = write_people(tmp_path / "stripped", strip=True)
    assert run(flags(stripped, tmp_path, "--copies=2", masks=False)) == 0
    ours, theirs = brains_of(made), brains_of(tmp_path)
    assert ours.keys() == theirs.keys()
    for key, (images, masks) in ours.items():
        assert (masks == theirs[key][1]).mean() > 0.999
        inside = (masks & theirs[key][1]) == 1
        assert np.abs(images.astype(int) - theirs[key][0])[inside].mean() < 1


def test_a_whole_head_without_a_mask_is_refused_in_one_line(people, tmp_path, capsys):
    assert run(flags(people, tmp_path, masks=False)) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "is a whole head, and a model of brains needs a mask of its brain" in error
    assert "--brain_masks" in error and not dataset(tmp_path).exists()


def test_a_whole_head_among_stripped_ones_is_named(tmp_path, capsys):
    folder = write_people(tmp_path, strip=True)
    head, _ = head_and_mask(9)
    nib.save(image(head), folder / "scans/IXI711-HH-0009-T1.nii.gz")
    assert run(flags(folder, tmp_path, "--max_rejected_fraction=0.5", masks=False)) == 0
    (line,) = (dataset(tmp_path) / "rejected.jsonl").read_text().splitlines()
    refused = json.loads(line)
    assert refused["reason"] == "no_brain_mask" and refused["path"] == "IXI711-HH-0009-T1.nii.gz"
    assert refused["detail"].startswith("is a whole head, and a model of brains needs a mask")
    assert "\n" not in refused["detail"] and "rejected: no_brain_mask" in capsys.readouterr().out


def test_damaged_brains_are_made_again_from_scans_and_masks(people, made, tmp_path, capsys):
    data = shutil.copytree(made, tmp_path / "data")
    train = next(dataset(data).glob("*-train.tfrecord-*"))
    whole = train.read_bytes()
    train.write_bytes(whole[:-1])
    repair = ["verify", f"--data_dir={data}", "--repair", f"--source_dir={people}/scans"]
    assert run(repair) == 2
    assert "with other flags such as --subjects" in capsys.readouterr().err
    assert run([*repair, f"--brain_masks={people}/masks"]) == 0
    assert train.read_bytes() == whole
    assert "none of them in two splits by name" in capsys.readouterr().out


def test_masks_of_bids_derivatives_are_found(people, tmp_path):
    scans, masks = (sorted((people / kind).iterdir()) for kind in ("scans", "masks"))
    for number, (scan, mask) in enumerate(zip(scans, masks, strict=True), 1):
        name = f"sub-{number:02d}"
        for path, there in (
            (scan, f"{name}/anat/{name}_T1w.nii.gz"),
            (mask, f"derivatives/synthstrip/{name}/anat/{name}_desc-brain_mask.nii.gz"),
        ):
            (tmp_path / "bids" / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "bids" / there)
    masks = f"--brain_masks={tmp_path / 'bids/derivatives/synthstrip'}"
    where = [f"--source_dir={tmp_path / 'bids'}", masks, f"--data_dir={tmp_path}"]
    assert run([*where, "--config=small", *GEOMETRY]) == 0
    counts = manifests.read(dataset(tmp_path)).splits
    assert sum(each.volumes for each in counts.values()) == len(scans)


@pytest.mark.parametrize(
    ("plane", "axis", "turned"),
    [("sagittal", 2, (0, 1)), ("axial", 1, (0, 2)), ("coronal", 0, (1, 2))],
)
def test_planes_are_cuts_of_one_box(people, tmp_path, plane, axis, turned):
    sides = (40, 36, 32)
    height, width = (sides[each] for each in turned)
    geometry = [f"--size={height}x{width}", f"--slices=0:{sides[axis]}", f"--plane={plane}"]
    assert run(flags(people, tmp_path, *geometry)) == 0
    images, _ = next(iter(brains_of(tmp_path).values()))
    box = np.moveaxis(images, 0, axis)
    assert box.shape == sides
    # The mark: to the front (before the middle), up and to the right.
    middle = (np.array(sides) - 1) / 2
    mark = np.argwhere(box > 0.94 / 1.6 * 255).mean(axis=0)
    assert (mark - middle) * 5 == pytest.approx((-20, 25, 30), abs=6)


@pytest.mark.parametrize(
    ("plane", "corner", "said"),
    [
        ("sagittal", "top left", "superior up, nose to the left"),
        ("axial", "top right", "nose up, the right side to the right"),
        ("coronal", "top right", "superior up, the right side to the right"),
    ],
)
def test_thumbnails_are_upright_in_every_plane(tmp_path, plane, corner, said):
    folder = write_people(tmp_path, people=3)
    at = (np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2) * ZOOMS
    # In front, above and on the right, up to the middle of the brain.
    bright = ((at > (-45, -5, -5)) & (at < (5, 45, 45))).all(axis=-1).T
    for path in (folder / "scans").iterdir():
        head = np.asanyarray(nib.load(path).dataobj)
        nib.save(image(np.where(bright, 1200, head).astype(np.int16)), path)
    assert run(flags(folder, tmp_path, f"--plane={plane}")) == 0
    page = (dataset(tmp_path) / "quality.html").read_text()
    assert said in page and "crop the brains" not in page and "No brain is cropped" in page
    for found in re.findall(r'base64,([^"]+)"', page):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found))), float)
        rows, columns = (np.array_split(np.arange(n), 2) for n in picture.shape)
        means = {
            f"{row} {column}": picture[np.ix_(rows[i], columns[j])].mean()
            for i, row in enumerate(("top", "bottom"))
            for j, column in enumerate(("left", "right"))
        }
        assert max(means, key=means.get) == corner


@pytest.mark.real_data
@pytest.mark.lanes
@pytest.mark.slow
@pytest.mark.parametrize("plane", ["sagittal", "axial", "coronal"])
def test_a_real_brain_of_full_resolution_fits_the_box_of_1_mm(real_data, tmp_path, plane):
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(min((real_data / "ixi/stripped").glob("*.nii.gz")), scans)
    where = [f"--source_dir={scans}", f"--data_dir={tmp_path}"]
    assert run([*where, f"--config=brain_1mm_{plane}"]) == 0
    folder = tmp_path / f"ixi_t1/brain_1mm_{plane}/1.0.0"
    builder = tfds.builder_from_directory(str(folder))
    slices = [*tfds.as_numpy(builder.as_dataset(split="train"))]
    shape = {"sagittal": (160, 208, 160), "axial": (160, 208, 160), "coronal": (208, 160, 160)}
    assert (len(slices), *slices[0]["image"].shape[:2]) == shape[plane]
    masks = np.stack([each["mask"] for each in slices])
    assert 1000 < masks.sum() / 1000 < 1900
    assert "No brain is cropped" in (folder / "quality.html").read_text()
    values = np.concatenate([each["image"][each["mask"] == 1] for each in slices]) * 1.6 / 255
    assert tissue_means(values)[2] == pytest.approx(0.8, abs=0.03)


def test_the_bytes_follow_from_scans_masks_and_settings_alone(people, made, tmp_path, capsys):
    two = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert run(flags(people, tmp_path / "again", "--copies=2", *two)) == 0
    ours, theirs = manifests.read(dataset(made)), manifests.read(dataset(tmp_path / "again"))
    assert ours.shards == theirs.shards and ours.fingerprint == theirs.fingerprint
    capsys.readouterr()
    assert run(flags(people, made, "--copies=2")) == 0
    assert "already made" in capsys.readouterr().out
    assert run(flags(people, made, "--copies=1")) == 2
    other = write_people(tmp_path / "other")
    path = next((other / "masks").iterdir())
    mask = nib.load(path)
    smaller = ndimage.binary_erosion(np.asanyarray(mask.dataobj)).astype(np.uint8)
    nib.save(nib.Nifti1Image(smaller, mask.affine), path)
    assert run(flags(other, made, "--copies=2")) == 2
    assert "made from other inputs" in capsys.readouterr().err


def test_a_mask_of_another_grid_is_refused(people, tmp_path, capsys):
    other = write_people(tmp_path / "other")
    for number, path in enumerate(sorted((other / "masks").iterdir())[:2]):
        mask = nib.load(path)
        voxels = np.asanyarray(mask.dataobj)
        affine = mask.affine.copy()
        affine[0, 3] += 7 * number
        nib.save(nib.Nifti1Image(voxels if number else voxels[1:], affine), path)
    lenient = "--max_rejected_fraction=0.9"
    assert run(flags(other, tmp_path, lenient)) in (0, 2)
    work = [*tmp_path.rglob("rejected.jsonl")]
    said = [json.loads(line)["detail"] for line in work[0].read_text().splitlines()]
    assert len(said) == 2
    assert "(52, 44, 40) voxels (posterior, superior, right), its brain mask has" in said[0]
    assert "that lie up to 7.0 mm elsewhere; make the mask from this very file" in said[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--config=thesis"], "--brain_masks: only for configs of brains"),
        (["--config=brain_2mm_axial", "--plane=coronal"], "--plane: the config brain_2mm_axial is"),
    ],
)
def test_flags_that_do_not_fit_are_refused(people, tmp_path, capsys, more, said):
    where = [f"--source_dir={people}/scans", f"--data_dir={tmp_path}"]
    assert run([*where, f"--brain_masks={people}/masks", *more]) == 2
    assert said in capsys.readouterr().err
