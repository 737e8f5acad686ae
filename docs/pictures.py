"""Make the pictures of README and docs anew, from real scans and a scored model.

    IXI_REAL_DATA=... .venv/bin/python docs/pictures.py slices
    IXI_REAL_DATA=... .venv/bin/python docs/pictures.py same_places
    IXI_REAL_DATA=... .venv/bin/python docs/pictures.py augmentations
    .venv/bin/python docs/pictures.py reconstructions --saved_model=M --data_dir=D --dataset=N
    .venv/bin/python docs/pictures.py curves --workdir=W
    .venv/bin/python docs/pictures.py study
    .venv/bin/python docs/pictures.py study_slices --workdir=W --data_dir=D --dataset=N
    IXI_REAL_DATA=... .venv/bin/python docs/pictures.py lesions --saved_model=ENSEMBLE
    .venv/bin/python docs/pictures.py page --page=O/report.html --sections=Robustness --name=x.png

Pictures made from IXI are CC BY-SA 3.0, as IXI is (https://brain-development.org/ixi-dataset).
"""

import argparse
import dataclasses
import itertools
import os
import pathlib
import re
import subprocess
import tempfile

import numpy as np
import pandas as pd
from etils import epy
from galleries import (
    comparison_gallery,
    lesion_gallery,
    reconstruction_gallery,
    slice_grid,
    write_png,
)
from matplotlib.figure import Figure
from PIL import Image, ImageChops

from evaluator.brains import ensemble, scans
from evaluator.brains.pictures import picture_of
from evaluator.brains.tally import Judge
from evaluator.options import ModelChecks, ScanChecks
from ixi_tfds.cohorts.catalog import Scan
from ixi_tfds.config import THESIS, SliceConfig
from ixi_tfds.images.scaling import stored_slice
from ixi_tfds.nifti import read_volume
from ixi_tfds.slices import slices_of
from trainer import augmentation

with epy.lazy_imports():
    import tensorflow as tf
    import tensorflow_datasets as tfds

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


def same_places(arguments):
    """Slices of one brain at full resolution and at 2 mm, by `--spacing=2 --slices=-36mm:36mm`."""
    ixi = pathlib.Path(os.environ["IXI_REAL_DATA"], "ixi")
    config = SliceConfig(
        "mm", None, (128, 128), (0, 36), "slice", (2.0,) * 3, (-36.0, 36.0), "background"
    )
    full, coarse, labels = (
        next(ixi.glob(f"{folder}/IXI057*")) for folder in ("stripped", "heads_2mm", "labels_2mm")
    )
    coarse = read_volume(str(coarse))
    brain = coarse.scaled(coarse.voxels) * (read_volume(str(labels)).voxels > 0)
    brain = dataclasses.replace(coarse, voxels=brain, slope=1.0, inter=0.0)
    shown = {}
    for title, volume in (("0.94 x 1.2 mm", read_volume(str(full))), ("2 mm", brain)):
        scan = Scan("IXI057", "HH", title)
        images = [example["image"][..., 0] for _, example in slices_of(scan, config, volume)]
        shown |= {f"{title}, at {2 * i - 35} mm": images[i] for i in (4, 12, 21, 31)}
    write_png(DOCS / "same_places.png", slice_grid(shown))


def augmentations(arguments):
    """What training does to a slice, one thing at a time, as the thesis's Figures 4.1 and 4.2."""
    scan = pathlib.Path(os.environ["IXI_REAL_DATA"], "ixi/full/IXI533-Guys-1066-T1.nii.gz")
    volume = read_volume(str(scan))
    image = stored_slice(volume, 74, THESIS, None)[0].astype(np.float32)[None, ..., None] / 255
    config = augmentation.AugmentationConfig()
    # Of the parameters of the batches with these seeds, each the first that does what is shown.
    drawn = [
        augmentation.sample(config, seed=tf.constant([0, number], tf.int64), shape=(1, 256, 256))
        for number in range(200)
    ]
    nothing = {
        "sigma": tf.constant(0),
        "blurred": tf.constant([False]),
        "sizes": tf.zeros((1, config.cutout_patches)),
        "keep": tf.ones((1, 128, 128), bool),
    }
    cut = next(each for each in drawn if each["sizes"][0, 0] > 0)
    dropped = next(each for each in drawn if np.mean(each["keep"]) < 0.96)
    shown = {"original": {}}
    for number, sigma in enumerate(config.blur_sigmas):
        shown[f"blur, sigma {sigma:g}"] = {"sigma": number, "blurred": [True]}
    shown["cutout"] = {"sizes": cut["sizes"]}
    lost = 1 - float(np.mean(dropped["keep"]))
    shown[f"coarse dropout, {lost:.1%}"] = {"keep": dropped["keep"]}
    shown["cutout and dropout"] = {"sizes": cut["sizes"], "keep": dropped["keep"]}
    shown["blur and both"] = {**shown["cutout and dropout"], "sigma": 2, "blurred": [True]}
    images = {}
    for title, parameters in shown.items():
        merged = {"centers": cut["centers"]} | nothing | parameters
        tensors = {name: tf.convert_to_tensor(value) for name, value in merged.items()}
        images[title] = augmentation.apply(image, tensors, config)[0, ..., 0].numpy()
    write_png(DOCS / "augmentations.png", slice_grid(images))


