"""The fields of a stored slice, encoded as a `tf.train.Example` and decoded.

The encoder does not need TensorFlow, which keeps preprocessing workers small. The decoder uses
only TensorFlow operations, so that it works inside a `tf.data` graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epy

with epy.lazy_imports():
    import tensorflow_datasets as tfds
    from tensorflow_datasets import proto as protos

if TYPE_CHECKING:
    import tensorflow as tf

SEXES = ("female", "male", "unknown")
ETHNICITIES = ("white", "black", "asian", "chinese", "other", "unknown")


def slice_features(size: tuple[int, int], *, brain: bool = False) -> tfds.features.FeaturesDict:
    """Features of a slice of `size` = (height, width).

    `image` is uint8 [height, width, 1]; rows run to posterior and columns to superior. A value q
    means the scanner value `low + q * (high - low) / 255`. `age` is in years, NaN where
    unknown. `slice_index` counts along the volume's right axis, from 0.

    With `brain`, for configs with the scaling by tissue, rows, columns and slices run as
    `SliceConfig.plane` says, and there are also `mask`, of the shape of `image`, 1 in the brain,
    and `copy`, the number of a moved copy of the volume, 0 for the volume itself.
    """
    # Raw bytes: without this encoding each uint8 becomes a varint, 1.5 times the size.
    plane = tfds.features.Tensor(
        shape=(*size, 1), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
    )
    of_brains = {"mask": plane, "copy": tfds.features.Scalar(dtype=np.int64)} if brain else {}
    return tfds.features.FeaturesDict(
        {
            "image": plane,
            "subject": tfds.features.Text(),
            "site": tfds.features.Text(),
            "slice_index": tfds.features.Scalar(dtype=np.int64),
            "sex": tfds.features.ClassLabel(names=SEXES),
            "ethnicity": tfds.features.ClassLabel(names=ETHNICITIES),
            "age": tfds.features.Scalar(dtype=np.float32),
            "low": tfds.features.Scalar(dtype=np.float32),
            "high": tfds.features.Scalar(dtype=np.float32),
            **of_brains,
        }
    )


def slice_key(subject: str, slice_index: int, copy: int = 0) -> str:
    """The name of a slice in scores and messages, such as `IXI002/052`, or `IXI002~1/052`."""
    return f"{subject}~{copy}/{slice_index:03d}" if copy else f"{subject}/{slice_index:03d}"


def encode_slice(example: Mapping[str, Any]) -> bytes:
    """Serialize a slice example as TFDS's own writer would, without importing TensorFlow.

    Args:
      example: the fields of `slice_features`; `image` as a uint8 array, `sex` and `ethnicity` by
        name.
    """
    proto = protos.tf_example_pb2.Example()
    fields = proto.features.feature
    for name in {"image", "mask"} & example.keys():
        fields[name].bytes_list.value.append(example[name].tobytes())
    for name in ("subject", "site"):
        fields[name].bytes_list.value.append(example[name].encode())
    for name in ("age", "low", "high"):
        fields[name].float_list.value.append(example[name])
    for name in {"slice_index", "copy"} & example.keys():
        fields[name].int64_list.value.append(example[name])
    fields["sex"].int64_list.value.append(SEXES.index(example["sex"]))
    fields["ethnicity"].int64_list.value.append(ETHNICITIES.index(example["ethnicity"]))
    # Protocol buffer maps have no order; a fixed order makes the shards reproducible.
    return proto.SerializeToString(deterministic=True)


def decode_slices(
    serialized: tf.Tensor, size: tuple[int, int], fields: Sequence[str] = ("image",)
) -> dict[str, tf.Tensor]:
    """Parse the requested fields of a batch of serialized slices.

    Args:
      serialized: string tensor [B].
      size: (height, width) of the slices.
      fields: names from `slice_features`, or `key` for the slice's name as in `slice_key`.

    Returns:
      `image` and `mask` as uint8 [B, height, width, 1], every other field as [B].
    """
    import tensorflow as tf

    wanted = set(fields) | ({"subject", "slice_index"} if "key" in fields else set())
    dtypes = dict.fromkeys(("image", "mask", "subject", "site"), tf.string)
    dtypes |= dict.fromkeys(("slice_index", "copy", "sex", "ethnicity"), tf.int64)
    dtypes |= dict.fromkeys(("age", "low", "high"), tf.float32)
    specs = {
        name: tf.io.FixedLenFeature([], dtype) for name, dtype in dtypes.items() if name in wanted
    }
    parsed = tf.io.parse_example(serialized, specs)
    for name in {"image", "mask"} & parsed.keys():
        pixels = tf.io.decode_raw(parsed[name], tf.uint8, fixed_length=size[0] * size[1])
        parsed[name] = tf.reshape(pixels, (-1, *size, 1))
    if "key" in fields:
        index = tf.strings.as_string(parsed["slice_index"], width=3, fill="0")
        parsed["key"] = tf.strings.join([parsed["subject"], index], separator="/")
    return {name: parsed[name] for name in fields}
