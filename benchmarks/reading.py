"""Slices a second at batch 32, delivered without augmentation: our input pipeline and its rivals.

All read the same slices of made-up heads at 256x256, shuffled, from warm files: ours the shards of
the preprocessing job; the thesis's way (Keras's `ImageDataGenerator.flow_from_directory`) and a
PyTorch DataLoader with two workers the PNGs. The limit is the same records batched and not parsed.
With `--augmented` each also corrupts what it reads, blur on half of the images, then cutout and
coarse dropout: ours on the device, as in the training step; Keras's generator by imgaug, as the
thesis did; PyTorch's by MONAI's transforms in the loader's workers.

The speed of the limit differs by half from run to run on some machines, so `--again` keeps the
runs before: what counts are the medians of the last five, and the range that they span.

    .venv/bin/python benchmarks/reading.py [--rounds=12] [--augmented] [--again]

Rivals that are not in the environment get one of their own, made in `.rivals` at the first run.
"""

import argparse
import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import rounds as shared

BATCH = 32
SIDE = 256
RUNS = 5
"""So many runs of this script count at most, the last ones."""
READY = 80
"""Batches that are read before the clock starts: more than any way holds ready."""


def _deliver(batches, count):
    """Rounds of `count` batches of an endless iterator, each looked at as an array."""

    def seconds():
        # What was made ready while others had their turn is not counted.
        for _ in range(READY):
            next(batches)
        started = time.perf_counter()
        for _ in range(count):
            np.asarray(next(batches))
        return time.perf_counter() - started

    shared.serve(seconds)


def _train_split(arguments):
    from trainer import data

    return data.find_shards(pathlib.Path(arguments.dataset), "train")


def ours(arguments):
    """What the trainer reads."""
    import tensorflow as tf

    from ixi_tfds.images.scaling import to_unit
    from trainer import augmentation, data

    batches = data.train_batches(
        _train_split(arguments), batch_size=BATCH, seed=0, epochs=range(1000)
    )

    @tf.function
    def corrupted(batch):
        return augmentation.augment(
            to_unit(batch["image"]),
            batch["index"],
            config=augmentation.AugmentationConfig(),
            seed=0,
            batch_size=BATCH,
        )

    of = corrupted if arguments.augmented else lambda batch: batch["image"]
    _deliver((of(batch) for batch in batches), arguments.batches)


def limit(arguments):
    """Records, batched."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(list(_train_split(arguments).paths))
    _deliver(iter(records.repeat().batch(BATCH).prefetch(2)), arguments.batches)


def thesis(arguments):
    """Keras's generator over a folder of PNGs."""
    from tensorflow import keras

    change = _imgaug_transforms() if arguments.augmented else None
    generator = keras.preprocessing.image.ImageDataGenerator(
        rescale=1 / 255, preprocessing_function=change
    )
    batches = generator.flow_from_directory(
        arguments.pictures,
        target_size=(SIDE, SIDE),
        color_mode="grayscale",
        class_mode=None,
        batch_size=BATCH,
    )
    whole = (batch for batch in batches if len(batch) == BATCH)
    _deliver(whole, arguments.batches)


def _imgaug_transforms():
    from imgaug import augmenters

    corrupt = augmenters.Sequential(
        [
            augmenters.Sometimes(0.5, augmenters.GaussianBlur((0.5, 1.5))),
            augmenters.SomeOf(
                (0, 2),
                [
                    augmenters.Cutout(nb_iterations=2, size=0.2, fill_mode="constant", cval=0),
                    augmenters.CoarseDropout((0.0, 0.05), size_percent=0.5),
                ],
            ),
        ]
    )
    return lambda image: corrupt(image=image.astype(np.uint8)).astype(np.float32)


def torch(arguments):
    """PyTorch's loader over the same PNGs, at its fair best: two workers, kept between epochs."""
    import torch.utils.data
    from PIL import Image

    torch.set_num_threads(1)
    change = _monai_transforms() if arguments.augmented else lambda image: image

    class Pictures(torch.utils.data.Dataset):
        paths = sorted(pathlib.Path(arguments.pictures).rglob("*.png"))

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, place):
            image = torch.from_numpy(np.array(Image.open(self.paths[place])))
            return change(image[None])

    loader = torch.utils.data.DataLoader(
        Pictures(),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=8,
    )

    def endless():
        while True:
            yield from loader

    _deliver(endless(), arguments.batches)


