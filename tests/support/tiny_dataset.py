"""A small dataset of smooth random blobs, laid out as the preprocessing job lays out a real one."""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage
import tensorflow as tf
import tensorflow_datasets as tfds

from ixi_tfds import config as configs
from ixi_tfds import features
from ixi_tfds.documents import manifest

TINY = configs.SliceConfig(name="tiny", in_plane=(32, 32), size=(32, 32), window=(0, 4))
SUBJECTS = {"train": 6, "validation": 2, "test": 3}


def scanner_slices(
    subject: str, config: configs.SliceConfig = TINY, *, constant_slice: bool = False
) -> np.ndarray:
    """Blobs in scanner units, int16 [slices, height, width], the same for the same subject."""
    seed = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "little")
    noise = np.random.default_rng(seed).normal(size=(config.slices_per_volume, *config.size))
    blobs = scipy.ndimage.gaussian_filter(noise, (1, 4, 4))
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min())
    volume = np.round(900 * blobs).astype(np.int16)
    if constant_slice:
        volume[0] = 0
    return volume


def slice_examples(subject: str, config: configs.SliceConfig = TINY) -> list[dict[str, Any]]:
    """The slices of one subject, as `features.encode_slice` takes them."""
    volume = scanner_slices(subject, config).astype(np.float64)
    examples = []
    for index, image in enumerate(volume, start=config.window[0]):
        source = image if config.scaling == "slice" else volume
        low, high = source.min(), source.max()
        stretched = np.floor(255 * (image - low) / (high - low) + 0.499999999)
        examples.append(
            {
                "image": stretched.astype(np.uint8)[..., None],
                "subject": subject,
                "site": "Guys",
                "slice_index": index,
                "sex": "female" if int(subject[-1]) % 2 else "male",
                "ethnicity": "white",
                "age": 30.5,
                "low": float(low),
                "high": float(high),
            }
        )
    return examples


def write_tiny_dataset(
    data_dir: pathlib.Path,
    config: configs.SliceConfig = TINY,
    *,
    subjects: dict[str, int] = SUBJECTS,
    shards: int = 2,
    made_by: Callable[..., list[dict[str, Any]]] | None = None,
) -> pathlib.Path:
    """Write `data_dir/ixi_t1/<config>/1.0.0/` and return that folder.

    Args:
      data_dir: root folder, as `--data_dir` takes it.
      config: slice config; `in_plane` is not used.
      subjects: number of subjects in each split; each has `config.slices_per_volume` slices.
      shards: shards of each split.
      made_by: gives the slices of a subject under a config; None for `slice_examples`.
    """
    folder = pathlib.Path(data_dir) / "ixi_t1" / config.name / configs.VERSION
    folder.mkdir(parents=True)
    split_infos, digests, counts, number = [], {}, {}, 0
    for split, people in subjects.items():
        examples = []
        for _ in range(people):
            number += 1
            made = (made_by or slice_examples)(f"IXI{900 + number}", config)
            # Copies are of training volumes only.
            examples += [each for each in made if split == "train" or not each.get("copy")]
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="ixi_t1", split=split, filetype_suffix="tfrecord"
        )
        lengths, size = [], 0
        for shard in range(shards):
            path = folder / f"ixi_t1-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for example in examples[shard::shards]:
                    writer.write(features.encode_slice(example))
            lengths.append(len(examples[shard::shards]))
            size += path.stat().st_size
            digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        split_infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=lengths, num_bytes=size, filename_template=template
            )
        )
        counts[split] = manifest.Counts(people, len(examples))
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features.slice_features(config.size, brain=config.scaling == "tissue"),
        split_infos=split_infos,
        description="Smooth random blobs.",
        check_data=False,
    )
    told = manifest.Manifest(
        fingerprint=hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
        config=config,
        version=configs.VERSION,
        shards=digests,
        splits=counts,
    )
    manifest.write(folder, told)
    return folder
