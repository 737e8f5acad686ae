"""A dataset by --spacing, with its window in mm, is trained on and scored like any other."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import volumes

from beam_preprocess import __main__ as beam_preprocess
from evaluator import __main__ as evaluator
from ixi_tfds.documents import manifest, model_card
from trainer import __main__ as trainer

SMALL = ("--model=resnet_like", "--stem_filters=16", "--stage_filters=16", "--stage_blocks=1")


def test_a_model_learns_from_slices_in_mm_and_its_card_states_the_rule(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(12):
        made = volumes.image(volumes.head((32, 30, 24 + 2 * (number % 3)), seed=number))
        affine = made.affine @ np.diag([1, 1, (1.0, 0.8, 1.2)[number % 3], 1])
        nib.save(nib.Nifti1Image(made.dataobj, affine), scans / f"head{number:02d}_T1.nii.gz")
    flags = ["--config=mm", "--spacing=5", "--slices=-20mm:20mm", "--size=24x24"]
    source = [f"--source_dir={scans}", f"--data_dir={tmp_path}"]
    assert beam_preprocess.run([*source, *flags]) == 0
    where = [f"--data_dir={tmp_path}", "--dataset=ixi_t1/mm"]
    run = [f"--workdir={tmp_path / 'run'}", "--batch_size=4", "--epochs=1", *SMALL]
    assert trainer.run([*where, *run]) == 0
    export = tmp_path / "run/export/resnet_like"
    facts = model_card.read(export / "1").datasets["ixi_t1/mm"]
    assert facts.slices == manifest.read(tmp_path / "ixi_t1/mm/1.0.0").config
    assert facts.slices.window_mm == (-20.0, 20.0) and facts.slices.spacing == (5.0, 5.0, 5.0)
    assert facts.description.startswith("slices [-20 mm, 20 mm) around the middle of the head")
    assert facts.splits["train"].slices == 8 * facts.splits["train"].volumes
    plain = json.loads((export / "1" / model_card.CARD).read_text())
    assert plain["datasets"]["ixi_t1/mm"]["slices"]["padding"] == "background"
    score = [f"--saved_model={export}", f"--output_dir={tmp_path / 'scores'}"]
    assert evaluator.run([*where, *score]) == 0
    scores = pd.read_csv(tmp_path / "scores/scores.csv")
    assert set(scores["slice_index"]) == set(range(8))
    assert np.isfinite(scores["psnr"]).all()