def _monai_transforms():
    from monai import transforms

    size = round(0.2 * SIDE)
    return transforms.Compose(
        [
            transforms.ScaleIntensity(),
            transforms.RandGaussianSmooth((0.5, 1.5), (0.5, 1.5), prob=0.5),
            transforms.RandCoarseDropout(2, (size, size), fill_value=0, prob=0.5),
            transforms.RandCoarseDropout(400, (2, 2), fill_value=0, prob=0.5),
        ]
    )


RIVALS = {"ours": ours, "limit": limit, "thesis": thesis, "torch": torch}
"""By name; PyTorch and imgaug have environments of their own."""


def prepare(folder, subjects):
    """Made-up heads as a dataset, and its train slices as PNGs; gives (dataset, pictures)."""
    import imageio.v3 as iio
    import tensorflow as tf

    from ixi_tfds import features
    from trainer.data import find_shards

    scans, data = folder / "scans", folder / "data"
    run = [sys.executable, "-m"]
    make = [*run, "ixi_tfds", "cohort", f"--output_dir={scans}", f"--subjects={subjects}"]
    subprocess.run(make, check=True, capture_output=True)
    preprocess = [*run, "beam_preprocess", f"--source_dir={scans}", f"--data_dir={data}"]
    subprocess.run(preprocess, check=True, capture_output=True)
    (dataset,) = data.glob("ixi_t1/thesis/*/")
    pictures = folder / "pictures" / "all"
    pictures.mkdir(parents=True)
    split = find_shards(dataset, "train")
    for record in tf.data.TFRecordDataset(list(split.paths)).batch(1):
        slice_ = features.decode_slices(record, split.size, ("image", "key"))
        name = slice_["key"][0].numpy().decode().replace("/", "_")
        iio.imwrite(pictures / f"{name}.png", slice_["image"][0, ..., 0].numpy())
    return dataset, pictures.parent


def _speed(way, runs):
    speeds = [run["slices_a_second"] for run in runs]
    return float(np.median([speed[way] for speed in speeds if way in speed]))


def _median_and_range(rival, runs):
    ratios = [run["times_as_fast"][rival] for run in runs if rival in run["times_as_fast"]]
    return [float(np.median(ratios)), min(ratios), max(ratios)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=shared.several, default=12)
    parser.add_argument("--batches", type=int, default=150, help="of a round")
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--augmented", action="store_true")
    parser.add_argument("--again", action="store_true", help="keep the results of runs before")
    parser.add_argument("--rival", choices=RIVALS, help="be this one; for the benchmark itself")
    parser.add_argument("--dataset")
    parser.add_argument("--pictures")
    arguments = parser.parse_args()
    if arguments.rival:
        RIVALS[arguments.rival](arguments)
        return
    pythons = dict.fromkeys(RIVALS, sys.executable)
    pythons["torch"] = shared.torch_python()
    names = list(RIVALS)
    if arguments.augmented:
        pythons["thesis"] = shared.imgaug_python()
        names.remove("limit")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        dataset, pictures = prepare(pathlib.Path(folder), arguments.subjects)
        own = [*sys.argv, f"--dataset={dataset}", f"--pictures={pictures}"]
        rivals = [
            stack.enter_context(shared.Rival([pythons[name], *own, f"--rival={name}"]))
            for name in names
        ]
        seconds = shared.alternate(rivals, arguments.rounds)
    speeds = dict(zip(names, arguments.batches * BATCH / np.median(seconds, axis=0), strict=True))
    ratios = {
        name: shared.median_with_interval(seconds[:, place] / seconds[:, 0])
        for place, name in enumerate(names[1:], start=1)
    }
    for name, speed in speeds.items():
        print(f"{name:<8}{speed:10.0f} slices/s")
    for name, ratio in ratios.items():
        print("ours against {}: {:.2f} ({:.2f} to {:.2f})".format(name, *ratio))
    name = "reading, augmented" if arguments.augmented else "reading"
    run = {
        "ended": time.strftime("%Y-%m-%d %H:%M"),
        "slices_a_second": speeds,
        "times_as_fast": {rival: middle for rival, (middle, _, _) in ratios.items()},
    }
    runs = [*(shared.recorded(name).get("runs", []) if arguments.again else []), run][-RUNS:]
    if len(runs) > 1:
        ratios = {rival: _median_and_range(rival, runs) for rival in ratios}
    shared.record(
        name,
        slices_a_second={way: _speed(way, runs) for way in names},
        times_as_fast=ratios,
        rounds=arguments.rounds,
        runs=runs,
        setting=f"{SIDE}x{SIDE}, batch {BATCH}, {arguments.batches} batches a round",
    )


if __name__ == "__main__":
    main()
