"""What a small dataset, run, export and scores came to when this was written.

Shards are pinned to the byte. What floats decide differs between processors and is pinned within
tolerances. A change of these numbers changes what users have: see configs.VERSION and CHANGELOG.md.
"""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from volumes import image

from beam_preprocess import __main__ as beam_preprocess
from beam_preprocess import geometry
from evaluator import __main__ as evaluator
from trainer import __main__ as trainer

GEOMETRY = ("--in_plane=32x32", "--size=32x48", "--slices=6:14", "--volumes_per_shard=4")
SHARDS = {
    "slice": "cf77b8da354cf127059227bed1a10fa0518305c30d57aa7fbacc2fc2675ee8d4",
    "volume": "026626243ef04d02535c0ad41a39d5057cdfb1063a8fe618a7b6c5ae324fff16",
}
"""Of planes padded with scanner zeros, the rule of the first datasets."""

NOT_PADDED = {
    "slice": "2ebaa684f2bdcb7de5b3eeac9d31d0f491e04d66691801368448f733cd52380b",
    "volume": "3466dd6134050b8662ad50de856596a9222773f0e24ba7ba7ef3a13d95f5b602",
}
PADDED = {
    "slice": "ac3ae97f371cc3610f01eaa10dce6e73912a81c550748b353c443f7bd163e3f5",
    "volume": "5e314d676d0223e691e12211471a9d2dee86036f2d02ca12c3aae7fa9a4f3866",
}


def write_scans(folder):
    """Heads of whole numbers only, the same on every machine: rings of tissue, and noise."""
    rng = np.random.default_rng(7)
    posterior, superior, right = np.indices((32, 32, 20))
    far = (posterior - 16) ** 2 + (superior - 16) ** 2 + (right - 10) ** 2
    tissue = np.select([far < 60, far < 130, far < 160, far < 200], [620, 450, 60, 800], 4)
    for number in range(12):
        voxels = tissue + rng.integers(0, 90, tissue.shape)
        path = folder / f"IXI{701 + number}-HH-{number:04d}-T1.nii.gz"
        image(voxels.astype(np.int16)).to_filename(path)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unchanged")
    scans = write_scans(tmp_path_factory.mktemp("scans"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "PADDING", None)
        for scaling in SHARDS:
            assert make(scans, folder, f"by_{scaling}", f"--scaling={scaling}", *GEOMETRY) == 0
    for scaling in SHARDS:
        flags = [f"--scaling={scaling}", "--in_plane=32x32", *GEOMETRY[2:]]
        assert make(scans, folder, f"padded_{scaling}", *flags, "--size=32x48") == 0
        assert make(scans, folder, f"whole_{scaling}", *flags, "--size=32x32") == 0
    return folder


def make(scans, folder, config, *flags):
    where = [f"--source_dir={scans}", f"--data_dir={folder}"]
    return beam_preprocess.run([*where, f"--config={config}", *flags])


@pytest.mark.parametrize("scaling", SHARDS)
@pytest.mark.parametrize(
    ("name", "pinned"), [("by", SHARDS), ("padded", PADDED), ("whole", NOT_PADDED)]
)
def test_the_shards_are_the_same_bytes(name, pinned, scaling, data):
    folder = data / f"ixi_t1/{name}_{scaling}/1.0.0"
    names = sorted(path.name for path in folder.glob("*.tfrecord-*"))
    whole = b"".join((folder / name).read_bytes() for name in names)
    assert hashlib.sha256("\n".join(names).encode() + whole).hexdigest() == pinned[scaling]


@pytest.mark.slow
def test_a_run_its_model_and_its_scores_are_the_same(data, tmp_path):
    where = [f"--data_dir={data}", "--dataset=ixi_t1/by_slice"]
    flags = [
        *("--model=resnet_like", "--stem_filters=16", "--stage_filters=16,24"),
        *("--stage_blocks=1,1", "--loss=mix", "--dssim_weight=0.2", "--optimizer=adam"),
        *("--learning_rate=0.001", "--batch_size=8", "--epochs=5", "--gaussian_noise=0.02"),
        "--augment_validation",
    ]
    assert trainer.run([*where, f"--workdir={tmp_path / 'run'}", *flags]) == 0
    history = pd.read_csv(tmp_path / "run/history.csv")
    losses = [0.6157, 0.2673, 0.1874, 0.1451, 0.1272]
    np.testing.assert_allclose(history["loss"], losses, rtol=0.03)
    np.testing.assert_allclose(history["val_loss_augmented"].iloc[[0, -1]], [0.2195, 0.2108], 0.03)
    model = tmp_path / "run/export/resnet_like"
    card = json.loads((model / "1/assets.extra/model_card.json").read_text())
    assert card["parameters"] == 25_824
    assert evaluator.run([*where, f"--saved_model={model}", f"--output_dir={tmp_path / 'o'}"]) == 0
    means = pd.read_csv(tmp_path / "o/scores.csv")[["psnr", "mae", "ssim"]].mean()
    assert means["psnr"] == pytest.approx(8.04, rel=0.02)
    assert means["mae"] == pytest.approx(0.2441, rel=0.03)
    assert means["ssim"] == pytest.approx(0.0583, abs=0.01)
