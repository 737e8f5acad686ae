"""Make the pictures of README and docs anew, from real scans and a scored model.

    IXI_REAL_DATA=... .venv/bin/python docs/pictures.py slices
    .venv/bin/python docs/pictures.py reconstructions --saved_model=M --data_dir=D --dataset=N

Pictures made from IXI are CC BY-SA 3.0, as IXI is (https://brain-development.org/ixi-dataset).
"""

import argparse
import os
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from evaluator.figures import reconstruction_gallery, slice_grid, write_png
from ixi_tfds.catalog import Scan
from ixi_tfds.configs import THESIS
from ixi_tfds.intensity import stored_slice
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import slices_of

DOCS = pathlib.Path(__file__).parent


def slices(arguments):
    """Slices across one real volume and within the window, as the thesis's Figures 3.1 to 3.3."""
    scan = pathlib.Path(os.environ["IXI_REAL_DATA"], "ixi/full/IXI533-Guys-1066-T1.nii.gz")
    volume = read_volume(str(scan))
    across = {
        f"slice {index}": stored_slice(volume, index, THESIS, None)[0]
        for index in (0, 25, 50, 75, 100, 120, 140, 149)
    }
    write_png(DOCS / "slices_across_volume.png", slice_grid(across))
    examples = dict(slices_of(Scan("IXI533", "Guys", str(scan)), THESIS, volume))
    within = {
        f"slice {index}": examples[f"IXI533/{index:03d}"]["image"][..., 0]
        for index in (52, 66, 80, 94)
    }
    write_png(DOCS / "slices_in_window.png", slice_grid(within))


def reconstructions(arguments):
    """Original, reconstruction and residual of one slice of each of three test subjects."""
    folder = pathlib.Path(arguments.data_dir, arguments.dataset)
    builder = tfds.builder_from_directory(str(max(folder.glob("[0-9]*"))))
    model = tf.saved_model.load(arguments.saved_model).signatures["serving_default"]
    chosen = {}
    examples = list(tfds.as_numpy(builder.as_dataset(split="test")))
    middle = np.median([example["slice_index"] for example in examples])
    for offset, subject in zip((-6, 0, 6), sorted({e["subject"] for e in examples}), strict=False):
        example = min(
            (e for e in examples if e["subject"] == subject),
            key=lambda e: abs(e["slice_index"] - middle - offset),
        )
        image = example["image"].astype(np.float32) / 255
        made = model(slices=tf.constant(image[None]))["reconstruction"].numpy()[0]
        title = f"{subject.decode()}, slice {example['slice_index']}"
        chosen[title] = (image[..., 0], made[..., 0])
    write_png(DOCS / "reconstructions.png", reconstruction_gallery(chosen))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["slices", "reconstructions"])
    parser.add_argument("--saved_model")
    parser.add_argument("--data_dir")
    parser.add_argument("--dataset")
    arguments = parser.parse_args()
    {"slices": slices, "reconstructions": reconstructions}[arguments.which](arguments)


if __name__ == "__main__":
    main()
