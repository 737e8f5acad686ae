"""Exports the trained network as a SavedModel.

It is a plain `tf.Module` with two signatures, so TensorFlow and TensorFlow Serving can load it
without this project's code.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import keras

from ixi_tfds.documents import model_card
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.images.brain import slice_axis
from ixi_tfds.images.scaling import scale_to_unit
from ixi_tfds.images.tissue import HIGHEST
from ixi_tfds.system import folders, storage
from trainer.export import canonical, warmup
from trainer.export import card as cards
from trainer.models import networks

_BATCH = 16


class _Exported(tf.Module):
    """Holds the variables; the signatures are functions that close over the network."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__()
        # Only the variables: Keras objects would also save themselves and their version.
        self.weights = list(network.variables)


def signatures(
    network: keras.Model,
    size: tuple[int, int],
    scaling: str,
    *,
    plane: str | None = None,
    marks: bool = False,
) -> dict[str, Any]:
    """The signatures of the SavedModel, by name.

    `serving_default` takes `slices` float32 [B, H, W, 1] in [0, 1] and returns `reconstruction`,
    grey, of the same shape and clipped to [0, 1].

    `raw` takes `slices` float32 [B, H, W] in scanner units and scales them as the dataset does. It
    returns `reconstruction` and `residual` (slices minus reconstruction), float32 [B, H, W] in
    scanner units. With "slice" scaling the range is from each slice's minimum to its maximum. With
    "volume" scaling the range is given as `low` and `high`, float32 [B], the percentiles of each
    slice's volume.

    A network for brains has `volume` in place of `raw`: see `_of_volumes`.

    Args:
      network: network with its variables built.
      size: (H, W).
      scaling: scaling of the dataset: "slice", "volume" or "tissue".
      plane: plane of the slices of brains.
      marks: whether the network's last channel has logits of damage.
    """

    def reconstruct(slices: tf.Tensor) -> tf.Tensor:
        result = network(slices, training=False)
        return networks.to_grey(result[..., :-1] if marks else result)

    def serving(slices: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"reconstruction": reconstruct(slices)}

    default = tf.function(serving, input_signature=[_spec("slices", *size, 1)])
    if scaling == "tissue":
        whole = _of_volumes(network, size, plane, marks=marks)
        return {"serving_default": default, "volume": whole}
    return {"serving_default": default, "raw": _of_raw_slices(reconstruct, size, scaling)}


def _spec(name: str, *shape: int) -> tf.TensorSpec:
    return tf.TensorSpec([None, *shape], tf.float32, name=name)


