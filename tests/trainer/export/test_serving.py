"""The programs of docs/serving.md against a stand-in for TensorFlow Serving.

The stand-in speaks the two interfaces as TensorFlow Serving documents them and answers with the
model's signatures.
"""

import concurrent.futures
import http.server
import json
import pathlib
import re
import shutil
import threading

import grpc
import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
import untrained
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from ixi_tfds.demo.head import brain_mask, make_head
from trainer.export import warmup

ROOT = pathlib.Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/serving.md").read_text()
MODEL = "small_resnet"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / MODEL / "1"
    return tf.saved_model.load(str(untrained.export_untrained(folder, size=(128, 128))))


def call(model, signature, inputs):
    """The outputs of a signature; like the server, it takes all of its inputs and no others."""
    function = model.signatures[signature or "serving_default"]
    specs = function.structured_input_signature[1]
    assert inputs.keys() == specs.keys()
    return function(**{name: tf.constant(inputs[name], specs[name].dtype) for name in specs})


@pytest.fixture
def rest(model):
    """The port of a server that answers as the page "RESTful API" has it, in columns."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == f"/v1/models/{MODEL}:predict"
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert request.keys() <= {"signature_name", "inputs"}
            outputs = call(model, request.get("signature_name"), request["inputs"])
            lists = {name: value.numpy().tolist() for name, value in outputs.items()}
            # A single output goes without its name.
            answer = lists if len(lists) > 1 else next(iter(lists.values()))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"outputs": answer}).encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def grpc_port(model):
    class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            assert request.model_spec.name == MODEL
            inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
            outputs = call(model, request.model_spec.signature_name, inputs)
            protos = {name: tf.make_tensor_proto(value) for name, value in outputs.items()}
            return predict_pb2.PredictResponse(outputs=protos)

    # The server of TensorFlow Serving sets no limit either.
    unlimited = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield port
    server.stop(None)


def programs():
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_programs_get_what_the_model_gives(model, rest, grpc_port):
    raw_rest, unit_rest, raw_grpc, _ = programs()
    for program, signature in (
        (raw_rest, "raw"),
        (unit_rest, "serving_default"),
        (raw_grpc, "raw"),
    ):
        names = {}
        ports = program.replace("localhost:8501", f"localhost:{rest}")
        exec(ports.replace("localhost:8500", f"localhost:{grpc_port}"), names)
        expected = call(model, signature, {"slices": names["slices"]})
        for output, values in expected.items():
            # float32 through JSON and back is the same float32.
            np.testing.assert_array_equal(np.float32(names[output]), values)


def test_the_program_for_whole_brains_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "pretrained", "pretrained")
    grid = {"shape": (64, 64, 48), "zooms": (3.75, 3.75, 3.75)}
    head = make_head("p1", "HH", seed=0, **grid)
    brain = brain_mask("p1", "HH", seed=0, **grid).astype(np.uint8)
    nib.save(head, "head.nii.gz")
    nib.save(nib.Nifti1Image(brain, head.affine), "head_mask.nii.gz")
    names = {}
    exec(programs()[-1], names)
    assert names["mark"].shape == grid["shape"] and not names["mark"][~names["scan"].inside].any()
    assert names["scan"].brain.values.shape == (104, 80, 80) and names["mark"][brain == 1].any()


def test_the_server_batches_to_the_sizes_that_were_warmed_up():
    assert tuple(map(int, re.findall(r"allowed_batch_sizes: (\d+)", PAGE))) == warmup.BATCHES
    assert f"max_batch_size {{ value: {max(warmup.BATCHES)} }}" in PAGE
