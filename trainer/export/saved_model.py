"""The trained network as a SavedModel that needs no code of ours.

It is a plain `tf.Module` with two explicit signatures, so any TensorFlow reads it, TensorFlow
Serving included.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from ixi_tfds import folders, storage
from ixi_tfds.documents import model_card
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.images.scaling import scale_to_unit
from trainer.export import canonical, warmup
from trainer.export import card as cards
from trainer.models import networks


class _Exported(tf.Module):
    """Holds the variables; the signatures are functions that close over the network."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__()
        # The variables alone: the Keras objects would write themselves, and their version, too.
        self.weights = list(network.variables)


def signatures(network: keras.Model, size: tuple[int, int], scaling: str) -> dict[str, Any]:
    """The functions that a SavedModel offers.

    `serving_default` takes `slices` float32 [B, H, W, 1] in [0, 1] and gives `reconstruction` of
    the same shape, clipped to [0, 1]; grey, whatever the channels inside.

    `raw` takes `slices` float32 [B, H, W] in scanner units, scales them as the dataset does and
    gives `reconstruction` and `residual` (slices minus reconstruction) float32 [B, H, W] in scanner
    units. With "slice" scaling each slice's own extrema are the range; with "volume" scaling it
    takes `low` and `high`, float32 [B], the percentile range of each slice's volume.

    Args:
      network: with its variables built.
      size: (H, W).
      scaling: of the dataset, "slice" or "volume".
    """

    def reconstruct(slices: tf.Tensor) -> tf.Tensor:
        return networks.to_grey(network(slices, training=False))

    def serving(slices: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"reconstruction": reconstruct(slices)}

    def raw_by_slice(slices: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.cast(slices, tf.float64)
        low = tf.reduce_min(values, axis=(1, 2), keepdims=True)
        high = tf.reduce_max(values, axis=(1, 2), keepdims=True)
        return _raw(reconstruct, slices, low, high)

    def raw_by_volume(slices: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> dict[str, tf.Tensor]:
        low, high = (tf.cast(value, tf.float64)[:, None, None] for value in (low, high))
        return _raw(reconstruct, slices, low, high)

    def spec(name: str, *shape: int) -> tf.TensorSpec:
        return tf.TensorSpec([None, *shape], tf.float32, name=name)

    by_volume = scaling == "volume"
    limits = [spec("low"), spec("high")] if by_volume else []
    raw: Callable[..., dict[str, tf.Tensor]] = raw_by_volume if by_volume else raw_by_slice
    return {
        "serving_default": tf.function(serving, input_signature=[spec("slices", *size, 1)]),
        "raw": tf.function(raw, input_signature=[spec("slices", *size), *limits]),
    }


def _raw(
    reconstruct: Callable[[tf.Tensor], tf.Tensor],
    slices: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Reconstruction and residual of slices in scanner units, of ranges float64 [B, 1, 1]."""
    values = tf.cast(slices, tf.float64)
    unit = tf.cast(reconstruct(scale_to_unit(values, low, high))[..., 0], tf.float64)
    # An empty range has one value only, and that is its reconstruction.
    scanner = low + unit * tf.maximum(high - low, 0.0)
    return {
        "reconstruction": tf.cast(scanner, tf.float32),
        "residual": tf.cast(values - scanner, tf.float32),
    }


def export(
    network: keras.Model,
    folder: pathlib.Path,
    *,
    size: tuple[int, int],
    scaling: str,
    card: ModelCard,
) -> None:
    """Write the SavedModel under another name, then move it to `folder`, replacing what is there.

    The same weights and card give the same bytes, whatever the process has done before, if the
    network's layers have the same names. Beside the SavedModel, in `assets.extra`: the card as
    JSON, with the digest of graph and variables, and as Markdown; requests that warm up TensorFlow
    Serving.

    Args:
      network: with its variables built, in float32, outside any strategy.
      folder: of the SavedModel, its last part a version number as TensorFlow Serving wants it.
      size: (H, W) of the slices.
      scaling: of the dataset, "slice" or "volume".
      card: what `card.make_card` gives.
    """
    # Where folders cannot be renamed, what is copied is better nearby.
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        remote = storage.is_remote(folder)
        partial = (
            pathlib.Path(scratch, "1") if remote else folder.with_name(f".{folder.name}.partial")
        )
        folders.recover(folder)
        storage.remove_tree(partial)
        functions = signatures(network, size, scaling)
        tf.saved_model.save(_Exported(network), str(partial), signatures=functions)
        canonical.make_canonical(partial)
        card = dataclasses.replace(card, digest=model_card.digest(partial))
        written = model_card.write(partial, card)
        written.with_suffix(".md").write_text(cards.markdown(card), encoding="utf-8")
        warmup.write_warmup(partial / warmup.FILE, functions)
        folders.put_in_place(partial, folder, "saved_model.pb")