def _of_raw_slices(
    reconstruct: Callable[[tf.Tensor], tf.Tensor], size: tuple[int, int], scaling: str
) -> Any:
    """The signature `raw`."""

    def raw_by_slice(slices: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.cast(slices, tf.float64)
        low = tf.reduce_min(values, axis=(1, 2), keepdims=True)
        high = tf.reduce_max(values, axis=(1, 2), keepdims=True)
        return _raw(reconstruct, slices, low, high)

    def raw_by_volume(slices: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> dict[str, tf.Tensor]:
        low, high = (tf.cast(value, tf.float64)[:, None, None] for value in (low, high))
        return _raw(reconstruct, slices, low, high)

    by_volume = scaling == "volume"
    limits = [_spec("low"), _spec("high")] if by_volume else []
    raw: Callable[..., dict[str, tf.Tensor]] = raw_by_volume if by_volume else raw_by_slice
    return tf.function(raw, input_signature=[_spec("slices", *size), *limits])


def _of_volumes(
    network: keras.Model, size: tuple[int, int], plane: str | None, *, marks: bool
) -> Any:
    """The signature `volume` of a network for brains.

    It takes `volume` and `mask`, float32 [posterior, superior, right] on the grid of the model, on
    the scale of `images.tissue` and 1 in the brain. It gives `repaired`, the volume without damage;
    `residual`, volume minus repaired; and of a network with marks `mark`, the probability of
    damage. All have the shape of the volume and are 0 outside the mask.
    """
    axis = slice_axis(plane)
    sides: list[int | None] = [*size]
    sides.insert(axis, None)
    forth = [axis, *(each for each in range(3) if each != axis)]
    back = [forth.index(each) for each in range(3)]

    channels = network(tf.zeros((1, *size, 1)), training=False).shape[-1]

    def of_volume(volume: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
        inside = mask > 0.5

        def there(values: tf.Tensor) -> tf.Tensor:
            return tf.where(inside, tf.transpose(values, back), 0.0)

        slices = tf.transpose(tf.where(inside, volume, 0.0), forth)[..., None] / HIGHEST
        result = _in_batches(network, slices, channels)
        grey = networks.to_grey(result[..., :-1] if marks else result)
        repaired = there(grey[..., 0] * HIGHEST)
        found = {"repaired": repaired, "residual": tf.where(inside, volume - repaired, 0.0)}
        return found | ({"mark": there(tf.sigmoid(result[..., -1]))} if marks else {})

    signature = [tf.TensorSpec(sides, tf.float32, name=name) for name in ("volume", "mask")]
    return tf.function(of_volume, input_signature=signature)


def _in_batches(network: keras.Model, slices: tf.Tensor, channels: int) -> tf.Tensor:
    """The network's result for slices [n, H, W, 1], some at a time: all at 1 mm need gigabytes."""
    n = tf.shape(slices)[0]
    filled = tf.pad(slices, [[0, -n % _BATCH], [0, 0], [0, 0], [0, 0]])
    batches = tf.reshape(filled, (-1, _BATCH, *slices.shape[1:]))
    spec = tf.TensorSpec((_BATCH, *slices.shape[1:-1], channels), tf.float32)

    def run(batch: tf.Tensor) -> tf.Tensor:
        return network(batch, training=False)

    made = tf.map_fn(run, batches, fn_output_signature=spec)
    return tf.reshape(made, (-1, *spec.shape[1:]))[:n]


def _raw(
    reconstruct: Callable[[tf.Tensor], tf.Tensor],
    slices: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Reconstruction and residual in scanner units; `low` and `high` are float64 [B, 1, 1]."""
    values = tf.cast(slices, tf.float64)
    unit = tf.cast(reconstruct(scale_to_unit(values, low, high))[..., 0], tf.float64)
    # In an empty range every slice has one value, which is also its reconstruction.
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
    plane: str | None = None,
    marks: bool = False,
) -> None:
    """Write the SavedModel under a temporary name, then move it to `folder`, replacing an old one.

    The same weights, card and layer names give the same bytes. `assets.extra` in `folder` holds
    the card as Markdown and as JSON with the digest of graph and variables, and the requests that
    warm up TensorFlow Serving.

    Args:
      network: network with its variables built, in float32, outside any strategy.
      folder: folder of the SavedModel; its name is a version number, for TensorFlow Serving.
      size: (H, W) of the slices.
      scaling: scaling of the dataset: "slice", "volume" or "tissue".
      card: result of `card.make_card`.
      plane: plane of the slices of brains.
      marks: whether the network's last channel has logits of damage.
    """
    # A remote store cannot rename folders: the model is written here and copied there.
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        partial = folder.with_name(f".{folder.name}.partial")
        if storage.is_remote(folder):
            partial = pathlib.Path(scratch, "1")
        folders.recover(folder)
        storage.remove_tree(partial)
        functions = signatures(network, size, scaling, plane=plane, marks=marks)
        tf.saved_model.save(_Exported(network), str(partial), signatures=functions)
        canonical.make_canonical(partial)
        card = dataclasses.replace(card, digest=model_card.digest(partial))
        written = model_card.write(partial, card)
        written.with_suffix(".md").write_text(cards.markdown(card), encoding="utf-8")
        warmup.write_warmup(partial / warmup.FILE, functions)
        folders.put_in_place(partial, folder, "saved_model.pb")
