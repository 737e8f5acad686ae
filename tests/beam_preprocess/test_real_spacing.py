"""Real heads of 2 mm, whole, and of 0.94 x 0.94 x 1.2 mm, whole or stripped, in one dataset."""

import json

import nibabel as nib
import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from beam_preprocess import __main__ as beam_preprocess
from ixi_tfds.integrity import records

MM = ("--config=mm", "--spacing=2", "--size=128x128", "--slices=-36mm:36mm")
STRIPPED = ("IXI057", "IXI279", "IXI418", "IXI497")


def make(source, data):
    return beam_preprocess.run([f"--source_dir={source}", f"--data_dir={data}", *MM])


def slices_of_all(data):
    """Images [n, height, width] of each subject, in the order of slices."""
    found = {}
    for path in sorted((data / "ixi_t1/mm/1.0.0").glob("*.tfrecord-*")):
        for record in records(path):
            fields = tf_example_pb2.Example.FromString(record).features.feature
            image = np.frombuffer(fields["image"].bytes_list.value[0], np.uint8)
            subject = fields["subject"].bytes_list.value[0].decode()
            index = fields["slice_index"].int64_list.value[0]
            found.setdefault(subject, {})[index] = image.reshape(128, 128)
    return {
        subject: np.stack([images[index] for index in range(36)])
        for subject, images in found.items()
    }


def correlation(one, other):
    return float(np.corrcoef(one.astype(float).ravel(), other.astype(float).ravel())[0, 1])


def test_full_resolution_and_2_mm_give_the_slices_of_the_same_places(real_data, tmp_path):
    """IXI057 was stripped and brought to 2 mm by others, each on its own way."""
    ixi = real_data / "ixi"
    for name in ("full", "coarse"):
        (tmp_path / name).mkdir()
    (full,) = (ixi / "stripped").glob("IXI057*")
    (tmp_path / "full" / full.name).symlink_to(full)
    (coarse,) = (ixi / "heads_2mm").glob("IXI057*")
    (labels,) = (ixi / "labels_2mm").glob("IXI057*")
    head = nib.load(coarse)
    brain = head.get_fdata() * (nib.load(labels).get_fdata() > 0)
    image = nib.Nifti1Image(brain.astype(np.float32), head.affine)
    nib.save(image, tmp_path / "coarse/IXI057-HH-1342-T1.nii.gz")
    stacks = []
    for name in ("full", "coarse"):
        assert make(tmp_path / name, tmp_path / f"data_{name}") == 0
        stacks.append(slices_of_all(tmp_path / f"data_{name}")["IXI057"])
    one, other = stacks
    same = correlation(one[2:-2], other[2:-2])
    assert same > 0.95
    assert same > max(correlation(one[:-4], other[2:-2]), correlation(one[4:], other[2:-2])) + 0.01


def test_heads_of_three_kinds_of_voxels_make_one_dataset(real_data, tmp_path, capsys):
    ixi = real_data / "ixi"
    source = tmp_path / "scans"
    source.mkdir()
    heads = sorted((ixi / "heads_2mm").glob("*.nii.gz"))[:62:9]
    heads += [*(ixi / "full").glob("*.nii.gz")]
    heads += [path for path in (ixi / "stripped").glob("*.nii.gz") if "IXI057" not in path.name]
    for path in heads:
        (source / path.name).symlink_to(path)
    assert make(source, tmp_path / "data") == 0
    captured = capsys.readouterr()
    assert "rejected" not in captured.out
    assert "0.9375x0.9375x1.2 to 2x2x2 mm" in captured.out
    stacks = slices_of_all(tmp_path / "data")
    assert set(stacks) == {path.name[:6] for path in heads} and len(stacks) == 11
    manifest = json.loads((tmp_path / "data/ixi_t1/mm/1.0.0/manifest.json").read_text())
    assert manifest["voxels"]["highest"] == pytest.approx([2, 2, 2])
    # The whole heads show the same places: each is most like the mean of the others at no shift.
    whole = {subject: stacks[subject] for subject in stacks if subject not in STRIPPED}
    for subject, stack in whole.items():
        others = np.mean([s for name, s in whole.items() if name != subject], axis=0)
        at = {d: correlation(stack[6:-6], others[6 + d : 30 + d]) for d in (-6, 0, 6)}
        assert at[0] == max(at.values()), subject


def test_no_real_head_is_refused_for_a_window_beside_the_head(real_data, tmp_path, capsys):
    source = real_data / "ixi/heads_2mm"
    flags = ["--config=own", "--in_plane=120x120", "--size=128x128", "--slices=30:66"]
    where = [f"--source_dir={source}", f"--data_dir={tmp_path}", "--strict"]
    assert beam_preprocess.run([*where, *flags]) == 0
    captured = capsys.readouterr()
    assert "voxels of the volumes: 2x2x2 mm" in captured.out
    assert "tilted" not in captured.err and "differ" not in captured.err