def reconstructions(arguments):
    """Original, reconstruction and residual of one slice of each of three test subjects."""
    chosen = {}
    for title, image in _test_slices(arguments).items():
        chosen[title] = (image, _reconstruction(arguments.saved_model, image))
    write_png(DOCS / "reconstructions.png", reconstruction_gallery(chosen))


def study_slices(arguments):
    """One slice of a test subject, its reconstruction and residual by each run of the study."""
    title, image = list(_test_slices(arguments).items())[1]
    chosen = {}
    for run, name in STUDY.items():
        (saved_model,) = pathlib.Path(arguments.workdir, name).glob("export/*/1")
        made = _reconstruction(str(saved_model), image)
        psnr = -10 * np.log10(np.mean((image - made) ** 2))
        chosen[f"{run}: {psnr:.1f} dB"] = made
    figure = comparison_gallery(image, chosen)
    figure.suptitle(title)
    write_png(DOCS / "study_slices.png", figure)


def _test_slices(arguments):
    """A slice in [0, 1] of each of three test subjects, by what it is."""
    folder = pathlib.Path(arguments.data_dir, arguments.dataset)
    builder = tfds.builder_from_directory(str(max(folder.glob("[0-9]*"))))
    examples = list(tfds.as_numpy(builder.as_dataset(split="test")))
    middle = np.median([example["slice_index"] for example in examples])
    slices = {}
    for offset, subject in zip((-6, 0, 6), sorted({e["subject"] for e in examples}), strict=False):
        example = min(
            (e for e in examples if e["subject"] == subject),
            key=lambda e: abs(e["slice_index"] - middle - offset),
        )
        title = f"{subject.decode()}, slice {example['slice_index']}"
        slices[title] = example["image"][..., 0].astype(np.float32) / 255
    return slices


def _reconstruction(saved_model, image):
    model = tf.saved_model.load(saved_model).signatures["serving_default"]
    made = model(slices=tf.constant(image[None, ..., None]))["reconstruction"]
    return made.numpy()[0, ..., 0]


def lesions(arguments):
    """A glioma and lesions of multiple sclerosis: what an ensemble marks and expects there."""
    real = pathlib.Path(os.environ["IXI_REAL_DATA"])
    joined, models = ensemble.read(pathlib.Path(arguments.saved_model), ModelChecks())
    rows = []
    for title, scan, mask in (
        ("glioma", "tumours/glioma_FG6692_T1", "tumours/glioma_FG6692_mask"),
        ("MS", "lesions/openms_p07_T1_MNI", "lesions/openms_p07_lesion_MNI"),
    ):
        opened = scans.open_scan(str(real / f"{scan}.nii.gz"), None, joined, ScanChecks())
        lesion = read_volume(str(real / f"{mask}.nii.gz"))
        on_grid = scans.on_grid(opened, lesion.scaled(lesion.voxels) > 0)
        found = Judge(tuple(models), mean=joined.mean).judge(opened.brain, title)
        rows.append(picture_of(title, found.with_lesion(on_grid)))
    write_png(DOCS / "lesions.png", lesion_gallery(rows))


