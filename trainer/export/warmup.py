"""Requests that TensorFlow Serving runs after it loads a model, before it answers clients.

The file is a TFRecord file; each record is a `tensorflow.serving.PredictionLog`. Its few fields are
encoded here, to avoid a dependency on the package tensorflow-serving-api.
"""

import pathlib
from typing import Any

import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"
"""Path within the model's folder where TensorFlow Serving looks for the requests."""

BATCHES = (1, 8, 32)
"""Numbers of slices in a request; the batch sizes that `docs/serving.md` allows the server."""


def write_warmup(path: pathlib.Path, signatures: dict[str, Any]) -> None:
    """Write one request for each signature and each of `BATCHES`.

    All values are zero: only the shapes matter, and zeros need few bytes. The signatures are
    `tf.function`s with an input signature, by name.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, function in signatures.items():
            for batch in BATCHES:
                inputs = {
                    spec.name: tf.make_tensor_proto(
                        0.0, spec.dtype, [batch if side is None else side for side in spec.shape]
                    )
                    for spec in function.input_signature
                }
                writer.write(_prediction_log(name, inputs))


def _prediction_log(signature: str, inputs: dict[str, Any]) -> bytes:
    """A serialized PredictionLog; the field numbers are those of TensorFlow Serving."""
    request = _field(1, _field(3, signature.encode()))  # model_spec.signature_name
    for name, proto in inputs.items():
        # A map<string, TensorProto> is a repeated pair of key and value.
        pair = _field(1, name.encode()) + _field(2, proto.SerializeToString(deterministic=True))
        request += _field(2, pair)  # inputs
    return _field(6, _field(1, request))  # predict_log.request


def _field(number: int, payload: bytes) -> bytes:
    """A bytes field in protobuf's wire format: key and length as base-128 varints, payload."""
    length, varint = len(payload), b""
    while length >= 128:
        varint += bytes([length % 128 + 128])
        length //= 128
    return bytes([number << 3 | 2]) + varint + bytes([length]) + payload