def curves(arguments):
    """Validation losses of all runs in a folder, and the PSNR by which all can be compared."""
    runs = {
        path.parent.name: pd.read_csv(path, index_col="epoch")
        for path in sorted(pathlib.Path(arguments.workdir).glob("*/history.csv"))
    }
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = {
        "mse": "validation loss, mse",
        "dssim": "validation loss, dssim",
        "": "validation PSNR (dB)",
    }
    grid = dict(zip(panels, figure.subplots(1, 3), strict=True))
    for (name, history), (colour, line) in zip(runs.items(), itertools.cycle(STYLES), strict=False):
        loss = "val_loss_augmented" if "val_loss_augmented" in history else "val_loss"
        kind = "dssim" if "dssim" in name else "mse"
        grid[kind].plot(history[loss], color=colour, linestyle=line, label=name)
        grid[""].plot(history["val_psnr"], color=colour, linestyle=line, label=name)
    for kind, axes in grid.items():
        axes.set(xlabel="epoch", title=panels[kind], yscale="log" if kind == "mse" else "linear")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(DOCS / "study_curves.png", dpi=110)


STUDY = {
    "our recipe, by hand": "shallow_mse",
    "our recipe, by the search": "searched_mix",
    "Small, dssim": "small_dssim",
    "Big, dssim": "big_dssim",
    "Small, mse": "small_mse",
    "Big, mse": "big_mse",
}
"""Runs of docs/results.md with epochs of 838 steps, and their histories in docs/study.

`minutes.csv` beside these has the minutes of an epoch of each on one core, and `NAME_seed1.csv` the
history of a run with another seed, where there is one.
"""

STEPS = 838


def study(arguments):
    """Validation PSNR and SSIM against steps, and PSNR against minutes, with epochs of 838."""
    minutes = pd.read_csv(DOCS / "study/minutes.csv", index_col="run")["minutes"]
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for (title, name), (colour, line) in zip(STUDY.items(), itertools.cycle(STYLES), strict=False):
        for label, run, width in ((title, name, 1.5), (None, f"{name}_seed1", 0.7)):
            path = DOCS / f"study/{run}.csv"
            if path.exists():
                history = pd.read_csv(path, index_col="epoch")
                style = {"label": label, "color": colour, "linestyle": line, "linewidth": width}
                steps, time = history.index * STEPS, history.index * minutes[name]
                panels[0].plot(steps, history["val_psnr"], **style)
                panels[1].plot(steps, history["val_ssim"], **style)
                panels[2].plot(time, history["val_psnr"], **style)
    by_steps, by_time = "steps of 8 slices", "minutes on one core"
    shown = (("PSNR (dB)", by_steps), ("SSIM", by_steps), ("PSNR (dB)", by_time))
    for axes, (score, by) in zip(panels, shown, strict=True):
        axes.set(xlabel=by, title=f"validation {score}")
        axes.grid(alpha=0.3)
    for axes in (panels[0], panels[2]):
        axes.set_ylim(13, None)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(DOCS / "study.png", dpi=110)


def page(arguments):
    """Sections of one of the evaluator's pages, as Chromium shows them."""
    html = pathlib.Path(arguments.page).read_text()
    wanted = arguments.sections.split("|")
    for section in re.findall(r"<section.*?</section>", html, re.DOTALL):
        if not any(f"<h2>{title}</h2>" in section for title in wanted):
            html = html.replace(section, "")
    html = re.sub(r"<h1>.*?</nav>", "", html, flags=re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        shown, shot = pathlib.Path(folder, "page.html"), pathlib.Path(folder, "shot.png")
        shown.write_text(html)
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={folder}/profile", f"--screenshot={shot}"),
                *(f"--window-size={arguments.width},9000", shown.as_uri()),
            ],
            check=True,
            capture_output=True,
        )
        picture = Image.open(shot).convert("RGB")
    blank = Image.new("RGB", picture.size, "white")
    _, _, _, bottom = ImageChops.difference(picture, blank).getbbox()
    cut = picture.crop((0, 0, arguments.width, bottom + 16)).quantize(256)
    cut.save(DOCS / arguments.name, optimize=True)


STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#000000", ":"),
    ("#CC79A7", "-"),
    ("#56B4E9", (0, (3, 1, 1, 1, 1, 1))),
)
"""Told apart with every common colour blindness, and in print by their lines."""

PICTURES = {
    each.__name__: each
    for each in (
        *(slices, same_places, augmentations, reconstructions, lesions, curves, study),
        *(study_slices, page),
    )
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=PICTURES)
    parser.add_argument("--saved_model")
    parser.add_argument("--data_dir")
    parser.add_argument("--dataset")
    parser.add_argument("--workdir")
    parser.add_argument("--page")
    parser.add_argument("--sections", help="their titles, with | between")
    parser.add_argument("--name", help="of the picture")
    parser.add_argument("--width", type=int, default=1100)
    arguments = parser.parse_args()
    PICTURES[arguments.which](arguments)


if __name__ == "__main__":
    main()
